"""Several nodes on a primary and its synchronous standby, with a proxy between them; and failovers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.clients import Credentials
from tests.support.daemon import Daemon, free_port, provisioned, write_config
from tests.support.database_proxy import DatabaseProxy
from tests.support.postgres import Cluster, Network, new_cluster


@dataclass
class ClusterSite:
    """Nodes that serve."""

    servers: list[Cluster]
    """By their place in the nodes' URL."""
    proxy: DatabaseProxy
    nodes: list[Daemon]
    grantee: Credentials
    """A user who is allowed nothing but by a grant."""
    guest: Credentials
    """A user who is allowed nothing but by a key policy."""
    leading: int = 0
    """Place of the primary."""

    @property
    def primary(self) -> Cluster:
        """The server that accepts writes."""
        return self.servers[self.leading]

    @property
    def standby(self) -> Cluster:
        """The one that each commit waits for."""
        return self.servers[1 - self.leading]

    def promote(self) -> Cluster:
        """Make the standby the primary; return the server that it replaces, which still has its place."""
        former = self.primary
        self.standby.promote()
        self.leading = 1 - self.leading
        return former

    def rebuild(self) -> None:
        """End the server that was replaced, and put a new synchronous standby in its place."""
        place = 1 - self.leading
        self.servers[place].stop()
        self.servers[place] = self.primary.standby(Network(free_port()))
        self.proxy.target(place, self.servers[place].port)


def _store(ports: list[int], database: str, more: str) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f'[store]\nurl = "postgresql://kmsd@{hosts}/{database}"\ntls = "off"\n{more}'


@contextmanager
def cluster_site(folder: Path, count: int = 3, more: str = "") -> Iterator[ClusterSite]:
    """Nodes with a token and database in common, the first one with two workers; `more` follows in [store]."""
    with ExitStack() as stack:
        primary = new_cluster(Network(free_port()))
        servers = [primary, primary.standby(Network(free_port()))]
        stack.callback(lambda: [one.stop() for one in servers])
        proxy = stack.enter_context(DatabaseProxy(count, [one.port for one in servers]))
        name = primary.database().url.database
        folders = [folder / f"node-{number}" for number in range(1, count + 1)]
        for one in folders:
            one.mkdir()
        store = _store(proxy.ports[0], name, more)
        first = stack.enter_context(provisioned(folders[0], workers=2, extra=store, custody="object"))
        nodes = [first]
        for one, ports in zip(folders[1:], proxy.ports[1:], strict=True):
            port, store = free_port(), _store(ports, name, more)
            config = write_config(one, first.place, port, extra=store, custody="object")
            node = Daemon(one, first.place, port, config)
            node.admin = first.admin
            node.cli("join", "--name", one.name)
            nodes.append(node)
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        yield ClusterSite(servers, proxy, nodes, first.user("grantee"), first.user("guest"))
