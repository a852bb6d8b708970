"""A call that runs on the event loop, because the token is fast, never returns: the worker is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ConnectionClosedError

from tests.support.faulty_token import bent_daemon
from tests.support.polling import until
from tests.support.shim import Function, compiler


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_a_fast_token_that_hangs(tmp_path: Path) -> None:
    """Its clients waited for ever, for nothing on the loop can notice. Now they can try again."""
    with bent_daemon(tmp_path) as (daemon, shim):
        text = daemon.config.read_text()
        settings = '[token]\ncall_deadline_seconds = 0.5\ninline = "always"\n'
        daemon.config.write_text(text.replace("[token]\n", settings))
        daemon.start()
        kms = daemon.client(read_timeout=20)
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.encrypt(KeyId=key_id, Plaintext=b"x")
        workers = daemon.workers()
        shim.hang(Function.ENCRYPT, on=True)
        with pytest.raises(ConnectionClosedError):
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
        shim.hang(Function.ENCRYPT, on=False)
        until(lambda: daemon.get("/readyz")[0] == 200 and daemon.workers() != workers)
        assert "event_loop_blocked" in daemon.log()
        assert kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
