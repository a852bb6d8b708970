"""What a verification found."""

from __future__ import annotations

import msgspec

from kmsd.adapters.audit_trail.format import Head


class TrailFinding(msgspec.Struct, frozen=True):
    """Something that must not be."""

    place: str
    """File."""
    line: int
    """In the file, from 1; 0: the file as a whole."""
    sequence: int
    """Of the writer's chain; 0: none."""
    text: str

    def __str__(self) -> str:
        where = f" line {self.line}" if self.line else ""
        number = f" (record {self.sequence})" if self.sequence else ""
        return f"{self.place}{where}{number}: {self.text}"


class Chain(msgspec.Struct):
    """What was found of one writer."""

    writer: str
    files: int = 0
    lines: int = 0
    head: Head = msgspec.field(default_factory=Head)
    covered: int = 0
    """The last line that a good checkpoint names."""
    covered_at: str = ""
    """When that was signed."""


class VerificationReport(msgspec.Struct):
    """The whole verification."""

    chains: list[Chain] = []
    findings: list[TrailFinding] = []
    notes: list[str] = []
    public_keys: tuple[bytes, ...] = ()
    pinned: bool = False
    """The key is what the trail itself says, not what the caller gave."""

    @property
    def lines(self) -> int:
        """Lines of all chains."""
        return sum(chain.lines for chain in self.chains)
