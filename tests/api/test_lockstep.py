"""Calls at the same time pause for each other, and each is counted until it has ended, however it ends."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.event_loop.cohorts import MIN_COHORT, CohortScheduler, pause
from tests.support.clients import Credentials
from tests.support.harness import Harness


async def test_stages_are_gone_through_together() -> None:
    """With enough of them; a few do not wait for each other."""

    async def order(calls: int) -> list[str]:
        cohorts, seen = CohortScheduler(), []

        async def call(name: int) -> None:
            for stage in "abc":
                seen.append(f"{stage}{name}")
                if cohorts.in_flight >= MIN_COHORT:
                    await pause()
            cohorts.in_flight -= 1

        cohorts.in_flight = calls
        await asyncio.gather(*(call(name) for name in range(calls)))
        return seen

    assert await order(MIN_COHORT) == [f"{stage}{name}" for stage in "abc" for name in range(MIN_COHORT)]
    assert await order(MIN_COHORT - 1) == [f"{stage}{name}" for name in range(MIN_COHORT - 1) for stage in "abc"]


def test_every_end_is_counted(harness: Harness) -> None:
    """Successes, refusals before and after the signature, dry runs, writes, probes: nobody runs afterwards."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    forged = harness.client(credentials=replace(harness.admin, secret="x" * 40))
    nobody = harness.client(credentials=Credentials("AKIAXXXXXXXXXXXXXXXX", "x" * 40))
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    asked: list[tuple[Any, dict[str, Any]]] = [
        (kms.encrypt, {"KeyId": key_id, "Plaintext": b"x"}),
        (kms.encrypt, {"KeyId": key_id, "Plaintext": b"x", "DryRun": True}),
        (kms.encrypt, {"KeyId": "alias/none", "Plaintext": b"x"}),
        (kms.decrypt, {"CiphertextBlob": blob[:-1] + bytes([blob[-1] ^ 1])}),
        (kms.create_key, {}),
        (kms.list_keys, {}),
        (forged.list_keys, {}),
        (nobody.list_keys, {}),
    ]

    def ask(number: int) -> None:
        act, members = asked[number % len(asked)]
        try:
            act(**members)
        except ClientError:
            assert number % len(asked) not in {0, 4, 5}

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(20 * len(asked))))
    end = time.monotonic() + 5
    while harness.components.pipeline.cohorts.in_flight and time.monotonic() < end:
        time.sleep(0.01)  # an answer is read before its task has ended
    assert harness.components.pipeline.cohorts.in_flight == 0


@pytest.mark.parametrize("ends", [ValueError, asyncio.CancelledError])
async def test_a_pause_lets_through_what_ends_a_call(ends: type[BaseException]) -> None:
    """It is a pause, and nothing else."""
    pausing = pause()
    next(iter(pausing))
    with pytest.raises(ends):
        pausing.throw(ends())
