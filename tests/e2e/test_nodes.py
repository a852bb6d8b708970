"""Several hosts on one PostgreSQL and one token: each has a data folder of its own."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError

from kmsd.adapters.audit_trail.format import COPIES
from tests.support.audit_trail import own_lines
from tests.support.clients import code_of
from tests.support.daemon import Daemon, eventually
from tests.support.nodes import Pair, Site, first_of_nodes, two_nodes
from tests.support.tokens import another_softhsm

PLAIN = b"a secret"


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with first_of_nodes(tmp_path_factory.mktemp("first")) as found:
        yield found


def refused(host: Daemon, *arguments: str) -> tuple[int, str]:
    """Exit status and reason of a command."""
    done = host.cli(*arguments, check=False)
    return done.returncode, done.stderr.decode()


def nodes(host: Daemon) -> list[str]:
    """Names of the nodes, as a host lists them."""
    return [line.split()[0] for line in host.cli("node", "list").stdout.decode().splitlines()]


def test_a_host_that_has_not_joined_is_refused(site: Site, tmp_path: Path) -> None:
    """Daemon and commands, by name; `kmsd init` does not make it a node either. It harms no key of the first host."""
    host = site.host(tmp_path / "second")
    host.data.mkdir()
    for command in (("user", "list"), ("jobs", "run", "reconcile"), ("migrate",), ("serve",)):
        status, text = refused(host, *command)
        assert (status, "this host is no node of the database" in text) == (78, True), text
    status, text = refused(host, "init")
    assert (status, "`kmsd join` makes this host a further one" in text) == (73, True), text
    assert len(nodes(site.first)) == 1


def test_join_and_remove(site: Site, tmp_path: Path) -> None:
    """A host joins once, under a name that is free; both acts are in the trail. Removed, it is refused again."""
    host = site.host(tmp_path / "second")
    (first,) = nodes(site.first)
    status, text = refused(host, "join", "--name", first)
    assert (status, f"there is a node {first} already" in text) == (73, True), text
    host.cli("join", "--name", "second")
    assert sorted(nodes(host)) == sorted([first, "second"])
    as_json = [json.loads(line) for line in host.cli("node", "list", "--json").stdout.splitlines()]
    assert {one["name"]: one["seen_seconds_ago"] < 60 for one in as_json} == {first: True, "second": True}
    assert refused(host, "join", "--name", "third") == (73, "kmsd: this host is the node second already\n")
    assert "node second, one of 2" in host.cli("check").stdout.decode()
    status, text = refused(site.first, "node", "remove", "second")
    assert (status, "was seen less than a minute ago" in text) == (75, True), text
    status, text = refused(host, "node", "remove", "second")
    assert (status, "remove it from another node" in text) == (65, True), text
    assert refused(host, "node", "remove", "fourth")[0] == 66
    site.first.cli("node", "remove", "second", "--force")
    status, text = refused(host, "user", "list")
    assert (status, "it was removed" in text) == (78, True), text
    assert nodes(site.first) == [first]
    assert [one["eventName"] for one in host.audit_records()][:2] == ["JoinNode"] * 2
    assert [one["eventName"] for one in site.first.audit_records()][-2:] == ["RemoveNode"] * 2


def test_a_foreign_token_is_refused(site: Site, tmp_path: Path) -> None:
    """One that lacks the daemon's own objects. Nothing is changed."""
    foreign = another_softhsm(site.first.place, "foreign")
    host = site.host(tmp_path / "second", foreign)
    status, text = refused(host, "join", "--name", "second")
    assert (status, "it is another token" in text) == (78, True), text
    assert len(nodes(site.first)) == 1
    assert not (host.data / "node.json").exists()


@pytest.fixture
def _late_server(site: Site) -> Iterator[None]:
    """The server's time of day is a minute ahead of the hosts'."""
    name = site.sql("SELECT current_database()")
    site.sql(
        "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
        "$$ SELECT pg_catalog.clock_timestamp() + interval '1 minute' $$"
    )
    site.sql(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    yield
    site.sql(f"ALTER DATABASE {name} RESET search_path")
    site.sql("DROP FUNCTION public.clock_timestamp()")


@pytest.mark.usefixtures("_late_server")
def test_another_time_is_refused(site: Site, tmp_path: Path) -> None:
    """By more than some seconds; on a host that has joined, `kmsd check` warns of it."""
    status, text = refused(site.host(tmp_path / "second"), "join", "--name", "second")
    assert (status, "the clock of this host is -60 s from the database's" in text) == (78, True), text
    assert "the clock is -60 s from the database's" in site.first.cli("check").stdout.decode()
    assert len(nodes(site.first)) == 1


def test_another_version_is_refused(site: Site, tmp_path: Path) -> None:
    """Of the tables; and a database without tables, or without nodes."""
    host = site.host(tmp_path / "second")
    site.sql("UPDATE schema_version SET version = version + 1, compatible = version + 1")
    status, text = refused(host, "join")
    site.sql("UPDATE schema_version SET version = version - 1, compatible = version - 1")
    assert (status, "it was written by a newer release" in text) == (78, True), text
    empty = replace(site, store=f'[store]\nurl = "{site.server.url()}"\n').host(tmp_path / "third")
    status, text = refused(empty, "join")
    assert (status, "run `kmsd init`" in text) == (78, True), text


def test_sqlite_has_no_nodes(tmp_path: Path, site: Site) -> None:
    """The commands say so."""
    host = replace(site, store="").host(tmp_path / "alone")
    for command in (("join",), ("node", "list"), ("node", "remove", "x")):
        status, text = refused(host, *command)
        assert (status, "nodes need PostgreSQL" in text) == (78, True), text


@pytest.fixture(name="pair")
def _pair(site: Site, tmp_path: Path) -> Iterator[Pair]:
    """Two hosts that serve."""
    with two_nodes(site, tmp_path / "second") as found:
        yield found


def test_a_change_on_one_host_holds_at_once_on_the_other(pair: Pair) -> None:
    """Key state, alias, grant and key policy, in both directions. Each uses the keys that the other has made."""
    user = pair[0].user("grantee")
    for here, there in (pair, pair[::-1]):
        kms, other, grantee = here.client(), there.client(), there.client(credentials=user)
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = other.encrypt(KeyId=key_id, Plaintext=PLAIN)["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
        for _ in range(3):
            kms.disable_key(KeyId=key_id)
            assert code_of(other.encrypt, KeyId=key_id, Plaintext=PLAIN) == "DisabledException"
            kms.enable_key(KeyId=key_id)
            kms.create_alias(AliasName="alias/now", TargetKeyId=key_id)
            assert code_of(other.encrypt, KeyId="alias/now", Plaintext=PLAIN) == ""
            kms.delete_alias(AliasName="alias/now")
            assert code_of(other.encrypt, KeyId="alias/now", Plaintext=PLAIN) == "NotFoundException"
            grant = kms.create_grant(KeyId=key_id, GranteePrincipal=user.arn, Operations=["Encrypt"])["GrantId"]
            assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=PLAIN) == ""
            kms.revoke_grant(KeyId=key_id, GrantId=grant)
            assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=PLAIN) == "AccessDeniedException"
            policy = json.loads(kms.get_key_policy(KeyId=key_id)["Policy"])
            allowed = {"Effect": "Allow", "Principal": {"AWS": user.arn}, "Action": "kms:Encrypt", "Resource": "*"}
            both = {**policy, "Statement": [*policy["Statement"], allowed]}
            kms.put_key_policy(KeyId=key_id, Policy=json.dumps(both))
            assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=PLAIN) == ""
            kms.put_key_policy(KeyId=key_id, Policy=json.dumps(policy))
            assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=PLAIN) == "AccessDeniedException"
        for one in (kms, other, grantee):
            one.close()


def test_their_trails_anchor_one_another(pair: tuple[Daemon, Daemon]) -> None:
    """Each record names its node; `kmsd audit` reads both trails at once, and finds one that was cut."""
    first, second = pair
    (name,) = set(nodes(first)) - {"second"}
    for host, name_of_host in ((first, name), (second, "second")):
        host.client().create_key()
        assert host.audit_records()[-1]["node"] == name_of_host
    folders = [str(host.data / "audit") for host in pair]
    shown = first.cli("audit", "show", "--operation", "CreateKey", *folders).stdout.decode().splitlines()
    assert [json.loads(line)["node"] for line in shown[-2:]] == [name, "second"]
    node_id = json.loads((second.data / "node.json").read_text())["node_id"]

    def is_anchored() -> bool:
        anchored = [one["checkpoint"] for one in own_lines(first.data / "audit", "anchor")]
        return ("worker-0", node_id) in [(one["writer"], one["node"]) for one in anchored]

    eventually(is_anchored, first)
    second.stop()
    first.cli("audit", "verify", *folders)
    (second.data / "audit" / COPIES).unlink()
    cut = next((second.data / "audit").glob("worker-0.*.trail"))
    cut.write_bytes(cut.read_bytes().split(b"\n")[0] + b"\n")
    found = first.cli("audit", "verify", *folders, check=False)
    assert (found.returncode, b"the tail was cut off" in found.stdout) == (1, True), found.stdout
    anchor = first.cli("audit", "published").stdout
    found = first.cli("audit", "verify", "--anchor", "-", folders[1], check=False, stdin=anchor)
    assert (found.returncode, b"the tail was cut off" in found.stdout) == (1, True), found.stdout


def holder(site: Site) -> int:
    """Process id of the worker that runs the jobs; 0 while none does."""
    found = site.sql("SELECT holder FROM lease WHERE name = 'jobs'")
    return int(found.split(":")[1]) if found else 0


def test_a_host_is_frozen_and_killed(site: Site, pair: Pair) -> None:
    """The other serves what both made, runs the jobs, and settles what the first has left. That takes nothing back."""
    first, second = pair
    eventually(lambda: holder(site) in first.workers(), second)
    kms, other = first.client(), second.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=PLAIN)["CiphertextBlob"]
    # As if it had stopped between the intent and the object.
    site.sql(
        "INSERT INTO token_object (object_id, owner, status, created_at, token, maker, custody) "
        "SELECT decode(repeat('ab', 16), 'hex'), 'key:x', 'creating', seen_at, 'main', maker, 'object' "
        "FROM maker JOIN lease ON maker = split_part(holder, ' ', 2)::bigint WHERE name = 'jobs'"
    )
    assert left(site) == "ab" * 16
    first.signal_all(signal.SIGSTOP)
    assert other.decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    other.create_key()
    # Time passes: half a minute for the processes of the first host.
    site.sql(
        "UPDATE maker SET seen_at = seen_at - 31000000 "
        "WHERE node_id <> (SELECT node_id FROM node WHERE name = 'second')"
    )
    eventually(lambda: holder(site) in second.workers(), second)
    done = second.cli("jobs", "run", "reconcile").stdout.decode()
    assert left(site) == "", done
    first.signal_all(signal.SIGCONT)
    assert (
        kms.decrypt(CiphertextBlob=kms.encrypt(KeyId=key_id, Plaintext=PLAIN)["CiphertextBlob"])["Plaintext"] == PLAIN
    )
    kms.create_key()
    assert (holder(site) in second.workers(), left(site)) == (True, "")
    first.kill()
    assert other.decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    kms.close()
    other.close()


def answer(act: Callable[..., Any], members: dict[str, str]) -> str:
    """The error of a call, also if it is no answer; empty if it works."""
    try:
        return code_of(act, **members)
    except BotoCoreError as error:
        return type(error).__name__


def test_a_frozen_host_that_is_removed(site: Site, pair: tuple[Daemon, Daemon]) -> None:
    """When it goes on, nothing takes effect of the calls that reached it while it was frozen, nor of later ones."""
    first, second = pair
    kms, clients = first.client(), [second.client(read_timeout=60) for _ in range(6)]
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    for one in clients:
        one.encrypt(KeyId=keys[0], Plaintext=PLAIN)  # the connections are there
    second.signal_all(signal.SIGSTOP)
    acts = [
        *((one.disable_key, {"KeyId": keys[0]}) for one in clients[:2]),
        *((one.create_alias, {"AliasName": "alias/frozen", "TargetKeyId": keys[1]}) for one in clients[2:4]),
        *((one.encrypt, {"KeyId": keys[0], "Plaintext": PLAIN}) for one in clients[4:]),
    ]
    with ThreadPoolExecutor(len(acts)) as threads:
        answers = [threads.submit(answer, *act) for act in acts]
        first.cli("node", "remove", "second", "--force")
        second.signal_all(signal.SIGCONT)
        assert {one.result() for one in answers} == {"KMSInternalException"}
    assert {answer(*act) for act in acts} == {"KMSInternalException"}
    assert kms.describe_key(KeyId=keys[0])["KeyMetadata"]["KeyState"] == "Enabled"
    assert code_of(kms.describe_key, KeyId="alias/frozen") == "NotFoundException"
    eventually(lambda: second.get("/readyz")[0] == 503, second)  # a good answer holds for a moment
    for one in (kms, *clients):
        one.close()
    second.stop()
    second.cli("join", "--name", "second")


def left(site: Site) -> str:
    """Ids of the intents that are not settled."""
    return site.sql("SELECT encode(object_id, 'hex') FROM token_object WHERE status = 'creating'")
