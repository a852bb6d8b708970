"""Several nodes on a primary and its synchronous standby, with a proxy between them; and failovers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.clients import Credentials
from tests.support.daemon import Daemon, free_port, provisioned, write_config
from tests.support.database_proxy import DatabaseProxy
from tests.support.postgres import Cluster, Network, new_cluster


@dataclass(kw_only=True)
class ServingNodes:
    """Nodes that serve, and users for their clients."""

    nodes: list[Daemon]
    grantee: Credentials
    """A user who is allowed nothing but by a grant."""
    guest: Credentials
    """A user who is allowed nothing but by a key policy."""


@dataclass(kw_only=True)
class ClusterSite(ServingNodes):
    """They, and their servers."""

    servers: list[Cluster]
    """By their place in the nodes' URL."""
    proxy: DatabaseProxy
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


def store(ports: Sequence[int], database: str, more: str = "") -> str:
    """The table of kmsd.toml that names these servers; `more` follows in it."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f'[store]\nurl = "postgresql://kmsd@{hosts}/{database}"\ntls = "off"\n{more}'


@contextmanager
def serving_nodes(folder: Path, stores: Sequence[str]) -> Iterator[ServingNodes]:
    """Nodes with a token in common, one for each of these tables; the first one has two workers."""
    with ExitStack() as stack:
        folders = [folder / f"node-{number}" for number in range(1, len(stores) + 1)]
        for one in folders:
            one.mkdir()
        first = stack.enter_context(provisioned(folders[0], workers=2, extra=stores[0], custody="object"))
        nodes = [first]
        for one, table in zip(folders[1:], stores[1:], strict=True):
            port = free_port()
            node = Daemon(one, first.place, port, write_config(one, first.place, port, extra=table, custody="object"))
            node.admin = first.admin
            node.cli("join", "--name", one.name)
            nodes.append(node)
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        yield ServingNodes(nodes=nodes, grantee=first.user("grantee"), guest=first.user("guest"))


@contextmanager
def cluster_site(folder: Path, count: int = 3, more: str = "") -> Iterator[ClusterSite]:
    """Nodes with a token and database in common, the first one with two workers; `more` follows in [store]."""
    with ExitStack() as stack:
        primary = new_cluster(Network(free_port()))
        servers = [primary, primary.standby(Network(free_port()))]
        stack.callback(lambda: [one.stop() for one in servers])
        proxy = stack.enter_context(DatabaseProxy(count, [one.port for one in servers]))
        name = primary.database().url.database
        stores = [store(ports, name, more) for ports in proxy.ports]
        found = stack.enter_context(serving_nodes(folder, stores))
        yield ClusterSite(servers=servers, proxy=proxy, nodes=found.nodes, grantee=found.grantee, guest=found.guest)
