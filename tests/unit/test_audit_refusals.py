"""Counting refused requests: nobody fills the disk, and none is forgotten."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from kmsd.audit import RefusalSampler, record_of_refusals
from kmsd.domain.arn import ArnScope
from kmsd.errors import InvalidSignatureException, MissingAuthenticationTokenException
from kmsd.operations.declaration import ClientInfo
from kmsd.ports import AuditUnavailable
from kmsd.wire import refused_requests
from kmsd.wire.refused_requests import RefusedRequestLog
from tests.support.json_schema import violations

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PLACE = ArnScope("aws", "us-east-1")


def source(address: str) -> ClientInfo:
    """A request from somewhere."""
    return ClientInfo(address, "agent", None)


def test_a_bucket_of_permits() -> None:
    """A burst, then the rate, whatever the clock does."""
    book = RefusalSampler(10)
    assert sum(book.allow(0.0) for _ in range(200)) == 50
    assert sum(book.allow(1.0) for _ in range(200)) == 10
    assert sum(book.allow(0.5) for _ in range(200)) == 0
    assert sum(book.allow(1000.0) for _ in range(200)) == 50


def test_the_tally_counts_codes_and_names_the_busiest_addresses() -> None:
    """Every refusal is in the sums; memory and record stay small however many addresses there are."""
    book = RefusalSampler(1)
    for number in range(5000):
        busy = number % 2 == 0
        address = "192.0.2.1" if busy else f"10.0.{number // 256}.{number % 256}"
        book.count(NOW + timedelta(seconds=number / 5000), "A" if busy else "B", source(address))
    tally = book.drain()
    assert tally is not None
    assert len(tally.addresses) <= 1001
    record = json.loads(record_of_refusals(arns=PLACE, tally=tally))
    assert violations(record) == []
    shown = record["additionalEventData"]["refused"]
    assert (shown["count"], shown["errorCodes"]) == (5000, {"A": 2500, "B": 2500})
    assert shown["sourceIPAddresses"]["192.0.2.1"] == 2500
    assert sum(shown["sourceIPAddresses"].values()) == 5000
    assert len(shown["sourceIPAddresses"]) <= 21
    assert book.drain() is None


class Ledgers:
    """A sink that can be told to fail; keeps what it was given."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.failing = False

    async def append(self, record: bytes) -> None:
        """As `AuditSink`."""
        if self.failing:
            raise AuditUnavailable("full")
        self.records.append(record)

    async def check(self) -> None:
        """As `AuditSink`."""

    async def close(self) -> None:
        """As `AuditSink`."""

    def counted(self) -> int:
        """Refusals in the trail, alone and together."""
        total = 0
        for record in self.records:
            total += 1 if record == b"{}" else json.loads(record)["additionalEventData"]["refused"]["count"]
        return total


@pytest.fixture(name="quick", autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_requests, "FLUSH_SECONDS", 0.01)


async def test_a_sink_that_fails_loses_no_count() -> None:
    """While it fails, strangers get the daemon's error; what was counted is written when it heals."""
    sink = Ledgers()
    ledger = RefusedRequestLog(sink, PLACE, RefusalSampler(2))
    error = MissingAuthenticationTokenException("Missing Authentication Token")

    async def refuse(times: int) -> int:
        failed = 0
        for _ in range(times):
            try:
                await ledger.add(error, source("192.0.2.1"), NOW, lambda: b"{}")
            except AuditUnavailable:
                failed += 1
        return failed

    assert await refuse(30) == 0
    assert len(sink.records) == 10
    refused = 30

    async def until(failed: int) -> None:
        nonlocal refused
        while True:
            refused += 1
            if await refuse(1) == failed:
                return
            await asyncio.sleep(0.005)

    sink.failing = True
    await until(failed=1)
    sink.failing = False
    await until(failed=0)
    await ledger.close()
    assert sink.counted() == refused


async def test_closing_writes_what_is_counted() -> None:
    """The last second is not lost at a clean end."""
    sink = Ledgers()
    ledger = RefusedRequestLog(sink, PLACE, RefusalSampler(1))
    for _ in range(20):
        await ledger.add(InvalidSignatureException("x"), source(""), NOW, lambda: b"{}")
    await ledger.close()
    assert sink.counted() == 20
