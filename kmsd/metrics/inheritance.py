"""How workers find the memory that they count in. Apart from the rest, because the parent needs no more of it."""

from __future__ import annotations

import os

VARIABLE = "KMSD_METRICS"
"""Tells workers, through their environment, where the memory is."""
DESCRIPTORS = "/proc/self/fd/"
"""Of the process that looks."""


def inherited() -> tuple[int, ...]:
    """The descriptors that a worker needs for counting, as the environment says."""
    path = os.environ.get(VARIABLE, "")
    return (int(path.removeprefix(DESCRIPTORS)),) if path.startswith(DESCRIPTORS) else ()
