"""docs/postgresql.md: every command and every configuration, from a new server to a daemon that serves over TLS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from kmsd.config import settings as configuration
from tests.support.certificates import self_signed
from tests.support.daemon import Daemon, credentials_of, free_port, write_config
from tests.support.page_commands import ROOT, commands
from tests.support.postgres import Cluster, Network, new_cluster
from tests.support.tokens import softhsm

PAGE = "docs/postgresql.md"
ENCRYPTED = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'kmsd'"


def fenced(mark: str, kind: str) -> str:
    """A block of the page that is no command."""
    found = re.search(rf"<!-- {mark} -->\n```{kind}\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    assert found is not None, mark
    return found[1]


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[Cluster]:
    """A new server with its own superuser, and with TLS."""
    found = new_cluster(Network(free_port(), self_signed(tmp_path)), superuser="postgres")
    yield found
    found.stop()


def typed(script: str, folder: Path, **environment: str) -> str:
    """What the shell prints for these commands."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    # `kmsd check` warns of the clock of a test host.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def require_lines(mark: str, printed: list[str]) -> None:
    """Each line of the page's block is printed; `…` stands for anything."""
    for line in fenced(mark, "text").splitlines():
        assert any(fnmatchcase(one, line.replace("…", "*")) for one in printed), printed


def test_from_a_new_server_to_a_daemon(server: Cluster, tmp_path: Path) -> None:
    """The hosts, the password's file and the authority are those of the test."""
    at_server = {"PGHOST": str(server.folder), "PGPORT": str(server.port), "PGUSER": "postgres"}
    typed(commands(PAGE, "role") + commands(PAGE, "password"), tmp_path, **at_server)
    (tmp_path / "database-password").chmod(0o600)
    settings = fenced("test: network", "toml")
    for theirs, ours in (
        ("db1.example.com:5432,db2.example.com:5432", f"127.0.0.1:1,127.0.0.1:{server.port}"),
        ("credential:database-password", str(tmp_path / "database-password")),
        ("/etc/kmsd/tls/database-ca.pem", str(tmp_path / "cert.pem")),
    ):
        assert theirs in settings
        settings = settings.replace(theirs, ours)
    with softhsm(tmp_path / "token") as place:
        port = free_port()
        daemon = Daemon(tmp_path, place, port, write_config(tmp_path, place, port, extra=settings, custody="object"))
        kmsd = f'kmsd() {{ {sys.executable} -m kmsd --config {daemon.config} "$@"; }}\n'
        init, check = commands(PAGE, "init").splitlines(keepends=True)
        typed(kmsd + init, tmp_path)
        assert "AWS_SECRET_ACCESS_KEY" in (tmp_path / "admin.env").read_text()
        printed = typed(kmsd + check, tmp_path).splitlines()
        require_lines("output: check", printed)
        daemon.admin = credentials_of(daemon.cli("access-key", "create", "admin", "--format", "json").stdout)
        daemon.start()
        kms = daemon.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"over TLS")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"over TLS"
        kms.close()
        assert server.run_sql(ENCRYPTED) == "t"
        second = _join(tmp_path / "node-2", daemon, settings)
        daemon.stop()
        _restore(server, daemon, second)


def _restore(server: Cluster, first: Daemon, second: Daemon) -> None:
    """The second host is lost, then the database: both serve again."""
    backups = first.folder / "backups"
    backups.mkdir()
    here = {"/srv/backups": str(backups), "node-2/audit": str(second.data / "audit")}

    def run(daemon: Daemon, script: str) -> None:
        for theirs, ours in here.items():
            script = script.replace(theirs, ours)
        typed(f'kmsd() {{ {sys.executable} -m kmsd --config {daemon.config} "$@"; }}\n' + script, daemon.folder)

    remove, join = commands(PAGE, "lost node").splitlines()
    run(first, remove.replace("node-2", "node-2 --force", 1))
    run(second, join)
    run(first, commands(PAGE, "backup"))
    server.run_sql("ALTER DATABASE kmsd RENAME TO lost")
    server.run_sql("CREATE DATABASE kmsd OWNER kmsd ENCODING 'UTF8' TEMPLATE template0")
    run(first, commands(PAGE, "lost database"))
    run(second, commands(PAGE, "join again"))
    first.start()
    second.start()
    key_id = first.client().create_key()["KeyMetadata"]["KeyId"]
    assert second.client().describe_key(KeyId=key_id)["KeyMetadata"]["Enabled"]
    first.stop()
    second.stop()


def _join(folder: Path, first: Daemon, settings: str) -> Daemon:
    """A further host, whose daemon opens what the first one's has encrypted; stopped."""
    folder.mkdir()
    port = free_port()
    config = write_config(folder, first.place, port, extra=settings, custody="object")
    host = Daemon(folder, first.place, port, config)
    printed = typed(f'kmsd() {{ {sys.executable} -m kmsd --config {config} "$@"; }}\n' + commands(PAGE, "join"), folder)
    require_lines("output: join", printed.splitlines())
    host.admin = first.admin
    host.start()
    kms, other = first.client(), host.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"here")["CiphertextBlob"]
    assert other.decrypt(CiphertextBlob=blob)["Plaintext"] == b"here"
    kms.close()
    other.close()
    host.stop()
    return host


@pytest.mark.parametrize("name", ["socket", "network"])
def test_the_configurations(name: str) -> None:
    """They are accepted as they stand."""
    token = '[token]\nmodule = "/m"\nlabel = "l"\npin_file = "credential:pin"\n'
    assert configuration.parse(token + fenced(f"test: {name}", "toml"), Path("kmsd.toml")).store.url
