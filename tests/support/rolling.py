"""Three nodes behind a load balancer, under load, while they are restarted one after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.balancer import balancer
from tests.support.clients import Credentials, client
from tests.support.daemon import Daemon
from tests.support.nodes import Site, first_of_nodes
from tests.support.polling import until

CLIENTS = 4
log = logging.getLogger(__name__)


@dataclass
class Calls:
    """What one client was answered."""

    done: int = 0
    failed: list[Exception] = field(default_factory=list)


@dataclass
class Rolling:
    """The nodes, all of which run, and what was answered so far."""

    site: Site
    nodes: list[Daemon]
    calls: list[Calls] = field(default_factory=list)

    @property
    def failed(self) -> list[Exception]:
        """Errors of all clients."""
        return [exc for one in self.calls for exc in one.failed]

    def wait_for_calls(self) -> None:
        """Until each client has had answers since, or one has had an error."""
        before = [one.done for one in self.calls]
        until(lambda: all(now.done > then for now, then in zip(self.calls, before, strict=True)) or self.failed != [])

    @contextmanager
    def load(self) -> Iterator[None]:
        """Clients of the balancer during the block, each with a key of its own. None must get an error."""
        keys = [self.nodes[0].client().create_key()["KeyMetadata"]["KeyId"] for _ in range(CLIENTS)]
        self.calls, over = [Calls() for _ in keys], threading.Event()
        with balancer([node.port for node in self.nodes]) as port:
            endpoint, admin = f"http://127.0.0.1:{port}", self.nodes[0].admin
            threads = [
                threading.Thread(target=_call, args=(endpoint, admin, key_id, own, over))
                for key_id, own in zip(keys, self.calls, strict=True)
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.join()
        log.info("%d calls", sum(one.done for one in self.calls))
        assert self.failed == []
        assert min(one.done for one in self.calls) > 0


@contextmanager
def rolling(folder: Path) -> Iterator[Rolling]:
    """Three nodes that serve."""
    with first_of_nodes(folder) as site, ExitStack() as stack:
        nodes = [site.first, *(_joined(site, folder / name) for name in ("second", "third"))]
        for node in nodes:
            node.config.write_text(node.config.read_text().replace("drain_seconds = 0.1", "leave_seconds = 1.0"))
            node.start()
            stack.callback(node.stop)
        yield Rolling(site, nodes)


def _joined(site: Site, folder: Path) -> Daemon:
    host = site.host(folder)
    host.cli("join", "--name", folder.name)
    return host


def _call(endpoint: str, credentials: Credentials, key_id: str, calls: Calls, over: threading.Event) -> None:
    """Encrypt, decrypt and describe anew until it is over; without retries of the SDK."""
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
