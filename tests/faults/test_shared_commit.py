"""Calls of one process that share a commit, where the record of some cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import force_setattr

from kmsd.ports import AuditUnavailable
from tests.support.harness import Harness, harness
from tests.support.key_import import refusals_at_once

CALLERS = 4
CALLS = 48


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness")) as found, refusals_at_once():
        yield found


class Patchy:
    """A trail that takes no n-th record of a successful CreateAlias, before or after it is durable."""

    def __init__(self, real: Any, nth: int, *, after: bool) -> None:
        self._real, self._nth, self._after = real, nth, after
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def append(self, record: bytes) -> None:
        """As `kmsd.ports.AuditSink`."""
        fails = b'"eventName":"CreateAlias"' in record and b'"errorCode"' not in record
        self.count += fails
        fails = fails and self.count % self._nth == 0
        if not fails or self._after:
            await self._real.append(record)
        if fails:
            raise AuditUnavailable("the fault that was asked for")


@contextmanager
def patchy(harness: Harness, nth: int, *, after: bool) -> Iterator[None]:
    """Let the daemon write its records there."""
    pipeline = harness.components.pipeline
    real = pipeline.sink
    force_setattr(pipeline, "sink", Patchy(real, nth, after=after))
    try:
        yield
    finally:
        force_setattr(pipeline, "sink", real)


@pytest.mark.parametrize("after", [False, True], ids=["not durable", "durable"])
@pytest.mark.parametrize("nth", [5, 17])
def test_what_is_acknowledged_is_there_and_nothing_else(harness: Harness, nth: int, *, after: bool) -> None:
    """Each call that worked has its alias and its record; each that was refused has neither alias nor a last word."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    names = [f"alias/{nth}{after}-{number}" for number in range(CALLS)]

    def make(name: str) -> str:
        try:
            return str(kms.create_alias(AliasName=name, TargetKeyId=key_id)["ResponseMetadata"]["RequestId"])
        except kms.exceptions.KMSInternalException:
            return ""

    with patchy(harness, nth, after=after), ThreadPoolExecutor(CALLERS) as callers:
        requests = dict(zip(names, callers.map(make, names), strict=True))
    worked = {name for name, request in requests.items() if request}
    assert CALLS > len(worked) > 0
    found = {alias["AliasName"] for page in kms.get_paginator("list_aliases").paginate() for alias in page["Aliases"]}
    assert found & set(names) == worked
    last = {record["requestID"]: record for record in harness.records()}
    assert all("errorCode" not in last[requests[name]] for name in worked)
    for name in set(names) - worked:
        kms.create_alias(AliasName=name, TargetKeyId=key_id)
