"""Verifies a trail from its files and the public key alone: no token, no PIN, no database.

What can be found: any edited, removed, inserted or reordered line, lines that were written by somebody who could
not sign, missing and swapped files, and a tail cut off before any checkpoint that is still known from the trail
itself, from the copies beside it, or from an anchor kept elsewhere. What cannot: docs/audit.md says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from kmsd.adapters.journal import claims
from kmsd.adapters.journal.claims import Claim, Signatures
from kmsd.adapters.journal.lines import (
    COPIES,
    FORMAT,
    GENESIS,
    OWN,
    FileName,
    Head,
    Malformed,
    digest_of,
    files_of,
    fingerprint,
    own_members,
    split,
)

CHUNK = 8 * 1024 * 1024
SLACK_INTERVALS = 10
"""A chain that went unsigned for so many of its intervals, though it was written to, is a finding."""


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
    head: Head = Head()
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


def verify(
    directory: Path,
    public_keys: Sequence[bytes] = (),
    anchors: Sequence[Path] = (),
    *,
    archived: bool = False,
) -> Report:
    """Verify every chain in `directory`.

    Without `public_keys` the key that the first file pins is believed. `archived`: the oldest files may have been
    moved away. Raises OSError if the files cannot be read, `BadKey` if the pinned key is none.
    """
    report = Report(public_keys=tuple(public_keys))
    # Copies and anchors before the trail: a line is in the trail before its checkpoint is anywhere.
    outside = _outside_claims(directory, anchors, report)
    files = files_of(directory)
    if not public_keys:
        report.public_keys, report.pinned = _pinned_keys(files), True
    signatures = Signatures(report.public_keys)
    for writer, found in files.items():
        known = [claim for claim in outside if claim.checkpoint.writer == writer]
        walk = ChainWalk(writer, found, signatures, report, archived=archived)
        walk.run(known)
        report.chains.append(walk.chain)
    for claim in outside:
        if claim.checkpoint.writer not in files and not archived:
            text = f"a checkpoint names the writer {claim.checkpoint.writer}, but its files are missing"
            report.findings.append(Finding(claim.place, claim.line, 0, text))
    return report


def _outside_claims(directory: Path, anchors: Sequence[Path], report: Report) -> list[Claim]:
    found: list[Claim] = []
    copies = directory / COPIES
    if not copies.exists():
        report.notes.append(f"{COPIES} is not there: a tail that was cut off shows only against an anchor")
    for path, strict in ((copies, True), *((anchor, False) for anchor in anchors)):
        if path == copies and not copies.exists():
            continue
        before = len(found)
        for item in claims.in_lines(path, strict=strict):
            if isinstance(item, Claim):
                found.append(item)
            else:
                report.findings.append(Finding(path.name, item[0], 0, item[1]))
        if not strict and len(found) == before:
            report.findings.append(Finding(str(path), 0, 0, "this anchor holds no checkpoint"))
    return found


def _pinned_keys(files: dict[str, list[tuple[FileName, Path]]]) -> tuple[bytes, ...]:
    """The key that the oldest file with a key pins."""
    oldest = sorted((name.day, name.number, name.writer, path) for found in files.values() for name, path in found)
    for _, _, _, path in oldest:
        with path.open("rb") as file:
            opening = _opening(file.readline(65536))
        key = None if opening is None else opening.get("publicKey")
        if isinstance(key, str):
            return (claims.public_key_of(msgspec.convert(key, bytes)),)
    return ()


def _opening(line: bytes) -> dict[str, Any] | None:
    """The members of a file's first line."""
    try:
        members = own_members(split(line.rstrip(b"\n"))[1])
    except Malformed:
        return None
    return members if members is not None and members.get("kmsd") == "open" else None


def lines_of(path: Path) -> Iterator[tuple[list[bytes], bytes]]:
    """The lines of a file in large lists, and, with the last list, what follows the last newline. Raises OSError."""
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            yield lines, b""
    yield [], rest


class ChainWalk:
    """One writer's chain, from its first file to its last."""

    def __init__(
        self,
        writer: str,
        files: Sequence[tuple[FileName, Path]],
        signatures: Signatures,
        report: Report,
        *,
        archived: bool,
    ) -> None:
        self.chain = Chain(writer)
        self._files = files
        self._signatures = signatures
        self._report = report
        self._archived = archived
        self._name: FileName | None = None
        self._line = 0
        self._digest = GENESIS
        self._sequence = 0
        self._lost = False
        """The line before cannot be read: the next one is believed."""
        self._wanted: dict[int, list[Claim]] = {}
        self._pinned = False
        self._limit = (1000, 60.0)
        """How often the chain was to be signed."""
        self._first_unsigned: bytes | None = None
        self._last = b""

    def run(self, outside: Iterable[Claim]) -> None:
        """Walk it."""
        trail = [claim for _, path in self._files for claim in claims.in_trail(path)]
        self._want([*trail, *outside])
        for name, path in self._files:
            self._enter(name)
            for lines, rest in lines_of(path):
                self._walk(lines)
                if rest:
                    self._finding("the last line has no end: a crash tore it, or something was cut off")
            self.chain.files += 1
        self.chain.lines = self._sequence
        self.chain.head = Head(self._sequence, self._digest)
        self._check_end()

    def _want(self, found: Iterable[Claim]) -> None:
        """Sort claims by the line that they name; those that nobody signed are findings."""
        for claim in found:
            checkpoint = claim.checkpoint
            if checkpoint.writer != self.chain.writer:
                self._complain(claim, f"this checkpoint is of the writer {checkpoint.writer}")
            elif not self._signatures.holds(checkpoint):
                self._complain(claim, "the signature of this checkpoint does not hold under the audit key")
            elif claim.at_sequence and claim.at_sequence <= checkpoint.sequence:
                self._complain(claim, "this checkpoint names a line that comes after it")
            else:
                self._wanted.setdefault(checkpoint.sequence, []).append(claim)

    def _complain(self, claim: Claim, text: str) -> None:
        self._report.findings.append(Finding(claim.place, claim.line, claim.at_sequence, text))

    def _finding(self, text: str, sequence: int = 0) -> None:
        self._report.findings.append(Finding(str(self._name), self._line, sequence, text))

    # --- Files --------------------------------------------------------------------------------------

    def _enter(self, name: FileName) -> None:
        before, self._name, self._line = self._name, name, 0
        if before is None and name.number > 1:
            if not self._archived:
                self._finding(f"the files 1 to {name.number - 1} of this writer are missing (moved away: --archived)")
        elif before is not None and name.number != before.number + 1:
            missing = name.number - before.number - 1
            self._finding(
                f"{missing} files before this one are missing" if missing > 0 else "there are two files of this number"
            )

    def _check_opening(self, record: bytes) -> None:
        """The first line of a file: what it pins must fit its name, the chain so far, and the key."""
        name, members = self._name, _opening(b"1 " + GENESIS + b" " + record)
        if members is None or name is None:
            self._finding("the first line of a file must say what it is", self._sequence)
            return
        previous = (members.get("previousSequence"), members.get("previousHash"))
        for holds, text in (
            (members.get("format") == FORMAT, f"format {members.get('format')} is not known here"),
            (members.get("writer") == name.writer, f"this is a file of the writer {members.get('writer')}"),
            (members.get("number") == name.number, f"this is file {members.get('number')} of its writer"),
            (str(members.get("at"))[:10] == f"{name.day}", f"this file was begun on {str(members.get('at'))[:10]}"),
            (isinstance(previous[0], int) and isinstance(previous[1], str), "it does not say what it follows"),
        ):
            if not holds:
                self._finding(text, self._sequence)
        self._check_key(members.get("publicKey"))
        lines, seconds = members.get("checkpointLines"), members.get("checkpointSeconds")
        if isinstance(lines, int) and isinstance(seconds, int | float):
            self._limit = (lines, float(seconds))

    def _check_key(self, key: object) -> None:
        if key is None:
            if self._pinned:
                self._finding("this file pins no key, though an earlier one did", self._sequence)
            return
        self._pinned = True
        try:
            public_key = msgspec.convert(key, bytes)
        except msgspec.ValidationError:
            public_key = b""
        if public_key not in self._report.public_keys:
            self._finding(f"this file pins another key: {fingerprint(public_key)}", self._sequence)

    def _follow_opening(self, record: bytes) -> None:
        """Where files are missing, the first line of the next says where it goes on."""
        members = _opening(b"1 " + GENESIS + b" " + record)
        if members is None:
            return
        sequence, digest = members.get("previousSequence"), members.get("previousHash")
        if isinstance(sequence, int) and isinstance(digest, str) and sequence > self._sequence:
            self._sequence, self._digest = sequence, digest.encode()

    # --- Lines --------------------------------------------------------------------------------------

    def _walk(self, lines: list[bytes]) -> None:
        """The loop that a million lines go through: nothing in it that a good line does not need."""
        if not lines:
            return
        at = 0
        if self._line == 0:
            self._first_line(lines[0])
            at = 1
        sequence, digest, wanted = self._sequence, self._digest, self._wanted
        for index in range(at, len(lines)):
            line = lines[index]
            sequence += 1
            found = line.split(b" ", 2)
            if (
                len(found) == 3  # noqa: PLR2004 (the parts of a line)
                and found[0] == b"%d" % sequence
                and found[1] == (digest := sha256(b"%b %b" % (digest, found[2])).hexdigest().encode())
                and not (self._lost or found[2].startswith(OWN))
                and sequence not in wanted
            ):
                continue
            # All else, one line at a time.
            self._line += index - at + 1
            at = index + 1
            before = lines[index - 1] if index else self._last
            self._step(line, sequence - 1, before)
            sequence, digest = self._sequence, self._digest
        self._line += len(lines) - at
        self._sequence, self._digest, self._last = sequence, digest, lines[-1]

    def _first_line(self, line: bytes) -> None:
        self._line = 1
        try:
            _, record = split(line)
        except Malformed:
            record = b""
        if self._name is not None and (self._sequence == 0 or self._gap()):
            self._follow_opening(record)
        self._step(line, self._sequence, self._last, first=True)
        self._last = line

    def _gap(self) -> bool:
        """Whether the file before this one is missing."""
        numbers = [name.number for name, _ in self._files]
        return self._name is not None and self._name.number - 1 not in numbers

    def _step(self, line: bytes, sequence: int, before: bytes, *, first: bool = False) -> None:
        """One line after line `sequence`, looked at closely. The state goes on with what stands there."""
        expected = sequence + 1
        previous = self._printed(before, sequence)
        try:
            printed, record = split(line)
        except Malformed as exc:
            self._finding(f"{exc}: it was edited", expected)
            self._sequence, self._lost = expected, True
            return
        if self._lost and not first:
            self._lost = False
            digest = printed.digest
        else:
            digest = digest_of(previous, record)
        self._judge(printed, expected, digest)
        self._sequence, self._digest = printed.sequence, printed.digest
        if first:
            self._check_opening(record)
        elif record.startswith(OWN):
            self._check_own(record)
        for claim in self._wanted.pop(printed.sequence, ()):
            self._check_claim(claim, printed.digest)
