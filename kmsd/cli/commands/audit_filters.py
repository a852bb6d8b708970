"""Filters of `kmsd audit show`, and the one-line form of a record."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

ANY = "any"
_AGE = re.compile(r"([0-9]{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class BadFilter(ValueError):
    """A time that cannot be parsed."""


class RecordFilter(msgspec.Struct, frozen=True):
    """Criteria for a record. An empty one matches anything."""

    key: str
    principal: str
    operation: str
    error: str
    since: str
    """In the format of `eventTime`, so that text compares as time."""
    until: str

    @property
    def containing(self) -> bytes:
        """Return bytes that the text of every match contains: most records are skipped without being decoded."""
        if self.operation:
            return f'"eventName":"{self.operation}"'.encode()
        return self.key.rpartition("key/")[2].encode() or self.principal.encode()

    @property
    def from_day(self) -> str:
        """Return the first day, as `20261122`; empty for the beginning."""
        return self.since[:10].replace("-", "")

    def fits(self, record: dict[str, Any]) -> bool:
        """True if the record matches."""
        at = str(record.get("eventTime", ""))
        return (
            (not self.since or at >= self.since)
            and (not self.until or at <= self.until)
            and (not self.operation or record.get("eventName") == self.operation)
            and (not self.error or _has_error(record, self.error))
            and (not self.key or _is_about(record, self.key))
            and (not self.principal or _is_by(record, self.principal))
        )


def filter_of(options: argparse.Namespace, now: datetime) -> RecordFilter:
    """Return the filter that the command line asks for. Raises `BadFilter`."""
    return RecordFilter(
        key=options.key or "",
        principal=options.principal or "",
        operation=options.operation or "",
        error=options.error or "",
        since=_time(options.since, now) if options.since else "",
        until=_time(options.until, now) if options.until else "",
    )


def _time(text: str, now: datetime) -> str:
    age = _AGE.fullmatch(text)
    if age is not None:
        instant = now - timedelta(**{_UNITS[age[2]]: int(age[1])})
    else:
        try:
            instant = datetime.fromisoformat(text)
        except ValueError as exc:
            raise BadFilter(f"{text!r} is no time: 2026-11-22, 2026-11-22T06:30:00Z, or an age such as 36h") from exc
        instant = instant.replace(tzinfo=instant.tzinfo or UTC)
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _has_error(record: dict[str, Any], code: str) -> bool:
    found = record.get("errorCode")
    refused = (record.get("additionalEventData") or {}).get("refused") or {}
    return found is not None and (code in (ANY, found) or code in refused.get("errorCodes", {}))


def _is_about(record: dict[str, Any], key: str) -> bool:
    resources = [str(resource.get("ARN", "")) for resource in record.get("resources") or ()]
    named = [value for name, value in (record.get("requestParameters") or {}).items() if name.endswith(_KEY_MEMBERS)]
    return any(text == key or text.endswith((f"/{key}", f":{key}")) for text in [*resources, *map(str, named)])


_KEY_MEMBERS = ("eyId", "aliasName")


def _is_by(record: dict[str, Any], principal: str) -> bool:
    identity = record.get("userIdentity") or {}
    issuer = (identity.get("sessionContext") or {}).get("sessionIssuer") or {}
    known = [identity.get(name) for name in ("arn", "userName", "accessKeyId", "principalId", "invokedBy")]
    return principal in (*known, issuer.get("arn"), issuer.get("userName"))


def row(record: dict[str, Any]) -> str:
    """Return time, operation, outcome, principal, address and key: tab-separated, control characters escaped."""
    identity = record.get("userIdentity") or {}
    who = identity.get("arn") or identity.get("userName") or identity.get("accessKeyId") or identity.get("invokedBy")
    resources = " ".join(str(resource.get("ARN")) for resource in record.get("resources") or ())
    phase = (record.get("additionalEventData") or {}).get("phase")
    cells = (
        record.get("eventTime"),
        record.get("eventName"),
        record.get("errorCode") or phase or "ok",
        who or identity.get("type"),
        record.get("sourceIPAddress"),
        resources,
    )
    return "\t".join("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(cell or "-")) for cell in cells)
