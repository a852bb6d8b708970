"""Format of the trail: chained lines, file names, control lines, and the message that a checkpoint signs. No I/O.

A line is `SEQUENCE HASH RECORD`: a decimal number that counts the writer's lines from 1, 64 hexadecimal digits, and
one JSON object. HASH is SHA-256 over the HASH of the previous line (64 zeros for the first), one blank, and RECORD. So
each line commits to all lines before it, across files. The format is append-only: docs/audit.md publishes it.
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
"""Previous hash of a writer's first line."""
SUFFIX = ".trail"
COPIES = "checkpoints.jsonl"
"""File beside the trail with a copy of every writer's checkpoints. It reveals a tail cut off by mistake or in haste."""
OWN = b'{"kmsd":'
"""Prefix of control lines. No audit record begins with it."""
ABOUT_SIGNING = (b'{"kmsd":"checkpoint"', b'{"kmsd":"unsigned"', b'{"kmsd":"anchor"')
"""Prefixes of control lines that need no checkpoint themselves."""
WRITER = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NAME = re.compile(r"(?P<writer>[a-z][a-z0-9-]{0,31})\.(?P<number>[0-9]{8})\.(?P<day>[0-9]{8})\.trail")
_HASH_LENGTH = 64
_LINE = re.compile(rb"([1-9][0-9]{0,18}) ([0-9a-f]{64}) (\{.*\})", re.DOTALL)


class Malformed(Exception):
    """The input is not a line or a checkpoint of this format."""


class Head(msgspec.Struct, frozen=True):
    """Last line of a chain: its number and hash."""

    sequence: int = 0
    digest: bytes = GENESIS


class TrailNode(msgspec.Struct, frozen=True):
    """Host whose processes write a trail, where several hosts share a database. Empty: there is one host."""

    node_id: str = ""
    name: str = ""


class FileName(msgspec.Struct, frozen=True, order=True):
    """Name of a trail's file, such as `worker-0.00000003.20261122.trail`. Sorts by writer, then by age."""

    writer: str
    number: int
    """Number of the file among the writer's files, from 1."""
    day: date
    """Day (UTC) on which it was started."""

    def __str__(self) -> str:
        return f"{self.writer}.{self.number:08}.{self.day:%Y%m%d}{SUFFIX}"

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """Parse a file name; None if the file is not part of a trail."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            day = datetime.strptime(found["day"], "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            return None
        return cls(found["writer"], int(found["number"]), day)


def files_of(directory: Path) -> dict[str, list[tuple[FileName, Path]]]:
    """Return the trail's files by writer, each writer's in order. Raises OSError."""
    found: dict[str, list[tuple[FileName, Path]]] = {}
    for path in directory.iterdir():
        name = FileName.parse(path.name)
        if name is not None:
            found.setdefault(name.writer, []).append((name, path))
    return {writer: sorted(files) for writer, files in sorted(found.items())}


def digest_of(previous: bytes, record: bytes) -> bytes:
    """Return the HASH of a line."""
    return sha256(b"%b %b" % (previous, record)).hexdigest().encode()


def chained(head: Head, records: list[bytes]) -> tuple[bytes, Head]:
    """Return the lines of `records` after `head`, and the new head."""
    sequence, digest = head.sequence, head.digest
    lines = []
    for record in records:
        sequence += 1
        digest = sha256(b"%b %b" % (digest, record)).hexdigest().encode()
        lines.append(b"%d %b %b\n" % (sequence, digest, record))
    return b"".join(lines), Head(sequence, digest)


def split(line: bytes) -> tuple[Head, bytes]:
    """Split a line (without its newline) into its stated sequence and hash, and the record. Raises `Malformed`."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise Malformed("this is no line of a trail")
    return Head(int(found[1]), found[2]), found[3]


# --- Control lines ------------------------------------------------------------------------------------


def control_line(kind: str, at: datetime, **members: Any) -> bytes:
    """Encode a line about the trail itself. docs/audit.md lists its kinds."""
    return msgspec.json.encode({"kmsd": kind, "at": instant(at), **members})


def control_members(record: bytes) -> dict[str, Any] | None:
    """Return the members of a control line; None for an audit record. Raises `Malformed`."""
    if not record.startswith(OWN):
        return None
    try:
        members = msgspec.json.decode(record, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Malformed("one of the daemon's own lines is not JSON") from exc
    return members


def pinned_key(members: dict[str, Any]) -> bytes | None:
    """Return the DER public key that the first line of a file pins; None if it pins none. Raises `Malformed`."""
    key = members.get("publicKey")
    if key is None:
        return None
    try:
        return canonical_base64.decode(key)
    except (ValueError, TypeError) as exc:
        raise Malformed("the public key is not canonical base64") from exc


def instant(at: datetime) -> str:
    """Format a time as `2026-11-22T06:30:00.123456Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def fingerprint(public_key: bytes) -> str:
    """Return `SHA256:` and the hexadecimal hash of the DER SubjectPublicKeyInfo, for people to compare."""
    return f"SHA256:{sha256(public_key).hexdigest()}"


# --- Checkpoints ------------------------------------------------------------------------------------


class Checkpoint(msgspec.Struct, frozen=True):
    """Signed statement that a line with this hash is in the writer's chain, with all lines that it commits to."""

    writer: str
    sequence: int
    hash: str
    at: str
    signature: str
    """Base64 of the DER ECDSA signature (P-256, SHA-256) over `message`."""
    node: str = ""
    """Id of the node whose chain it is. Not signed: the hash commits to the node, which a file's first line names."""

    @staticmethod
    def message(writer: str, sequence: int, digest: str, at: str) -> bytes:
        """Return the message to sign."""
        return f"kmsd audit checkpoint {FORMAT}\n{writer}\n{sequence}\n{digest}\n{at}\n".encode()

    @property
    def signed(self) -> bytes:
        """Message that the signature must verify against."""
        return self.message(self.writer, self.sequence, self.hash, self.at)

    def signature_bytes(self) -> bytes:
        """Return the DER signature. Raises `Malformed`, also for base64 that is not canonical."""
        try:
            return canonical_base64.decode(self.signature)
        except ValueError as exc:
            raise Malformed("the signature is not canonical base64") from exc

    def line(self) -> bytes:
        """Return the JSON text as it is in the trail, in the copies and in an anchor."""
        return msgspec.json.encode({"kmsd": "checkpoint", **self.members()})

    def members(self) -> dict[str, Any]:
        """Return the members of its line; one host's checkpoints name no node."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value or name != "node"}


def checkpoint_of(members: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint in the members of its line, or of a log event that has them. Raises `Malformed`."""
    wanted = {name: members[name] for name in Checkpoint.__struct_fields__ if name in members}
    try:
        found = msgspec.convert(wanted, Checkpoint)
    except msgspec.ValidationError as exc:
        raise Malformed(f"a checkpoint lacks something: {exc}") from exc
    if len(found.hash) != _HASH_LENGTH or not WRITER.fullmatch(found.writer):
        raise Malformed("a checkpoint is damaged")
    return found
