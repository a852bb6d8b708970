"""The form of the trail: chained lines, file names, the daemon's own lines, and what a checkpoint signs. No I/O.

A line is `SEQUENCE HASH RECORD`: a decimal number that counts the writer's lines from 1, 64 hexadecimal digits, and
one JSON object. HASH is SHA-256 over the HASH of the line before (64 zeros before the first), one blank, and RECORD;
so each line commits to all before it, across files. The format is append-only: docs/audit.md publishes it.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from kmsd.domain import canonical_base64

FORMAT = 1
GENESIS = b"0" * 64
"""What the first line of a writer commits to."""
SUFFIX = ".trail"
COPIES = "checkpoints.jsonl"
"""A second copy of every checkpoint, of all writers, beside the trail: a tail cut off by mistake or in haste shows."""
OWN = b'{"kmsd":'
"""How the daemon's own lines begin; no audit record does."""
WRITER = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NAME = re.compile(r"(?P<writer>[a-z][a-z0-9-]{0,31})\.(?P<number>[0-9]{8})\.(?P<day>[0-9]{8})\.trail")
_HASH_LENGTH = 64
_LINE = re.compile(rb"([1-9][0-9]{0,18}) ([0-9a-f]{64}) (\{.*\})", re.DOTALL)


class Malformed(Exception):
    """Not a line, or not a checkpoint, of this format."""


class Head(msgspec.Struct, frozen=True):
    """Where a chain stands: its last line."""

    sequence: int = 0
    digest: bytes = GENESIS


class FileName(msgspec.Struct, frozen=True, order=True):
    """`worker-0.00000003.20261122.trail`: sorts by writer, then by age."""

    writer: str
    number: int
    """Counts the writer's files from 1."""
    day: date
    """UTC; on which it was begun."""

    def __str__(self) -> str:
        return f"{self.writer}.{self.number:08}.{self.day:%Y%m%d}{SUFFIX}"

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """None: the file is not part of a trail."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            day = datetime.strptime(found["day"], "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            return None
        return cls(found["writer"], int(found["number"]), day)


def files_of(directory: Path) -> dict[str, list[tuple[FileName, Path]]]:
    """The trail's files by writer, each writer's in order. Raises OSError."""
    found: dict[str, list[tuple[FileName, Path]]] = {}
    for path in directory.iterdir():
        name = FileName.parse(path.name)
        if name is not None:
            found.setdefault(name.writer, []).append((name, path))
    return {writer: sorted(files) for writer, files in sorted(found.items())}


def digest_of(previous: bytes, record: bytes) -> bytes:
    """The HASH of a line."""
    return sha256(b"%b %b" % (previous, record)).hexdigest().encode()


def chained(head: Head, records: list[bytes]) -> tuple[bytes, Head]:
    """The lines of `records` after `head`, and the new head."""
    sequence, digest = head.sequence, head.digest
    lines = []
    for record in records:
        sequence += 1
        digest = sha256(b"%b %b" % (digest, record)).hexdigest().encode()
        lines.append(b"%d %b %b\n" % (sequence, digest, record))
    return b"".join(lines), Head(sequence, digest)


def split(line: bytes) -> tuple[Head, bytes]:
    """Sequence and hash of a line (without its newline) as they stand there, and the record. Raises `Malformed`."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise Malformed("this is no line of a trail")
    return Head(int(found[1]), found[2]), found[3]


# --- The daemon's own lines ---------------------------------------------------------------------------


def control_line(kind: str, at: datetime, **members: Any) -> bytes:
    """A line about the trail itself: `open`, `start`, `checkpoint`, `unsigned`, `recovered`, `stop`."""
    return msgspec.json.encode({"kmsd": kind, "at": instant(at), **members})


def control_members(record: bytes) -> dict[str, Any] | None:
    """The members of one of the daemon's own lines; None for an audit record. Raises `Malformed`."""
    if not record.startswith(OWN):
        return None
    try:
        members = msgspec.json.decode(record, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Malformed("one of the daemon's own lines is not JSON") from exc
    return members


def pinned_key(members: dict[str, Any]) -> bytes | None:
    """The DER public key that the first line of a file pins; None if it pins none. Raises `Malformed`."""
    key = members.get("publicKey")
    if key is None:
        return None
    try:
        return canonical_base64.decode(key)
    except (ValueError, TypeError) as exc:
        raise Malformed("the public key is not canonical base64") from exc


def instant(at: datetime) -> str:
    """`2026-11-22T06:30:00.123456Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def fingerprint(public_key: bytes) -> str:
    """How people compare public keys: `SHA256:` and the hexadecimal hash of the DER SubjectPublicKeyInfo."""
    return f"SHA256:{sha256(public_key).hexdigest()}"


# --- Checkpoints ------------------------------------------------------------------------------------


class Checkpoint(msgspec.Struct, frozen=True):
    """A signed statement: this line, with this hash, is in this writer's chain, and so is all that it commits to."""

    writer: str
    sequence: int
    hash: str
    at: str
    signature: str
    """Base64 of the DER ECDSA signature (P-256, SHA-256) over `message`."""

    @staticmethod
    def message(writer: str, sequence: int, digest: str, at: str) -> bytes:
        """What is signed."""
        return f"kmsd audit checkpoint {FORMAT}\n{writer}\n{sequence}\n{digest}\n{at}\n".encode()

    @property
    def signed(self) -> bytes:
        """What its signature must fit."""
        return self.message(self.writer, self.sequence, self.hash, self.at)

    def signature_bytes(self) -> bytes:
        """DER. Raises `Malformed`, also for base64 that says the same in other letters."""
        try:
            return canonical_base64.decode(self.signature)
        except ValueError as exc:
            raise Malformed("the signature is not canonical base64") from exc

    def line(self) -> bytes:
        """As it stands in the trail, in the copies and in an anchor."""
        return msgspec.json.encode({"kmsd": "checkpoint", **msgspec.structs.asdict(self)})


def checkpoint_of(members: dict[str, Any]) -> Checkpoint:
    """A checkpoint from the members of its line, or of a log event that holds them. Raises `Malformed`."""
    wanted = {name: members.get(name) for name in Checkpoint.__struct_fields__}
    try:
        found = msgspec.convert(wanted, Checkpoint)
    except msgspec.ValidationError as exc:
        raise Malformed(f"a checkpoint lacks something: {exc}") from exc
    if len(found.hash) != _HASH_LENGTH or not WRITER.fullmatch(found.writer):
        raise Malformed("a checkpoint is damaged")
    return found
