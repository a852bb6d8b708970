"""The daemon over PostgreSQL: two workers, restarts, and a server that is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.clients import code_of
from tests.support.daemon import Daemon, eventually, free_port, provisioned
from tests.support.metrics_page import ON_POSTGRESQL, Watched, of
from tests.support.polling import until
from tests.support.postgres import Cluster, Network, new_cluster

PLAIN = b"a secret"
RETRYABLE = {"KMSInternalException", "DependencyTimeoutException"}


@dataclass
class Site:
    """A daemon with two workers, and the server of its database."""

    daemon: Daemon
    server: Cluster
    metrics: int

    def clients(self) -> list[Any]:
        """Clients on connections of their own, of which each worker has some."""
        return [self.daemon.client() for _ in range(12)]


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server, port = new_cluster(), free_port()
    extra = f'[metrics]\naddress = "127.0.0.1:{port}"\n[store]\nurl = "{server.url()}"\n'
    try:
        with provisioned(tmp_path_factory.mktemp("daemon"), workers=2, extra=extra, custody="object") as daemon:
            daemon.start()
            yield Site(daemon, server, port)
            daemon.cli("check")
    finally:
        server.stop()


@pytest.fixture
def kms(site: Site) -> Iterator[Any]:
    """The administrator's client."""
    found = site.daemon.client()
    yield found
    found.close()


def test_a_change_holds_at_once_in_all_workers(site: Site, kms: Any) -> None:
    """A key that is disabled, enabled, or taken from a grantee."""
    key_id = kms.create_key(Description="payments")["KeyMetadata"]["KeyId"]
    user = site.daemon.user("grantee")
    clients, others = site.clients(), [site.daemon.client(credentials=user) for _ in range(12)]
    for _ in range(3):
        assert [code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in clients] == [""] * 12
        kms.disable_key(KeyId=key_id)
        assert {code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in clients} == {"DisabledException"}
        kms.enable_key(KeyId=key_id)
        grant = kms.create_grant(KeyId=key_id, GranteePrincipal=user.arn, Operations=["Encrypt"])["GrantId"]
        assert [code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in others] == [""] * 12
        kms.revoke_grant(KeyId=key_id, GrantId=grant)
        assert {code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in others} == {"AccessDeniedException"}
    for one in (*clients, *others):
        one.close()


def test_all_is_there_after_a_restart(site: Site) -> None:
    """Keys, aliases, policies, tags and what was encrypted; users, too."""
    kms = site.daemon.client()
    key = kms.create_key(Tags=[{"TagKey": "team", "TagValue": "a"}])["KeyMetadata"]
    key_id, policy = key["KeyId"], json.loads(kms.get_key_policy(KeyId=key["KeyId"])["Policy"])
    policy["Id"] = "changed"
    kms.put_key_policy(KeyId=key_id, Policy=json.dumps(policy))
    kms.create_alias(AliasName="alias/payments", TargetKeyId=key_id)
    blob = kms.encrypt(KeyId="alias/payments", Plaintext=PLAIN)["CiphertextBlob"]
    kms.close()
    site.daemon.stop()
    site.daemon.start()
    kms = site.daemon.client()
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    assert json.loads(kms.get_key_policy(KeyId=key_id)["Policy"]) == policy
    assert kms.list_resource_tags(KeyId=key_id)["Tags"] == [{"TagKey": "team", "TagValue": "a"}]
    kms.close()


def test_what_it_cannot_do_it_refuses_by_name(site: Site, kms: Any) -> None:
    """The log service, and what depends on it; a text that the database cannot hold. Nothing is changed."""
    logs = site.daemon.client("logs")
    with pytest.raises(logs.exceptions.InvalidParameterException, match="DescribeLogGroups is not offered while"):
        logs.describe_log_groups()
    logs.close()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    with pytest.raises(kms.exceptions.UnsupportedOperationException, match="GetKeyLastUsage is not offered while"):
        kms.get_key_last_usage(KeyId=key_id)
    before = len(kms.list_keys()["Keys"])
    for act in (
        lambda: kms.create_key(Description="\0"),
        lambda: kms.update_key_description(KeyId=key_id, Description="a\0b"),
    ):
        with pytest.raises(Exception, match=r"ValidationException.*U\+0000"):
            act()
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["Description"] == ""
    assert len(kms.list_keys()["Keys"]) == before


def test_metrics_and_check(site: Site, kms: Any) -> None:
    """The numbers of the database, its server and nodes are on the page; the check names what is not offered."""
    kms.create_key()
    watched = Watched(site.daemon, site.metrics)
    watched.when("kmsd_source_failed", 0, source="database")
    until(lambda: of(watched.samples(), "kmsd_store_question_seconds_count") > 0)
    page = watched.samples()
    assert of(page, "kmsd_keys", state="Enabled") >= 1
    assert {name for name, _ in page} >= ON_POSTGRESQL
    assert (of(page, "kmsd_nodes", state="alive"), of(page, "kmsd_nodes", state="silent")) == (1, 0)
    assert (of(page, "kmsd_store_timeline"), of(page, "kmsd_store_failovers_total")) == (1, 0)
    assert (of(page, "kmsd_store_standbys"), of(page, "kmsd_store_needs_standby")) == (0, 0)
    assert of(page, "kmsd_store_wal_bytes") > 0
    findings = site.daemon.cli("check").stdout.decode()
    assert f"PostgreSQL at {site.server.folder}:5432/" in findings
    assert "not offered while the database is PostgreSQL: CloudWatch Logs" in findings
    assert site.daemon.get("/readyz") == (200, {"status": "ok", "token": "ok", "store": "ok", "audit": "ok"})


@dataclass
class Writer:
    """Creates keys during the block, and notes what was acknowledged and which errors came."""

    daemon: Daemon
    created: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _run(self) -> None:
        kms = self.daemon.client()
        while not self.ended.is_set():
            code = code_of(lambda: self.created.append(kms.create_key()["KeyMetadata"]["KeyId"]))
            if code:
                self.errors.append(code)
        kms.close()


def test_the_server_is_killed(site: Site) -> None:
    """Clients get errors that they retry, and are served once the server is back; nothing acknowledged is lost."""
    with Writer(site.daemon) as writer:
        eventually(lambda: len(writer.created) >= 5, site.daemon)
        site.server.kill()
        eventually(lambda: len(writer.errors) >= 3, site.daemon)
        eventually(lambda: site.daemon.get("/readyz")[1].get("store") == "unavailable", site.daemon)
        site.server.start()
        served = len(writer.created)
        eventually(lambda: len(writer.created) >= served + 5, site.daemon)
    assert set(writer.errors) <= RETRYABLE
    assert len(site.daemon.workers()) == 2
    kms = site.daemon.client()
    keys = {key["KeyId"] for page in kms.get_paginator("list_keys").paginate() for key in page["Keys"]}
    assert set(writer.created) <= keys
    kms.encrypt(KeyId=writer.created[0], Plaintext=PLAIN)
    kms.close()
    eventually(lambda: site.daemon.get("/readyz")[0] == 200, site.daemon)
    # What was answered with an error has left no object in the token, or one that `reconcile` knows of.
    site.daemon.cli("jobs", "run", "reconcile")


@pytest.fixture(name="init")
def _init(tmp_path: Path, site: Site) -> Callable[[str], tuple[int, str]]:
    """`kmsd init` with a URL and a data folder of its own: exit status, and what it says."""
    present = site.daemon.config.read_text().replace(str(site.daemon.data), str(tmp_path / "data"))
    (own,) = (line for line in present.splitlines() if line.startswith("url = "))

    def run(url: str) -> tuple[int, str]:
        config = tmp_path / "kmsd.toml"
        config.write_text(present.replace(own, f'url = "{url}"'))
        done = replace(site.daemon, config=config, process=None).cli("init", "--beside", check=False)
        return done.returncode, done.stderr.decode()

    return run


def test_the_server_is_away_when_the_daemon_starts(site: Site) -> None:
    """The daemon waits, says what for, and serves as soon as the server is there."""
    site.daemon.stop()
    site.server.kill()
    site.daemon.start(ready=False)
    eventually(lambda: site.daemon.get("/readyz") == (503, {"status": "failed", "store": "unavailable"}), site.daemon)
    site.server.start()
    site.daemon.wait_ready()


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its synchronous standby, on the network."""
    primary = new_cluster(Network(free_port()))
    standby = primary.standby(Network(free_port()))
    yield primary, standby
    for one in (primary, standby):
        one.stop()


def test_a_failover(tmp_path: Path, pair: tuple[Cluster, Cluster]) -> None:
    """The primary is frozen, its standby promoted, and then the old primary goes on. What was acknowledged holds.

    The metrics show the standby, its promotion, and that each worker has noticed.
    """
    primary, standby = pair
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    url = f"postgresql://kmsd@{hosts}/{primary.database().url.database}"
    metrics = free_port()
    extra = f'[metrics]\naddress = "127.0.0.1:{metrics}"\n[store]\nurl = "{url}"\ntls = "off"\n'
    with provisioned(tmp_path, workers=2, extra=extra, custody="object") as daemon:
        daemon.start()
        kms, clients = daemon.client(), [daemon.client() for _ in range(12)]
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        assert {code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in clients} == {""}
        watched = Watched(daemon, metrics)
        page = watched.when("kmsd_store_standbys", 1)
        assert (of(page, "kmsd_store_needs_standby"), of(page, "kmsd_store_timeline")) == (1, 1)
        with Writer(daemon) as writer:
            eventually(lambda: len(writer.created) >= 5, daemon)
            kms.disable_key(KeyId=key_id)
            primary.freeze()
            standby.promote()
            served = len(writer.created)
            eventually(lambda: len(writer.created) >= served + 5, daemon)
            primary.thaw()
            served = len(writer.created)
            eventually(lambda: len(writer.created) >= served + 5, daemon)
        assert set(writer.errors) <= RETRYABLE
        keys = {key["KeyId"] for page in kms.get_paginator("list_keys").paginate() for key in page["Keys"]}
        assert set(writer.created) <= keys
        assert {code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in clients} == {"DisabledException"}
        kms.enable_key(KeyId=key_id)
        assert {code_of(one.encrypt, KeyId=key_id, Plaintext=PLAIN) for one in clients} == {""}
        page = watched.when("kmsd_store_failovers_total", 2)
        assert (of(page, "kmsd_store_standbys"), of(page, "kmsd_store_timeline")) == (0, 2)
        assert of(page, "kmsd_store_question_retries_total") >= 1
        for one in (kms, *clients):
            one.close()


def test_init_says_what_is_wrong(site: Site, init: Callable[[str], tuple[int, str]]) -> None:
    """No server, no database, a database of another program, one of another version."""
    status, text = init("postgresql://kmsd@/kmsd?host=/nonexistent")
    assert status == 75
    assert "no server of kmsd accepts writes (/nonexistent:5432: the database cannot be reached" in text
    status, text = init(f"postgresql://kmsd@/absent?host={site.server.folder}")
    assert status == 78
    assert 'database "absent" does not exist' in text
    settings = site.server.database()
    name = settings.url.database
    site.server.run_sql("CREATE TABLE account (x int)", name)
    url = f"postgresql://kmsd@/{name}?host={site.server.folder}"
    status, text = init(url)
    assert (status, f"{settings.url} holds tables of another program" in text) == (78, True)
    site.server.run_sql("DROP TABLE account", name)
    assert init(url)[0] == 0
    site.server.run_sql("UPDATE schema_version SET version = 99, compatible = 99", name)
    status, text = init(url)
    assert status == 78
    assert "it was written by a newer release" in text
