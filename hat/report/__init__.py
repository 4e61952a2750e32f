"""The page about a run. `hat.report(folder)` writes it."""

from hat import _callable_package

_callable_package(__name__)
