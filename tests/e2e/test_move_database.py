"""`kmsd migrate --to`: a daemon's database goes to PostgreSQL and back, with everything in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.exit_codes import EXIT_CONFIG
from tests.support.daemon import Daemon, provisioned
from tests.support.postgres import Cluster, new_cluster
from tests.support.workload import Writers, assert_all_there

PLAIN = b"a secret"


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Cluster]:
    found = new_cluster()
    yield found
    found.stop()


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path) as found:
        yield found


def answers(daemon: Daemon, key_ids: list[str]) -> Any:
    """What the daemon says of keys, aliases, grants, tags and policies."""
    kms = daemon.client()
    found: dict[str, Any] = {"aliases": kms.list_aliases()["Aliases"], "keys": kms.list_keys()["Keys"]}
    for key_id in key_ids:
        found[key_id] = [
            kms.describe_key(KeyId=key_id)["KeyMetadata"],
            kms.get_key_policy(KeyId=key_id)["Policy"],
            kms.list_resource_tags(KeyId=key_id)["Tags"],
            kms.list_grants(KeyId=key_id)["Grants"],
            kms.list_key_rotations(KeyId=key_id)["Rotations"],
        ]
    return found


def filled(daemon: Daemon) -> list[str]:
    """Keys in several states, with what belongs to them; their ids."""
    kms = daemon.client()
    made = [kms.create_key(Tags=[{"TagKey": "a", "TagValue": str(n)}])["KeyMetadata"]["KeyId"] for n in range(3)]
    kms.create_alias(AliasName="alias/payments", TargetKeyId=made[0])
    kms.create_grant(KeyId=made[0], GranteePrincipal=daemon.admin.arn, Operations=["Decrypt"], Name="a-grant")
    kms.rotate_key_on_demand(KeyId=made[0])
    kms.disable_key(KeyId=made[1])
    kms.schedule_key_deletion(KeyId=made[2], PendingWindowInDays=7)
    return made


def configured(daemon: Daemon, url: str) -> None:
    """Let kmsd.toml name this database."""
    text = daemon.config.read_text().split("[store]")[0]
    daemon.config.write_text(text + (f'[store]\nurl = "{url}"\n' if url else ""))


def test_to_postgresql_and_back(own: Daemon, server: Cluster) -> None:
    """All answers are the same, every blob opens, what was acknowledged is there; the old database is refused."""
    own.start()
    writers = Writers(own, threads=1)
    made, blob = filled(own), own.client().encrypt(KeyId="alias/payments", Plaintext=PLAIN)["CiphertextBlob"]
    said = answers(own, made)
    url = server.url()
    refused = own.cli("migrate", "--to", url, check=False)
    assert (refused.returncode, b"stop it first" in refused.stderr) == (75, True), refused.stderr
    own.stop()
    told = own.cli("migrate", "--to", url).stdout.decode()
    assert f'set [store] url = "{url}"' in told
    assert own.cli("user", "list", check=False).returncode == EXIT_CONFIG
    configured(own, url)
    own.start()
    assert answers(own, made) == said
    assert own.client().decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    again = own.cli("migrate", "--to", url, check=False)
    assert b"the database is PostgreSQL already" in again.stderr
    more = own.client().create_key()["KeyMetadata"]["KeyId"]
    said = answers(own, [*made, more])
    own.stop()
    own.cli("migrate", "--to", "sqlite")
    assert b"this host is no node" in own.cli("user", "list", check=False).stderr
    configured(own, "")
    own.start()
    assert answers(own, [*made, more]) == said
    assert own.client().decrypt(CiphertextBlob=blob)["Plaintext"] == PLAIN
    writers.start()
    writers.stop()
    assert_all_there(own, writers.done)
    own.cli("check")
    own.stop()
    moves = [one for one in own.audit_records() if one["eventName"] == "MoveDatabase"]
    assert [one["additionalEventData"]["phase"] for one in moves] == ["intent", "outcome"] * 2
    assert [one["responseElements"]["keys"] for one in moves[1::2]] == [3, 4]
    own.cli("audit", "verify")


def test_what_is_in_the_way(own: Daemon, server: Cluster) -> None:
    """A database that has kmsd's tables, a URL that is none: refused, and the daemon serves as before."""
    url = server.url()
    own.cli("migrate", "--to", url)
    own.data.joinpath("kmsd.sqlite.moved").rename(own.data / "kmsd.sqlite")
    taken = own.cli("migrate", "--to", url, check=False)
    assert (taken.returncode, b"a move needs an empty database" in taken.stderr) == (73, True), taken.stderr
    wrong = own.cli("migrate", "--to", "mysql://x", check=False)
    assert (wrong.returncode, b"--to" in wrong.stderr) == (65, True), wrong.stderr
    same = own.cli("migrate", "--to", "sqlite", check=False)
    assert (same.returncode, b"SQLite already" in same.stderr) == (65, True), same.stderr
    own.start()
    assert json.loads(json.dumps(own.client().list_keys()["Keys"])) == []
