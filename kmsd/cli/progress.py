"""Progress of long work on a terminal: how much is done, how fast, and how long the rest takes. Silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], object]
"""Called with the number of units that were done since the last call, from any one thread at a time."""


@contextmanager
def shown(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show progress on standard error during the block, if that is a terminal; nothing of it stays there.

    `total` may be an estimate; None: unknown, then no remaining time is shown. The unit `B` is shown in KiB, MiB, …
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm  # noqa: PLC0415 (only commands at a terminal need it)

    spaced = unit if unit == "B" else f" {unit}"
    with tqdm(
        total=total, desc=what, unit=spaced, unit_scale=unit == "B", unit_divisor=1024, leave=False, file=sys.stderr
    ) as bar:
        yield bar.update
