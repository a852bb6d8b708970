"""Three nodes behind a load balancer are restarted one after the other, under load: no client notices."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.balancer import balancer
from tests.support.clients import Credentials, client
from tests.support.daemon import Daemon, provisioned
from tests.support.nodes import Site, first_of_nodes
from tests.support.polling import until

ROUNDS = int(os.environ.get("KMSD_ROLLING_RESTARTS", "1"))
"""20 by hand."""
CLIENTS = 4


@dataclass
class Calls:
    """What clients were answered."""

    done: int = 0
    failed: list[Exception] = field(default_factory=list)


@pytest.fixture(name="nodes")
def _nodes(tmp_path: Path) -> Iterator[list[Daemon]]:
    """They run."""
    with first_of_nodes(tmp_path) as site, ExitStack() as stack:
        nodes = [site.first, *(_joined(site, tmp_path / name) for name in ("second", "third"))]
        for node in nodes:
            node.config.write_text(node.config.read_text().replace("drain_seconds = 0.1", "leave_seconds = 1.0"))
            node.start()
            stack.callback(node.stop)
        yield nodes


def _joined(site: Site, folder: Path) -> Daemon:
    host = site.host(folder)
    host.cli("join", "--name", folder.name)
    return host


def call(endpoint: str, credentials: Credentials, key_id: str, calls: Calls, over: threading.Event) -> None:
    """Encrypt, decrypt, disable and enable until it is over; without retries of the SDK."""
    kms = client(endpoint, credentials)
    while not over.is_set():
        try:
            blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
            assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
            kms.update_key_description(KeyId=key_id, Description=str(calls.done))
        except Exception as exc:  # noqa: BLE001 (carried to the test)
            calls.failed.append(exc)
            return
        calls.done += 3


@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_no_request_fails(nodes: list[Daemon]) -> None:
    """A node that ends lets go of its connections between two requests, and the balancer has others."""
    first = nodes[0]
    keys = [first.client().create_key()["KeyMetadata"]["KeyId"] for _ in range(CLIENTS)]
    calls, over = [Calls() for _ in keys], threading.Event()
    with balancer([node.port for node in nodes]) as port:
        threads = [
            threading.Thread(target=call, args=(f"http://127.0.0.1:{port}", first.admin, key_id, own, over))
            for key_id, own in zip(keys, calls, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(ROUNDS):
                for node in nodes:
                    node.stop()
                    node.start()
                    before = [one.done for one in calls]
                    until(
                        lambda before=before: (
                            all(now.done > then for now, then in zip(calls, before, strict=True)) or _failed(calls)
                        )
                    )  # type: ignore[misc]
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert _failed(calls) == []
    assert min(one.done for one in calls) > 0


def _failed(calls: list[Calls]) -> list[Exception]:
    return [exc for one in calls for exc in one.failed]


def test_a_daemon_that_leaves(tmp_path: Path) -> None:
    """`/readyz` says so, and calls are served, on new connections too; workers that are told again end at once."""
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace("drain_seconds = 0.1", "leave_seconds = 20.0"))
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        assert daemon.process is not None
        daemon.process.terminate()
        until(lambda: daemon.get("/readyz") == (503, {"status": "failed", "daemon": "leaving"}))
        for _ in range(8):
            assert daemon.client().encrypt(KeyId=key_id, Plaintext=b"x")["KeyId"].endswith(key_id)
        assert daemon.get("/healthz")[0] == 200
        for pid in daemon.workers():
            os.kill(pid, signal.SIGTERM)
        assert daemon.process.wait(15) == 0
