"""What is left of a call in memory when it has been answered: nothing that waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc

from kmsd.operations.model import Call
from tests.house import House
from tests.logs import millis, stream_for


def test_a_call_ends_with_its_answer(house: House) -> None:
    """Bodies of log events are 100 KB to 1 MB: a thousand of them in reference cycles would be a process's memory."""
    logs, kms = house.client("logs"), house.client()
    stream_for(logs, "/ends")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            events = [{"timestamp": millis(), "message": "x"}]
            logs.put_log_events(logGroupName="/ends", logStreamName="s", logEvents=events)
            logs.get_log_events(logGroupName="/ends", logStreamName="s")
            kms.encrypt(KeyId=key, Plaintext=b"x")
            kms.update_key_description(KeyId=key, Description="x")
        house.run(asyncio.sleep(0))
        left = [one for one in gc.get_objects() if isinstance(one, Call)]
    finally:
        gc.enable()
    assert left == []
