"""Reports of finished runs. The package itself is the function `hat.report(folder, out=None)`."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Lets `hat.report(...)` work although `hat.report` names this package, too."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from hat.report.page import report

        return report(*args, **options)


sys.modules[__name__].__class__ = _Callable
