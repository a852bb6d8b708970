"""Comparison of a backup's trail with the one on this host: which is longer, and what it records in addition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from kmsd.adapters.audit_trail import format as lines
from kmsd.adapters.audit_trail import records
from kmsd.adapters.audit_trail.chain_verifier import opening
from kmsd.adapters.audit_trail.format import FileName, Malformed, control_members, files_of

CHUNK = 1024 * 1024
MAX_OPENING_BYTES = 65536
"""Bytes: longer than the first line of any file of a trail."""
SLACK = timedelta(minutes=10)
"""Margin before the snapshot. A record is written before its commit, so the snapshot may lack an earlier action."""
CHANGES = b'"readOnly":false'
"""Text in the record of every action that changes something. Other records need not be decoded."""
REVOKING_EVENTS = frozenset(
    {
        "DeleteAccessKey",
        "DeleteAlias",
        "DeleteExpiredKeyMaterial",
        "DeleteGroupPolicy",
        "DeleteImportedKeyMaterial",
        "DeleteKey",
        "DeleteLogGroup",
        "DeleteLogStream",
        "DeleteRole",
        "DeleteUser",
        "DeleteUserPolicy",
        "DisableKey",
        "PutKeyPolicy",
        "PutRetentionPolicy",
        "PutRolePolicy",
        "PutUserPolicy",
        "RetireGrant",
        "RevokeGrant",
        "ScheduleKeyDeletion",
        "UpdateAccessKey",
        "UpdateAssumeRolePolicy",
    }
)
"""Actions that revoke something, or may do so: an older database restores it."""


def pinned_key(directory: Path) -> bytes | None:
    """Return the audit key that the newest file of a trail pins; None if no file pins one. Raises OSError."""
    newest: tuple[str, bytes | None] = ("", None)
    for found in files_of(directory).values():
        for _, path in found:
            with path.open("rb") as file:
                members = opening(file.readline(MAX_OPENING_BYTES).rstrip(b"\n"))
            try:
                key = None if members is None else lines.pinned_key(members)
            except Malformed:
                continue
            if members is not None and key is not None:
                newest = max(newest, (str(members.get("at")), key))
    return newest[1]


class Relation(Enum):
    """Relation of the trail on this host to the one in the backup."""

    ABSENT = "absent"
    CONTINUES = "continues"
    """The same trail, and possibly longer."""
    OTHER = "other"


class TrailComparison(msgspec.Struct, frozen=True):
    """Result of a comparison."""

    relation: Relation
    goes_further: bool = False
    """True if it has records from after the backup, and no restore since then has lost any."""


def compare(restored: Path, present: Path) -> TrailComparison:
    """Compare the trail of a backup with the one at `present`. Raises OSError."""
    ours, theirs = files_of(restored), files_of(present) if present.exists() else {}
    if not theirs:
        return TrailComparison(Relation.ABSENT)
    further, lost = False, False
    for writer, found in ours.items():
        there = dict(theirs.get(writer, ()))
        oldest = min(there, default=None)
        for name, path in found:
            if name not in there:
                # The oldest files may have been archived since.
                if oldest is None or name > oldest:
                    return TrailComparison(Relation.OTHER)
            elif not _begins_with(there[name], path):
                return TrailComparison(Relation.OTHER)
    for writer, found in theirs.items():
        known = dict(ours.get(writer, ()))
        for name, path in found:
            start = known[name].stat().st_size if name in known else 0
            if name in known or name > max(known, default=_before(name)):
                more, rolled_back = _what_follows(path, start)
                further, lost = further or more, lost or rolled_back
    return TrailComparison(Relation.CONTINUES, further and not lost)


def _before(name: FileName) -> FileName:
    return FileName(name.writer, 0, name.day)


def _begins_with(longer: Path, shorter: Path) -> bool:
    with longer.open("rb") as one, shorter.open("rb") as other:
        while expected := other.read(CHUNK):
            if one.read(len(expected)) != expected:
                return False
    return True


def _what_follows(path: Path, start: int) -> tuple[bool, bool]:
    """Search a file from byte `start`: (True if it has audit records, True if it reports a restore with loss)."""
    more = lost = False
    with path.open("rb") as file:
        file.seek(start)
        for record in _records(file):
            try:
                own = control_members(record)
            except Malformed:
                continue
            more = more or own is None
            lost = lost or (own is not None and own.get("kmsd") == "restored" and own.get("lost") is True)
    return more, lost


def _records(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        yield line.rstrip(b"\n").partition(b" ")[2].partition(b" ")[2]


# --- Additional records of the longer trail -------------------------------------------------------------


class Revocation(msgspec.Struct, frozen=True):
    """An access right or object that was removed after the backup, and that the backup restores."""

    at: str
    event: str
    subject: str
    actor: str

    def __str__(self) -> str:
        return f"{self.at} {self.event} {self.subject} by {self.actor}"


def revocations_since(directories: Sequence[Path], snapshot_at: datetime, key_ids: frozenset[str]) -> list[Revocation]:
    """Return what was removed since, according to the trails of all nodes, the oldest first.

    `key_ids` are the database's keys. A key's deletion counts from `SLACK` earlier on, if the database still has the
    key. Raises OSError.
    """
    found = []
    for record in records.records(directories, containing=CHANGES, from_day=f"{snapshot_at - SLACK:%Y%m%d}"):
        event, at = str(record.get("eventName")), str(record.get("eventTime"))
        if event not in REVOKING_EVENTS or record.get("errorCode") or _phase(record) == "intent":
            continue
        since = snapshot_at.replace(microsecond=0)
        deleted = _key_id(record) if event == "DeleteKey" else ""
        happened = datetime.fromisoformat(at)
        if happened >= since or (deleted in key_ids and happened >= since - SLACK):
            found.append(Revocation(at, event, _subject(record), _actor(record)))
    return found


def _phase(record: Mapping[str, Any]) -> str:
    return str((record.get("additionalEventData") or {}).get("phase", ""))


def _key_id(record: Mapping[str, Any]) -> str:
    return str((record.get("serviceEventDetails") or {}).get("keyId", ""))


def _subject(record: Mapping[str, Any]) -> str:
    arns = [str(resource.get("ARN")) for resource in record.get("resources") or ()]
    parameters = record.get("requestParameters") or {}
    named = [
        str(parameters[name])
        for name in ("userName", "roleName", "accessKeyId", "status", "grantId", "logGroupName")
        if parameters.get(name)
    ]
    return " ".join([*arns, *named]) or "(nothing named)"


def _actor(record: Mapping[str, Any]) -> str:
    identity = record.get("userIdentity") or {}
    return str(identity.get("arn") or identity.get("userName") or identity.get("invokedBy") or "unknown")
