"""Daemons whose token can be bent while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, provisioned
from tests.support.shim import Shim, bent
from tests.support.tokens import TokenPlace


@contextmanager
def bent_daemon(
    folder: Path, *, prepare: Callable[[Shim], None] = lambda _: None, **options: Any
) -> Iterator[tuple[Daemon, Shim]]:
    """As `provisioned`, and what bends its token; `prepare` bends it before `kmsd init`."""
    shims: list[Shim] = []

    def reach(place: TokenPlace) -> TokenPlace:
        found, shim = bent(place, folder)
        shims.append(shim)
        prepare(shim)
        return found

    with provisioned(folder, reach=reach, **options) as daemon:
        try:
            yield daemon, shims[0]
        finally:
            shims[0].reset()
