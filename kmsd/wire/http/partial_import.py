"""How modules of a package are imported without the package's own `__init__`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def modules_of(package: str) -> Iterator[None]:
    """Within the block, import only what is asked for of the package, and what that imports in turn.

    Whoever imports the package itself afterwards gets the whole of it. Nothing is different if somebody has before.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:
        yield
        return
    sys.modules[package] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]
