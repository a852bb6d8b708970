"""Variants of kmsd that `python -m tests.bench.variants` measures beside the unchanged tree.

To add one: a name, and the texts to replace, each `(file below kmsd/, old, new)`. The old text must be there exactly
once; else the benchmark fails before it measures anything. A variant that leaves an optimisation out alone shows what
the optimisation earns.
"""

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


VARIANTS: dict[str, Variant] = {
    "no garbage collection": Variant(
        [("adapters/audit_trail/sink.py", "from __future__ import annotations\n", "import gc\n\ngc.disable()\n")]
    ),
}
