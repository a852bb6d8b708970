"""Two hosts on one PostgreSQL, each with an HSM of its own, which hold the same domain keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import Daemon, free_port, provisioned, write_config
from tests.support.key_ceremonies import accepting, act, transfer_code
from tests.support.postgres import new_cluster
from tests.support.tokens import TokenPlace, softhsm

HSM = "south"
"""Name of the second one."""


@dataclass
class TwoHsms:
    """The host of the first HSM, and that of the second."""

    north: Daemon
    south: Daemon

    def other(self, node: Daemon) -> Daemon:
        """The host that is not this one."""
        return self.south if node is self.north else self.north

    def share_domain_keys(self) -> None:
        """Make a domain key that both HSMs have, and wrap all under it."""
        hand_on(self.north, self.south)
        self.north.cli("domain-key", "rotate")
        self.north.cli("jobs", "run", "rewrap")


def hand_on(sender: Daemon, receiver: Daemon) -> None:
    """A ceremony: a new domain key of one HSM goes to another one."""
    for name in ("request.json", "transfer.json", "accept.log"):
        (receiver.folder / name).unlink(missing_ok=True)
    with accepting(receiver) as waiting:
        output = str(waiting.transfer)
        sent = act(sender, "transfer", "--request", str(waiting.request), "--code", waiting.code(), "--output", output)
        waiting.type(transfer_code(sent.stdout))
        assert waiting.process.wait(60) == 0, waiting.log()


@contextmanager
def two_hsms(folder: Path) -> Iterator[TwoHsms]:
    """Both hosts. The first one has a key; the second one has not joined. None of them runs."""
    with ExitStack() as stack:
        server = new_cluster()
        stack.callback(server.stop)
        store = f'[store]\nurl = "{server.url()}"\n'
        north = stack.enter_context(provisioned(folder / "north", extra=store, custody="wrapped"))
        place = stack.enter_context(softhsm(folder / "south" / "token"))
        south = _host(folder / "south", place, store)
        south.admin = north.admin
        stack.callback(south.stop)
        yield TwoHsms(north, south)


def _host(folder: Path, place: TokenPlace, store: str) -> Daemon:
    port = free_port()
    return Daemon(folder, place, port, write_config(folder, place, port, extra=store, custody="wrapped"))
