"""Searching for architectures: strategies, the runner around them, finalists. `hat.search(...)` runs one."""

from hat import _callable_package

_callable_package(__name__)
