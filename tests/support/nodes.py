"""Several hosts on one PostgreSQL and one token: each has a data folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import Daemon, free_port, provisioned, write_config
from tests.support.postgres import Cluster, new_cluster
from tests.support.tokens import TokenPlace

Pair = tuple[Daemon, Daemon]


@dataclass
class Site:
    """A server, and the hosts that use it."""

    server: Cluster
    store: str
    """The table [store] of kmsd.toml."""
    first: Daemon

    def sql(self, statement: str) -> str:
        """What psql prints of the daemons' database."""
        return self.server.run_sql(statement, self.store.split("kmsd@/")[1].split("?")[0])

    def host(self, folder: Path, place: TokenPlace | None = None) -> Daemon:
        """A further host, that has not joined; with the same token if none is given."""
        folder.mkdir()
        place, port = place or self.first.place, free_port()
        found = Daemon(folder, place, port, write_config(folder, place, port, extra=self.store, custody="object"))
        found.admin = self.first.admin
        return found


@contextmanager
def first_of_nodes(folder: Path) -> Iterator[Site]:
    """A server, and the first host, which does not run yet."""
    server = new_cluster()
    store = f'[store]\nurl = "{server.url()}"\n'
    try:
        with provisioned(folder, extra=store, custody="object") as first:
            yield Site(server, store, first)
    finally:
        server.stop()


@contextmanager
def two_nodes(site: Site, folder: Path) -> Iterator[Pair]:
    """Two hosts that serve. In the end the second one is no node any more."""
    second = site.host(folder)
    second.cli("join", "--name", "second")
    try:
        site.first.start()
        second.start()
        yield site.first, second
    finally:
        second.stop()
        site.first.stop()
        site.first.cli("node", "remove", "second", "--force")
