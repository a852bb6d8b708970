"""Token, database or disk away when the daemon starts: it answers meanwhile, and serves as soon as they are there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import code_of
from tests.support.daemon import WELL, Daemon, eventually, further_section, provisioned
from tests.support.tokens import another_softhsm


@pytest.fixture(name="daemon")
def _daemon(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path, workers=2) as found:
        yield found


def events(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    """The log's lines of one event."""
    lines = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def hidden(path: Path) -> Path:
    """Move a folder away; where it is now."""
    elsewhere = path.with_name(f"{path.name}.away")
    path.rename(elsewhere)
    return elsewhere


def start_without(daemon: Daemon, missing: str) -> None:
    """Start it; on return a stand-in says what is missing, and the daemon lives."""
    daemon.start(ready=False)
    eventually(lambda: daemon.get("/readyz") == (503, {"status": "failed", missing: "unavailable"}), daemon)
    assert daemon.get("/healthz") == (200, {"status": "ok"})
    assert daemon.process is not None
    assert daemon.process.poll() is None


def refused_with(daemon: Daemon, service: str, operation: str) -> tuple[str, int]:
    """Name and status of the error that a call is refused with."""
    with pytest.raises(ClientError) as caught:
        getattr(daemon.client(service), operation)()
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def serves(daemon: Daemon) -> bool:
    """Whether it is ready."""
    return daemon.get("/readyz") == (200, WELL)


def test_the_token_is_away(daemon: Daemon) -> None:
    """Each service refuses with an error that SDKs try again; when the token is back the daemon serves by itself."""
    away = hidden(daemon.place.objects)
    start_without(daemon, "token")
    assert refused_with(daemon, "kms", "create_key") == ("DependencyTimeoutException", 500)
    assert refused_with(daemon, "logs", "describe_log_groups") == ("ServiceUnavailableException", 500)
    assert refused_with(daemon, "sts", "get_caller_identity")[1] == 503
    away.rename(daemon.place.objects)
    eventually(lambda: serves(daemon), daemon)
    assert daemon.client().create_key()["KeyMetadata"]["Enabled"]
    eventually(lambda: bool(events(daemon, "ready")), daemon)
    (ready,) = events(daemon, "ready")
    assert len(daemon.workers()) == 2
    assert ready["waited_seconds"] > 0
    assert [line["missing"] for line in events(daemon, "waiting")] == ["token"]
    assert daemon.stop() == 0


def test_the_data_folder_is_away(daemon: Daemon) -> None:
    """As the token. Nothing is made in the empty place: it may be where a file system is mounted later."""
    away = hidden(daemon.data)
    daemon.data.mkdir()
    start_without(daemon, "store")
    assert list(daemon.data.iterdir()) == []
    daemon.data.rmdir()
    away.rename(daemon.data)
    eventually(lambda: serves(daemon), daemon)
    assert daemon.client().create_key()["KeyMetadata"]["Enabled"]


def test_the_trail_cannot_be_written(daemon: Daemon) -> None:
    """As the token."""
    trail = daemon.data / "audit"
    away = hidden(trail)
    trail.write_text("in the way")
    start_without(daemon, "audit")
    trail.unlink()
    away.rename(trail)
    eventually(lambda: serves(daemon), daemon)
    daemon.cli("audit", "verify")


def test_a_database_that_waiting_does_not_mend(daemon: Daemon) -> None:
    """Another program's file ends the start with status 78, and says so."""
    daemon.data.joinpath("kmsd.sqlite").write_bytes(b"not a database, whatever its name is" * 100)
    done = daemon.cli("serve", check=False)
    assert done.returncode == 78
    assert b"SQLITE_NOTADB" in done.stderr


def test_no_worker_is_left_and_the_token_is_away(daemon: Daemon) -> None:
    """A stand-in answers for workers that died and cannot come back yet."""
    daemon.start()
    away = hidden(daemon.place.objects)
    for pid in daemon.workers():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: daemon.get("/readyz") == (503, {"status": "failed", "token": "unavailable"}), daemon)
    away.rename(daemon.place.objects)
    eventually(lambda: serves(daemon) and len(daemon.workers()) == 2, daemon)
    assert daemon.client().create_key()["KeyMetadata"]["Enabled"]


def test_the_import_token_is_away(tmp_path: Path) -> None:
    """The daemon serves without it, and imports with it as soon as it is there."""
    with provisioned(tmp_path, workers=1, import_token=True) as daemon:
        place = tmp_path / "import-token"
        away = hidden(place)
        daemon.start()
        key_id = daemon.client().create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]

        def imports() -> str:
            wanted = {"KeyId": key_id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
            return code_of(daemon.client().get_parameters_for_import, **wanted)

        assert imports() == "UnsupportedOperationException"
        away.rename(place)
        eventually(lambda: imports() == "", daemon)


def test_a_further_token_of_the_same_module_is_away(tmp_path: Path) -> None:
    """The search for it ends no login of the main token, until there is something to find."""
    with provisioned(tmp_path, workers=1) as daemon:
        section = further_section(tmp_path, replace(daemon.place, label="second"), "second", ["HMAC_256"])
        daemon.config.write_text(f"{daemon.config.read_text()}\n{section}")
        daemon.start()
        kms, asked = daemon.client(), "the token is away: a new process does not find it"
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]

        def is_sought() -> bool:
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
            return any(line["detail"] == asked for line in events(daemon, "token_unavailable"))

        eventually(is_sought, daemon)
        assert not events(daemon, "token_away")
        another_softhsm(daemon.place, "second")
        hmac = {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
        eventually(lambda: code_of(kms.create_key, **hmac) == "", daemon)
        eventually(lambda: code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "", daemon)


def test_a_reload_while_it_waits(daemon: Daemon) -> None:
    """What was corrected meanwhile is taken over; `kmsd reload` tells the verdict in either case."""
    runtime = daemon.folder / "run"
    runtime.mkdir()
    os.environ["RUNTIME_DIRECTORY"] = str(runtime)
    try:
        away = hidden(daemon.place.objects)
        start_without(daemon, "token")
        text = daemon.config.read_text()
        daemon.config.write_text("nonsense")
        refused = reload(daemon)
        assert (refused.returncode, "kmsd.toml" in refused.stderr) == (1, True)
        daemon.config.write_text(text.replace("workers = 2", "workers = 3"))
        assert reload(daemon).returncode == 0
        away.rename(daemon.place.objects)
        eventually(lambda: serves(daemon) and len(daemon.workers()) == 3, daemon)
        daemon.config.write_text(text.replace("workers = 2", "workers = 1000"))
        refused = reload(daemon)
        assert (refused.returncode, "workers must be 1 to 64" in refused.stderr) == (1, True)
        assert serves(daemon)
    finally:
        del os.environ["RUNTIME_DIRECTORY"]


def reload(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """What ExecReload= of the unit runs."""
    assert daemon.process is not None
    command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), "reload"]
    environment = {**os.environ, "MAINPID": str(daemon.process.pid)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
