"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmsd.adapters.journal.lines import Head


@dataclass(frozen=True, slots=True)
class Finding:
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


@dataclass(slots=True)
class Chain:
    """What was found of one writer."""

    writer: str
    files: int = 0
    lines: int = 0
    head: Head = field(default_factory=Head)
    covered: int = 0
    """The last line that a good checkpoint names."""
    covered_at: str = ""
    """When that was signed."""


@dataclass(slots=True)
class Report:
    """The whole verification."""

    chains: list[Chain] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    public_keys: tuple[bytes, ...] = ()
    pinned: bool = False
    """The key is what the trail itself says, not what the caller gave."""

    @property
    def lines(self) -> int:
        """Lines of all chains."""
        return sum(chain.lines for chain in self.chains)
