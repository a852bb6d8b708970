"""The PostgreSQL store over TCP: TLS with verification, and a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.adapters.postgres import schema
from kmsd.config import settings as configuration
from kmsd.config.settings import ConfigError
from kmsd.database import database_of
from kmsd.ports import StoreUnavailable, StoreUnfit
from tests.support.certificates import self_signed
from tests.support.daemon import free_port
from tests.support.postgres import Cluster, Network, new_cluster

PASSWORD = "p: @/pässwörd"


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server whose certificate names 127.0.0.1."""
    found = new_cluster(Network(free_port(), self_signed(tmp_path_factory.mktemp("tls"))))
    found.run_sql(f"ALTER ROLE kmsd PASSWORD '{PASSWORD}'")
    yield found
    found.stop()


async def opens(server: Cluster, folder: Path, lines: str, host: str = "127.0.0.1") -> None:
    """Open a database of the server as these settings say. Raises the store's errors, `ConfigError`."""
    database = server.database()
    await schema.create(database)
    url = f"postgresql://kmsd@{host}:{server.port}/{database.url.database}"
    token = '[token]\nmodule = "/m"\nlabel = "l"\npin_file = "/p"\n'
    config = configuration.parse(f'{token}[store]\nurl = "{url}"\n{lines}', folder / "kmsd.toml")
    async with database_of(config).open_before_joining() as store:
        await store.read()


def authority(server: Cluster) -> Path:
    """Who signed the server's certificate."""
    assert server.network is not None
    assert server.network.tls is not None
    return server.network.tls[0]


@pytest.fixture(name="password")
def _password(tmp_path: Path) -> str:
    """The line of kmsd.toml that names the file of the password."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return f'password_file = "{tmp_path / "password"}"\n'


async def test_the_certificate_is_verified(server: Cluster, tmp_path: Path, password: str) -> None:
    """Its authority and the name in it."""
    ours = f'{password}tls_ca = "{authority(server)}"\n'
    await opens(server, tmp_path, ours)
    with pytest.raises(StoreUnavailable, match="certificate is not valid for 'localhost'"):
        await opens(server, tmp_path, ours, host="localhost")
    (tmp_path / "other").mkdir()
    another, _ = self_signed(tmp_path / "other", "another")
    for line in (f'tls_ca = "{another}"\n', ""):
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await opens(server, tmp_path, password + line)
    with pytest.raises(ConfigError, match=r"store.tls_ca: .*/none cannot be used"):
        await opens(server, tmp_path, f'{password}tls_ca = "{tmp_path / "none"}"\n')


async def test_without_tls_or_password(server: Cluster, tmp_path: Path, password: str) -> None:
    """The server lets in who has both, and what it answers is told."""
    with pytest.raises(StoreUnfit, match="no encryption"):
        await opens(server, tmp_path, f'{password}tls = "off"\n')
    (tmp_path / "password").write_text("another")
    with pytest.raises(StoreUnfit, match="password authentication failed"):
        await opens(server, tmp_path, f'{password}tls_ca = "{authority(server)}"\n')
    (tmp_path / "password").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        await opens(server, tmp_path, password)


async def test_a_server_without_tls_is_not_used(tmp_path: Path) -> None:
    """The connection is not made in the clear instead, unless the operator says so of this host."""
    server = new_cluster(Network(free_port()))
    try:
        with pytest.raises(StoreUnavailable, match="rejected SSL upgrade"):
            await opens(server, tmp_path, "")
        await opens(server, tmp_path, 'tls = "off"\n')
    finally:
        server.stop()
