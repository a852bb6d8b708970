"""Result of the verification of a trail."""

from __future__ import annotations

import msgspec

from kmsd.adapters.audit_trail.format import Head


class TrailFinding(msgspec.Struct, frozen=True):
    """One violation of the trail's rules."""

    place: str
    """Name of the file."""
    line: int
    """Line number in the file, from 1; 0: the file as a whole."""
    sequence: int
    """Record number in the writer's chain; 0: none."""
    text: str

    def __str__(self) -> str:
        where = f" line {self.line}" if self.line else ""
        number = f" (record {self.sequence})" if self.sequence else ""
        return f"{self.place}{where}{number}: {self.text}"


class Chain(msgspec.Struct):
    """Result for one writer's chain."""

    writer: str
    files: int = 0
    lines: int = 0
    head: Head = msgspec.field(default_factory=Head)
    covered: int = 0
    """Last line that a valid checkpoint names."""
    covered_at: str = ""
    """Time of that checkpoint."""


class VerificationReport(msgspec.Struct):
    """Result for the whole trail."""

    chains: list[Chain] = []
    findings: list[TrailFinding] = []
    notes: list[str] = []
    public_keys: tuple[bytes, ...] = ()
    pinned: bool = False
    """True if the key comes from the trail itself, not from the caller."""

    @property
    def lines(self) -> int:
        """Number of lines in all chains."""
        return sum(chain.lines for chain in self.chains)
