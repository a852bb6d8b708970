"""Findings of `kmsd check`, and their output: text for people, JSON for machines, an exit status for monitoring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum

import msgspec
from msgspec.structs import asdict


class Severity(StrEnum):
    """Severity of a finding; in rising order."""

    OK = "ok"
    NOTE = "note"
    """A property of this installation that has a cost and needs no action."""
    WARN = "warn"
    """The operator should act before it becomes worse."""
    FAIL = "FAIL"
    """Something does not work, or is not safe."""


OK, NOTE, WARN, FAIL = Severity.OK, Severity.NOTE, Severity.WARN, Severity.FAIL
STATUS = {OK: 0, NOTE: 0, WARN: 1, FAIL: 2}
"""Exit statuses as Nagios and its descendants read them (Monitoring Plugins Development Guidelines, return codes)."""
_NAMES = ("OK", "WARNING", "CRITICAL")


class Finding(msgspec.Struct, frozen=True):
    """One line of output."""

    severity: Severity
    topic: str
    """Subject of the finding: `version`, `configuration`, `files`, `unit`, `clock`, `entropy`, `tls`, `token`,
    `import`, `issuers`, `database`, `audit` or `policies`."""
    text: str


def status_of(findings: Sequence[Finding]) -> int:
    """Return the exit status of the worst finding: 0, 1 or 2."""
    return max((STATUS[found.severity] for found in findings), default=0)


def as_text(findings: Sequence[Finding]) -> str:
    """Return one line for each finding, and a summary as the last line."""
    counts = [sum(STATUS[one.severity] == status for one in findings) for status in range(3)]
    status = status_of(findings)
    lines = [f"{found.severity:5}{found.text}" for found in findings]
    return "\n".join([*lines, f"{_NAMES[status]}: {counts[2]} failures, {counts[1]} warnings"])


def as_json(findings: Sequence[Finding]) -> str:
    """Return one JSON object with `status`, `exit` and `findings`."""
    status = status_of(findings)
    shown = {"status": _NAMES[status], "exit": status, "findings": [asdict(found) for found in findings]}
    return json.dumps(shown, indent=2)
