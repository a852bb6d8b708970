"""Which records `kmsd audit show` prints, and what its columns hold."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.audit_trail import records
from kmsd.adapters.audit_trail.format import Head, chained
from kmsd.cli.commands.audit_filters import BadFilter, filter_of, row

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:us-east-1:000000000000:key/{KEY}"


def a_record(name: str, hour: int, **members: Any) -> dict[str, Any]:
    """Enough of a record."""
    return {
        "eventVersion": "1.11",
        "userIdentity": {"arn": "arn:aws:iam::000000000000:user/alice", "userName": "alice", "accessKeyId": "AKIA1"},
        "eventTime": f"2026-11-{21 + hour // 24}T{hour % 24:02}:00:00Z",
        "eventName": name,
        "sourceIPAddress": "192.0.2.1",
        "requestParameters": {"keyId": KEY},
        "resources": [{"ARN": ARN, "accountId": "000000000000", "type": "AWS::KMS::Key"}],
        **members,
    }


RECORDS = [
    a_record("Encrypt", 6),
    a_record("Decrypt", 10, errorCode="AccessDeniedException"),
    a_record(
        "Decrypt", 30, userIdentity={"type": "AssumedRole", "sessionContext": {"sessionIssuer": {"userName": "r"}}}
    ),
    a_record("CreateAlias", 31, requestParameters={"aliasName": "alias/pay", "targetKeyId": "other"}, resources=[]),
    a_record("RefusedRequests", 32, errorCode="several", additionalEventData={"refused": {"errorCodes": {"X": 2}}}),
]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"operation": "Decrypt"}, [1, 2]),
        ({"key": KEY}, [0, 1, 2, 4]),
        ({"key": ARN}, [0, 1, 2, 4]),
        ({"key": "alias/pay"}, [3]),
        ({"principal": "alice", "operation": "Encrypt"}, [0]),
        ({"principal": "AKIA1", "error": "any"}, [1, 4]),
        ({"principal": "r"}, [2]),
        ({"error": "X"}, [4]),
        ({"error": "AccessDeniedException"}, [1]),
        ({"since": "2026-11-22"}, [2, 3, 4]),
        ({"since": "6h", "until": "2026-11-22T07:30:00+01:00"}, [2]),
        ({"until": "1d"}, [0, 1]),
    ],
)
def test_filters(options: dict[str, str], wanted: list[int], tmp_path: Path) -> None:
    """Alone and together; what is passed over undecoded would not have fitted either."""
    names = ("key", "principal", "operation", "error", "since", "until")
    chosen = filter_of(argparse.Namespace(**{name: options.get(name) for name in names}), NOW)
    assert [index for index, record in enumerate(RECORDS) if chosen.fits(record)] == wanted
    lines = chained(Head(), [json.dumps(record, separators=(",", ":")).encode() for record in RECORDS])[0]
    (tmp_path / "worker-0.00000001.20261121.trail").write_bytes(lines)
    found = records.records([tmp_path], containing=chosen.containing, from_day=chosen.from_day)
    assert [RECORDS.index(record) for record in found if chosen.fits(record)] == wanted


@pytest.mark.parametrize("text", ["soon", "2026-13-01", "5y", ""])
def test_times_that_cannot_be_read(text: str) -> None:
    """Named, not guessed."""
    options = argparse.Namespace(key=None, principal=None, operation=None, error=None, since=text or "-", until=None)
    with pytest.raises(BadFilter):
        filter_of(options, NOW)


def test_writers_are_merged_by_time(tmp_path: Path) -> None:
    """One order for all chains."""
    for writer, chosen in (("worker-0", RECORDS[::2]), ("worker-1", RECORDS[1::2])):
        lines = chained(Head(), [json.dumps(record).encode() for record in chosen])[0]
        (tmp_path / f"{writer}.00000001.20261121.trail").write_bytes(lines)
    assert list(records.records([tmp_path])) == RECORDS


def test_columns() -> None:
    """Tab-separated; what could move a terminal's cursor is made visible."""
    cells = row(a_record("Encrypt", 6, userIdentity={"userName": "a\x1b[31m\nb"})).split("\t")
    assert cells == ["2026-11-21T06:00:00Z", "Encrypt", "ok", "a\\x1b[31m\\x0ab", "192.0.2.1", ARN]
