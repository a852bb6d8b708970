"""A token object that is destroyed while calls use it: they end with a clear error, and the process lives."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from kmsd.custody import token_objects
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.ports import NoSuchObject, UnwrapFailed, Wrapped
from tests.support.harness import harness

ROUNDS, CALLERS = 25, 6
CHANCE = random.Random(20261129)  # noqa: S311 (moments, no secrets)


def test_a_wrapping_key_is_destroyed_while_blobs_are_tried(tmp_path: Path) -> None:
    """SoftHSM 2.6.1 crashes when it loses the key in the middle of C_UnwrapKey: calls under way are waited for."""
    with harness(tmp_path) as found:
        told = found.run(rounds_of_unwrapping(found.components.token), seconds=280)
    assert told["NoSuchObject"] == ROUNDS * CALLERS
    assert told["UnwrapFailed"] > ROUNDS


async def rounds_of_unwrapping(token: Any) -> Counter[str]:
    """What the callers were told."""
    told: Counter[str] = Counter()

    async def try_blobs(object_id: bytes) -> None:
        while True:
            try:
                blob = b"\0" + os.urandom(255)
                await token.unwrap_key(Wrapped(blob, WrappingAlgorithm.RSAES_OAEP_SHA_1, object_id), b"m" * 16)
            except UnwrapFailed:
                told["UnwrapFailed"] += 1
            except NoSuchObject:
                told["NoSuchObject"] += 1
                return

    for _ in range(ROUNDS):
        object_id = os.urandom(16)
        await token.generate_wrapping_key(object_id, 2048)
        await destroyed_beside(token, object_id, try_blobs)
    return told


def test_a_key_is_destroyed_while_it_encrypts(tmp_path: Path) -> None:
    """On the event loop and on threads."""

    async def rounds(token: Any) -> int:
        ended, algorithm = 0, token_objects.algorithm_for(token)

        async def encrypt(object_id: bytes) -> None:
            nonlocal ended
            size = 60_000 if ended % 2 else 32
            while True:
                try:
                    await token.encrypt(object_id, algorithm, b"x" * size, b"a")
                except NoSuchObject:
                    ended += 1
                    return
                await asyncio.sleep(0)

        for _ in range(2 * ROUNDS):
            object_id = os.urandom(16)
            await token.generate_key(object_id, algorithm)
            await destroyed_beside(token, object_id, encrypt)
        return ended

    with harness(tmp_path) as found:
        assert found.run(rounds(found.components.token), seconds=280) == 2 * ROUNDS * CALLERS


async def destroyed_beside(token: Any, object_id: bytes, work: Any) -> None:
    """Destroy an object a moment after callers have begun to work with it, each until it is gone."""
    tasks = [asyncio.create_task(work(object_id)) for _ in range(CALLERS)]
    await asyncio.sleep(CHANCE.random() / 100)
    await token.destroy(object_id)
    await asyncio.gather(*tasks)
