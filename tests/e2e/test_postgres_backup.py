"""`kmsd backup` and `kmsd restore` of a PostgreSQL database with two nodes: nothing comes back unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clients import code_of
from tests.support.daemon import Daemon, eventually, free_port, provisioned, write_config
from tests.support.postgres import Cluster, new_cluster

PLAIN = b"a secret"


@dataclass
class Site:
    """A server, and two hosts with one token."""

    server: Cluster
    first: Daemon
    second: Daemon


def use(daemon: Daemon, url: str) -> None:
    """Let kmsd.toml name another database; empty: the file in the data folder."""
    text = daemon.config.read_text().split("[store]")[0]
    daemon.config.write_text(text + (f'[store]\nurl = "{url}"\n' if url else ""))


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Iterator[Site]:
    server = new_cluster()
    store = f'[store]\nurl = "{server.url()}"\n'
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    try:
        with provisioned(tmp_path / "first", extra=store, custody="object") as first:
            port, folder = free_port(), tmp_path / "second"
            config = write_config(folder, first.place, port, extra=store, custody="object")
            second = Daemon(folder, first.place, port, config)
            second.admin = first.admin
            second.cli("join", "--name", "second")
            yield Site(server, first, second)
            first.stop()
            second.stop()
    finally:
        server.stop()


def test_the_database_is_lost(site: Site, tmp_path: Path) -> None:
    """What another node has taken away since is listed, or its trail is asked for. Both hosts serve again."""
    first, second, file = site.first, site.second, str(tmp_path / "kmsd.backup")
    first.start()
    second.start()
    kms = first.client()
    key_id, other = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    blob = second.client().encrypt(KeyId=key_id, Plaintext=PLAIN)["CiphertextBlob"]
    eventually(lambda: first.cli("audit", "published").stdout.count(b"worker-0") == 2, first)
    first.cli("backup", file)
    second.client().disable_key(KeyId=other)
    first.stop()
    second.stop()

    taken = first.cli("restore", file, check=False)
    assert (taken.returncode, b"has tables of kmsd" in taken.stderr) == (73, True), taken.stderr
    url = site.server.url()
    use(first, url)
    use(second, url)
    unseen = first.cli("restore", file, check=False)
    assert (unseen.returncode, b"Name copies of their folders with --trail" in unseen.stderr) == (65, True)
    trail = ("--trail", str(second.data / "audit"))
    refused = first.cli("restore", file, *trail, check=False)
    assert (refused.returncode, b"--accept-revived" in refused.stderr) == (65, True), refused.stderr
    assert f"DisableKey arn:aws:kms:us-east-1:000000000000:key/{other}".encode() in refused.stdout
    assert b"tables of kmsd" not in first.cli("restore", file, *trail, check=False).stderr  # nothing was changed
    first.cli("restore", file, *trail, "--accept-revived", "--accept-rollback")

    first.start()
    assert first.client().decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    assert code_of(first.client().encrypt, KeyId=other, Plaintext=PLAIN) == ""
    assert b"this host is no node" in second.cli("user", "list", check=False).stderr
    second.cli("join")
    second.start()
    second.client().disable_key(KeyId=other)
    assert code_of(first.client().encrypt, KeyId=other, Plaintext=PLAIN) == "DisabledException"
    assert second.client().decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    first.cli("check")
    first.stop()
    second.stop()
    first.cli("audit", "verify", str(first.data / "audit"), str(second.data / "audit"))

    # The same backup is good for a host with a file, too.
    use(first, "")
    first.cli("restore", file, "--accept-revived", "--accept-rollback", "--replace")
    first.start()
    assert first.client().decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    first.stop()
