"""Verification of one writer's chain, from its first file to its last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from kmsd.adapters.audit_trail import checkpoint_evidence
from kmsd.adapters.audit_trail.checkpoint_evidence import CheckpointEvidence, Signatures
from kmsd.adapters.audit_trail.format import (
    ABOUT_SIGNING,
    FORMAT,
    GENESIS,
    OWN,
    FileName,
    Head,
    Malformed,
    control_members,
    digest_of,
    fingerprint,
    pinned_key,
    split,
)
from kmsd.adapters.audit_trail.verification_report import Chain, TrailFinding, VerificationReport

UNSIGNED = "the signature of this checkpoint does not hold under the audit key"
CHUNK = 8 * 1024 * 1024
SLACK = 10
"""Checkpoint intervals without a signature after which unsigned lines are a finding."""
_PARTS = 3


def opening(line: bytes) -> dict[str, Any] | None:
    """Return the members of a file's first line; None if it is not a valid `open` line."""
    try:
        members = control_members(split(line)[1])
    except Malformed:
        return None
    return members if members is not None and members.get("kmsd") == "open" else None


def lines_of(path: Path, advance: Callable[[int], object] = lambda _: None) -> Iterator[tuple[list[bytes], bytes]]:
    """Yield a file's lines in large lists; with the last list, the bytes after the last newline. Raises OSError.

    `advance` is called with the number of bytes read.
    """
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            advance(len(chunk))
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            yield lines, b""
    yield [], rest


class ChainVerifier:
    """Verifier of one chain. Each mismatch becomes a finding, and the walk continues from the values in the file."""

    def __init__(
        self,
        writer: str,
        files: Sequence[tuple[FileName, Path]],
        signatures: Signatures,
        report: VerificationReport,
        *,
        archived: bool,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._chain = Chain(writer)
        self._files = files
        self._signatures = signatures
        self._report = report
        self._archived, self._advance = archived, advance
        self._name = files[0][0]
        self._line = 0
        """Lines of this file walked so far."""
        self._head = Head()
        self._lost = False
        """True if the previous line is unreadable: the next line's number and hash are then accepted."""
        self._start = 0
        """Number of the line before the first one present."""
        self._wanted: dict[int, list[CheckpointEvidence]] = {}
        """Checkpoints by the number of the line that they name."""
        self._pins_key = False
        self._limit = (1000, 60.0)
        """Required signing interval of the chain: lines, seconds."""
        self._unsigned: bytes | None = None
        """First record that no checkpoint covers, so far."""
        self._last = b""

    def run(self, outside: Iterable[CheckpointEvidence]) -> Chain:
        """Verify the whole chain against its own checkpoints and those from `outside`."""
        self._want(claim for _, path in self._files for claim in checkpoint_evidence.in_trail(path))
        self._want(outside)
        previous: FileName | None = None
        for name, path in self._files:
            self._start_file(name, previous)
            for lines, rest in lines_of(path, self._advance):
                self._walk(lines)
                if rest:
                    self._finding("the last line has no end: a crash tore it, or something was cut off")
            if self._line == 0:
                self._finding("this file is empty")
            previous = name
        self._chain.files, self._chain.lines = len(self._files), self._head.sequence - self._start
        self._chain.head = self._head
        self._check_end()
        return self._chain

    def _want(self, found: Iterable[CheckpointEvidence]) -> None:
        """Sort checkpoints by the line that they name; invalid ones become findings."""
        for claim in found:
            checkpoint, where = claim.checkpoint, (claim.place, claim.line, claim.at_sequence)
            if checkpoint.writer != self._chain.writer:
                text = f"this checkpoint is of the writer {checkpoint.writer}"
                self._report.findings.append(TrailFinding(*where, text))
            elif not self._signatures.holds(checkpoint):
                self._report.findings.append(TrailFinding(*where, UNSIGNED))
            elif claim.at_sequence and claim.at_sequence <= checkpoint.sequence:
                self._report.findings.append(TrailFinding(*where, "this checkpoint names a line that comes after it"))
            else:
                self._wanted.setdefault(checkpoint.sequence, []).append(claim)

    def _finding(self, text: str, sequence: int = 0) -> None:
        self._report.findings.append(TrailFinding(str(self._name), self._line, sequence, text))

    # --- Files --------------------------------------------------------------------------------------

    def _start_file(self, name: FileName, previous: FileName | None) -> None:
        self._name, self._line = name, 0
        missing = name.number - 1 - (0 if previous is None else previous.number)
        if missing < 0:
            self._finding("there are two files of this number")
        elif missing and (previous is not None or not self._archived):
            self._finding(f"{missing} of this writer's files, before this one, are missing")
        if missing > 0:
            self._lost = True

    def _open(self, line: bytes) -> None:
        """Check that the first line of a file matches its name, the chain so far, and the key."""
        members, name = opening(line), self._name
        if members is None:
            self._finding("the first line of a file must say what it is", self._head.sequence + 1)
            return
        sequence, digest = members.get("previousSequence"), members.get("previousHash")
        if self._lost and isinstance(sequence, int) and isinstance(digest, str):
            # Files are missing before this one: take the position in the chain from its first line.
            if self._head.sequence == 0:
                self._start = sequence
            self._head, self._lost = Head(sequence, digest.encode()), False
        day = str(members.get("at"))[:10]
        for holds, text in (
            (members.get("format") == FORMAT, f"format {members.get('format')} is not known here"),
            (members.get("writer") == name.writer, f"this is a file of the writer {members.get('writer')}"),
            (members.get("number") == name.number, f"this is file {members.get('number')} of its writer"),
            (day == f"{name.day}", f"this file was begun on {day}"),
            (sequence == self._head.sequence, f"it follows record {sequence}, not {self._head.sequence}"),
            (digest == self._head.digest.decode(), "it does not follow the line that stands before it"),
        ):
            if not holds:
                self._finding(text, self._head.sequence + 1)
        self._check_key(members)
        lines, seconds = members.get("checkpointLines"), members.get("checkpointSeconds")
        if isinstance(lines, int) and isinstance(seconds, int | float):
            self._limit = (lines, float(seconds))

    def _check_key(self, members: dict[str, Any]) -> None:
        try:
            public_key = pinned_key(members)
        except Malformed:
            public_key = b""
        if public_key is None:
            if self._pins_key:
                self._finding("this file pins no key, though an earlier one did", self._head.sequence + 1)
            return
        self._pins_key = True
        if public_key not in self._report.public_keys:
            self._finding(f"this file pins another key: {fingerprint(public_key)}", self._head.sequence + 1)

    # --- Lines --------------------------------------------------------------------------------------

    def _walk(self, lines: list[bytes]) -> None:
        at = 0
        while at < len(lines):
            if self._line == 0:
                self._line = 1
                self._open(lines[at])
                self._step(lines[at], first=True)
                at += 1
            else:
                at = self._run(lines, at)
                if at < len(lines):
                    self._line += 1
                    self._step(lines[at])
                    at += 1
        if lines:
            self._last = lines[-1]

    def _run(self, lines: list[bytes], at: int) -> int:
        """Verify lines as long as each is ordinary and correct: the fast path for millions of lines.

        Return the index of the first line that `_step` must examine.
        """
        if self._lost:
            return at
        sequence, digest, wanted = self._head.sequence, self._head.digest, self._wanted
        start = at
        for line in lines[at:] if at else lines:
            parts = line.split(b" ", 2)
            if len(parts) != _PARTS or parts[0] != b"%d" % (sequence + 1):
                break
            record = parts[2]
            found = sha256(b"%b %b" % (digest, record)).hexdigest().encode()
            if found != parts[1] or record.startswith(OWN) or sequence + 1 in wanted:
                break
            sequence += 1
            digest = found
            at += 1
        self._line += at - start
        self._head = Head(sequence, digest)
        return at

    def _step(self, line: bytes, *, first: bool = False) -> None:
        """Examine one line. Continue from the values in it, so that one fault is one finding."""
        expected = self._head.sequence + 1
        try:
            printed, record = split(line)
        except Malformed:
            self._finding("this is no line of a trail: it was damaged or edited", expected)
            self._head, self._lost = Head(expected, GENESIS), True
            return
        fits = self._lost or printed.digest == digest_of(self._head.digest, record)
        self._check(printed.sequence, expected, fits=fits)
        self._head, self._lost = printed, False
        if record.startswith(OWN) and not first:
            self._check_own(record)
        self._check_evidence(record)

    def _check(self, number: int, expected: int, *, fits: bool) -> None:
        if number > expected:
            self._finding(f"{number - expected} lines before this one are missing", number)
        elif number < expected:
            self._finding(f"this line is out of order, or inserted: number {expected} belongs here", number)
        elif not fits:
            self._finding("this line was edited, or the one before it: its hash does not fit", number)

    def _check_own(self, record: bytes) -> None:
        try:
            members = control_members(record) or {}
        except Malformed as exc:
            self._finding(f"{exc}", self._head.sequence)
            return
        if members.get("writer") != self._chain.writer:
            self._finding(f"this line is of the writer {members.get('writer')}", self._head.sequence)
        if members.get("kmsd") == "restored":
            self._note_restoration(members)
        if members.get("kmsd") == "open":
            self._finding("the first line of a file stands within one", self._head.sequence)

    def _note_restoration(self, members: dict[str, Any]) -> None:
        """Add a note, not a finding: the chain is intact, but its lines after the backup may be lost with the host."""
        text = (
            f"{self._chain.writer}: this chain was restored from a backup of {members.get('snapshotAt')} at "
            f"{members.get('at')} (record {self._head.sequence})"
        )
        if members.get("lost"):
            text += "; what it recorded between the two is not here, and checkpoints of that time do not fit it"
        self._report.notes.append(text)

    def _check_evidence(self, record: bytes) -> None:
        """Check that the line is the one that was signed, and track the first line that is not covered."""
        sequence = self._head.sequence
        for claim in self._wanted.pop(sequence, ()):
            if claim.checkpoint.hash.encode() == self._head.digest:
                self._chain.covered, self._chain.covered_at = sequence, claim.checkpoint.at
                self._unsigned = None
            else:
                self._finding(
                    f"this is not the line that was signed at {claim.checkpoint.at}: what stands between record "
                    f"{self._chain.covered} and this one was rewritten",
                    sequence,
                )
        if self._unsigned is None:
            if sequence > self._chain.covered and not record.startswith(ABOUT_SIGNING):
                self._unsigned = record
            else:
                self._wanted.setdefault(sequence + 1, [])

    # --- The end ------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        """Check for a tail that was cut off, and for one that is not signed."""
        end = self._head.sequence
        beyond = [claim for number, found in self._wanted.items() if number > end for claim in found]
        if beyond:
            last = max(beyond, key=lambda claim: claim.checkpoint.sequence).checkpoint
            self._finding(
                f"the trail ends at record {end}, but record {last.sequence} was signed at {last.at}: "
                "the tail was cut off"
            )
        for number, found in self._wanted.items():
            if found and self._start < number <= end:
                self._finding(f"record {number}, which was signed at {found[0].checkpoint.at}, is missing", number)
        if not self._chain.covered:
            self._finding("nothing in this chain is signed")
        elif self._unsigned is not None:
            self._check_unsigned(self._unsigned, end - self._chain.covered)

    def _check_unsigned(self, first: bytes, count: int) -> None:
        lines, seconds = self._limit
        try:
            waited = _time_of(split(self._last)[1]) - _time_of(first)
        except (Malformed, msgspec.DecodeError, ValueError):
            waited = timedelta(0)
        text = f"the last {count} lines, from record {self._chain.covered + 1} on, are not signed"
        if count > SLACK * lines or waited > SLACK * timedelta(seconds=seconds):
            self._finding(f"{text}, though {self._chain.writer} was to sign every {lines} lines or {seconds:g} seconds")
        else:
            self._report.notes.append(f"{self._chain.writer}: {text} yet")


def _time_of(record: bytes) -> datetime:
    members = msgspec.json.decode(record, type=dict[str, Any])
    return datetime.fromisoformat(str(members.get("eventTime") or members.get("at")))
