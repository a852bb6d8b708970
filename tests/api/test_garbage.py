"""Calls that were refused leave nothing behind that only a collection would find: a worker collects every few hours."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from tests.support.harness import Harness


def test_refused_calls_leave_no_garbage(harness: Harness) -> None:
    """Neither the request nor the error, nor what it was raised from."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    stranger = harness.client(credentials=harness.user())
    forger = harness.client(credentials=replace(harness.admin, secret="x" * 40))

    def refuse() -> None:
        for call, given in (
            (kms.describe_key, {"KeyId": "alias/none"}),
            (kms.decrypt, {"CiphertextBlob": blob[:-1] + bytes((blob[-1] ^ 1,))}),
            (kms.create_alias, {"AliasName": "alias/aws/x", "TargetKeyId": key_id}),
            (stranger.describe_key, {"KeyId": key_id}),
            (forger.describe_key, {"KeyId": key_id}),
        ):
            with pytest.raises(ClientError):
                call(**given)
        harness.run(asyncio.sleep(0.05))

    refuse()
    gc.collect()
    gc.disable()
    try:
        refuse()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("kmsd.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
