"""A variant of kmsd that `python -m tests.bench.variants` measures beside the unchanged tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Edit = tuple[str, str, str]
"""A file below kmsd/, a text that is there exactly once, and what stands there instead."""


@dataclass(frozen=True)
class Variant:
    """A change of the code, and variables for the daemon."""

    edits: Sequence[Edit] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
