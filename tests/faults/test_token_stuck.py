"""A call that runs on the event loop, because the token is fast, never returns: the worker is replaced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError

from tests.faults.bent import bent_daemon
from tests.faults.test_kill import until
from tests.shim import Function, compiler


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_a_fast_token_that_hangs(tmp_path: Path) -> None:
    """Its clients waited for ever, for nothing on the loop can notice. Now they can try again."""
    with bent_daemon(tmp_path) as (daemon, shim):
        text = daemon.config.read_text().replace("[token]\n", "[token]\ncall_deadline_seconds = 0.5\n")
        daemon.config.write_text(text)
        daemon.start()
        kms = daemon.client(read_timeout=20)
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        workers = daemon.workers()
        errors: list[Exception] = []

        def call() -> None:
            try:
                kms.encrypt(KeyId=key_id, Plaintext=b"x")
            except (BotoCoreError, ClientError) as error:
                errors.append(error)

        # On a busy machine the token may seem slow for a while: then the call runs on a thread, and is refused by name.
        for _ in range(20):
            for _ in range(50):
                kms.encrypt(KeyId=key_id, Plaintext=b"x")
            shim.hang(Function.ENCRYPT, on=True)
            client = threading.Thread(target=call)
            client.start()
            client.join()
            shim.hang(Function.ENCRYPT, on=False)
            if not isinstance(errors[-1], ClientError):
                break
        assert isinstance(errors[-1], ConnectionClosedError), errors
        until(lambda: daemon.get("/readyz")[0] == 200 and daemon.workers() != workers)
        assert "the event loop stands still" in daemon.log()
        assert kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
