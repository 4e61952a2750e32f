"""The search for architectures. The package itself is the function `hat.search(...)` of hat/search/run.py."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Lets `hat.search(...)` work although `hat.search` names this package, too."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from hat.search.run import search

        return search(*args, **options)


sys.modules[__name__].__class__ = _Callable
