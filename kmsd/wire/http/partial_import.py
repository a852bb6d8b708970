"""Import modules of a package without running the package's own `__init__`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def modules_of(package: str) -> Iterator[None]:
    """Within the block, import only the named modules of the package, and what those import in turn.

    A later import of the package itself loads all of it. Nothing changes if the package is already imported.
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
