"""The token is unplugged for a while, under load: only retryable errors, no process ends, and it is back by itself."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.adapters.pkcs11.return_codes import Ckr
from tests.support.clients import code_of
from tests.support.daemon import Daemon, eventually
from tests.support.faulty_token import bent_daemon
from tests.support.shim import Function, compiler

AWAY = float(os.environ.get("KMSD_TEST_AWAY_SECONDS", "3"))
"""30 by hand."""
RETRYABLE = {"KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException"}
BACK_SECONDS = 60.0
"""Bounds the wait for what comes back by itself, within two seconds where nothing else runs."""
AT_ONCE_SECONDS = 5.0
"""An answer while the token is away: half of the deadline of a call to it, which is not waited for."""

log = logging.getLogger(__name__)


@dataclass
class Caller(threading.Thread):
    """Encrypts, decrypts, makes data keys and random numbers; notes when which answer came, and after how long."""

    daemon_process: Daemon
    key_id: str
    blob: bytes
    over: threading.Event
    answers: list[tuple[float, str, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.kms = self.daemon_process.client(read_timeout=30)

    @property
    def is_well(self) -> bool:
        """True if its last calls have worked."""
        return [code for _, code, _ in self.answers[-20:]] == [""] * 20

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Until told to end."""
        turn = 0
        while not self.over.is_set():
            turn += 1
            begun = time.monotonic()
            try:
                self.act(turn)
                code = ""
            except ClientError as error:
                code = error.response["Error"]["Code"]
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if code not in RETRYABLE or status != 500:
                    self.wrong.append(f"{code} {status}")
            except Exception as error:  # noqa: BLE001 (a connection that broke would be one)
                self.wrong.append(repr(error))
                code = repr(error)
            now = time.monotonic()
            self.answers.append((now, code, now - begun))
            time.sleep(0.005)

    def act(self, turn: int) -> None:
        """One call."""
        if turn % 4 == 0:
            assert self.kms.decrypt(CiphertextBlob=self.blob)["Plaintext"] == b"before"
        elif turn % 4 == 1:
            self.kms.generate_data_key(KeyId=self.key_id, KeySpec="AES_256")
        elif turn % 4 == 2:
            self.kms.generate_random(NumberOfBytes=16)
        else:
            self.kms.encrypt(KeyId=self.key_id, Plaintext=b"now")


@pytest.mark.slow
@pytest.mark.timeout(120 + int(AWAY))
@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_the_token_is_unplugged_under_load(tmp_path: Path) -> None:
    """What needs no token goes on; the rest is refused at once, and works within two seconds of its return."""
    with bent_daemon(tmp_path, workers=2) as (daemon, shim):
        daemon.start()
        kms = daemon.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"before")["CiphertextBlob"]
        over = threading.Event()
        callers = [Caller(daemon, key_id, blob, over) for _ in range(6)]
        for caller in callers:
            caller.start()
        time.sleep(1)
        workers = daemon.workers()
        gone = time.monotonic()
        shim.gone(int(Ckr.DEVICE_REMOVED))
        logins = shim.calls(Function.LOGIN)
        time.sleep(AWAY / 2)
        assert daemon.get("/readyz")[0] == 503
        assert daemon.get("/healthz")[0] == 200
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["Enabled"]
        with pytest.raises(ClientError, match="DependencyTimeoutException"):
            kms.create_key()
        time.sleep(AWAY / 2)
        shim.gone(0)
        back = time.monotonic()
        eventually(lambda: all(caller.is_well for caller in callers), daemon, BACK_SECONDS)
        over.set()
        for caller in callers:
            caller.join()
        assert [wrong for caller in callers for wrong in caller.wrong] == []
        assert daemon.workers() == workers
        assert "worker_exited" not in daemon.log()
        judge([answer for caller in callers for answer in caller.answers], gone, back)
        # The PIN was offered once by each worker.
        assert shim.calls(Function.LOGIN) - logins == 2
        assert daemon.get("/readyz")[0] == 200
        assert kms.encrypt(KeyId=kms.create_key()["KeyMetadata"]["KeyId"], Plaintext=b"x")


def judge(answers: list[tuple[float, str, float]], gone: float, back: float) -> None:
    """Before, while it was away, and since."""
    before = Counter(code for at, code, _ in answers if at < gone)
    away = [(code, took) for at, code, took in answers if gone + 0.2 < at < back]
    last = max(at for at, code, _ in answers if code)
    log.info("before: %s; away for %.0f s: %s, slowest %.3f s; last error %.2f s after its return; %d good since",
             dict(before), back - gone, dict(Counter(code for code, _ in away)), max(took for _, took in away),
             last - back, sum(not code for at, code, _ in answers if at > back))  # fmt: skip
    assert set(before) == {""}
    assert {code for code, _ in away} <= RETRYABLE
    assert len(away) > 20
    assert max(took for _, took in away) < AT_ONCE_SECONDS


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_a_token_that_hangs(tmp_path: Path) -> None:
    """Calls are given up at their deadline; when too many hang, others are refused at once; then all is as before."""
    extra = ""
    with bent_daemon(tmp_path, workers=1, extra=extra) as (daemon, shim):
        config = daemon.config.read_text().replace("[token]\n", "[token]\ncall_deadline_seconds = 0.5\n")
        daemon.config.write_text(config)
        # A token as slow as one behind a network: its calls are made in threads.
        shim.delay(Function.ENCRYPT, 0.002)
        daemon.start()
        kms = daemon.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        for _ in range(20):
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
        shim.hang(Function.ENCRYPT, on=True)
        found = [timed(kms, key_id) for _ in range(12)]
        assert {code for code, _ in found} <= RETRYABLE
        assert max(took for _, took in found) < AT_ONCE_SECONDS
        # Eight calls hang: no more are begun; but for one of the copy of the trail, which may go with the eighth.
        assert shim.hung in {8, 9}
        assert daemon.get("/healthz")[0] == 200
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["Enabled"]
        shim.hang(Function.ENCRYPT, on=False)
        end = time.monotonic() + BACK_SECONDS
        while timed(kms, key_id)[0]:
            assert time.monotonic() < end
        shim.reset()
        assert "worker_exited" not in daemon.log()


def timed(kms: Any, key_id: str) -> tuple[str, float]:
    """The error's name, and the seconds until it came."""
    begun = time.monotonic()
    return code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x"), time.monotonic() - begun
