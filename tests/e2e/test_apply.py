"""`kmsd apply` and `kmsd export`: identities and what belongs to keys, as a file under review."""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kmsd.config import settings
from kmsd.database import open_store
from kmsd.domain.alias import Alias
from kmsd.exit_codes import EXIT_DATA, EXIT_NOT_FOUND
from tests.support.clients import ACCOUNT, code_of
from tests.support.daemon import Daemon, provisioned
from tests.support.many_keys import make_keys

USERS, ROLES, KEYS = (500, 200, 1000) if "KMSD_TEST_SLOW" in os.environ else (50, 20, 20)
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
DOCUMENT = f"""
[[users]]
name = "admin"
policies.admin = '{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Action": "*", "Resource": "*"}}]}}'

[[users]]
name = "alice"
tags = {{ team = "blue" }}
[users.policies.read]
Version = "2012-10-17"
Statement = [{{ Effect = "Allow", Action = ["kms:DescribeKey", "kms:ListAliases"], Resource = "*" }}]

[[roles]]
name = "deploy"
max_session_seconds = 7200
[roles.trust]
Version = "2012-10-17"
Statement = [{{ Effect = "Allow", Principal = {{ AWS = "{ROOT}" }}, Action = "sts:AssumeRole" }}]

[[keys]]
alias = "alias/app"
aliases = ["alias/app-2", "alias/app-3"]
tags = {{ stage = "production" }}
[keys.policy]
Version = "2012-10-17"
Statement = [
  {{ Effect = "Allow", Principal = {{ AWS = "{ROOT}" }}, Action = "kms:*", Resource = "*" }},
]
[[keys.grants]]
name = "alice-encrypts"
grantee = "arn:aws:iam::{ACCOUNT}:user/alice"
operations = ["Encrypt", "DescribeKey"]
context_subset = {{ app = "shop" }}
"""


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that runs, with a key."""
    with provisioned(tmp_path_factory.mktemp("apply")) as found:
        found.start()
        kms = found.client()
        kms.create_alias(AliasName="alias/app", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
        yield found
        found.cli("check")


def apply(daemon: Daemon, text: str, folder: Path, *options: str) -> list[str]:
    """The lines that it prints."""
    (folder / "state.toml").write_text(text)
    return daemon.cli("apply", str(folder / "state.toml"), *options).stdout.decode().splitlines()


def refused(daemon: Daemon, text: str, folder: Path, status: int = EXIT_DATA, *options: str) -> str:
    """What it says of a file that it refuses."""
    (folder / "bad.toml").write_text(text)
    done = daemon.cli("apply", str(folder / "bad.toml"), *options, check=False)
    assert done.returncode == status, done
    return done.stderr.decode()


def state(daemon: Daemon) -> dict[str, Any]:
    """What `kmsd export` prints, without what changes from grant to grant."""
    return tomllib.loads(daemon.cli("export").stdout.decode())


def test_from_a_file_and_back(daemon: Daemon, tmp_path: Path) -> None:
    """The plan, the change, nothing to do the second time; what is exported is what was applied."""
    before = state(daemon)
    plan = apply(daemon, DOCUMENT, tmp_path, "--dry-run")
    assert state(daemon) == before
    assert apply(daemon, DOCUMENT, tmp_path) == plan
    assert plan[-1] == "5 to create, 3 to change, 0 to delete"
    assert sorted(line[:1] for line in plan[:-1]) == [*"+++++", *"~~~"]
    assert apply(daemon, DOCUMENT, tmp_path) == ["0 to create, 0 to change, 0 to delete"]
    exported = daemon.cli("export").stdout.decode()
    assert apply(daemon, exported, tmp_path, "--prune") == ["0 to create, 0 to change, 0 to delete"]
    kms, alice = daemon.client(), daemon.cli("access-key", "create", "alice", "--format", "json")
    assert {one["AliasName"] for one in kms.list_aliases()["Aliases"]} >= {"alias/app-2", "alias/app-3"}
    assert len(kms.list_grants(KeyId=kms.describe_key(KeyId="alias/app")["KeyMetadata"]["KeyId"])["Grants"]) == 1
    assert b"AKIA" in alice.stdout
    assert "AKIA" not in daemon.cli("export").stdout.decode()


def test_each_change_is_recorded(daemon: Daemon, tmp_path: Path) -> None:
    """With an intent and an outcome, under the name of the operation that does the same."""
    before = {record["eventID"] for record in daemon.audit_records()}
    text = DOCUMENT.replace("blue", "green").replace("7200", "3600").replace('"Encrypt", "DescribeKey"', '"Encrypt"')
    apply(daemon, text, tmp_path)
    added = [
        (record["eventName"], record["additionalEventData"]["phase"])
        for record in daemon.audit_records()
        if record["eventID"] not in before and "phase" in record.get("additionalEventData", {})
    ]
    names = ["TagUser", "UpdateRole", "RevokeGrant", "CreateGrant"]
    assert sorted(added) == sorted((name, phase) for name in names for phase in ("intent", "outcome"))


def test_prune(daemon: Daemon, tmp_path: Path) -> None:
    """What the file lacks stays, unless it is to be pruned; a file without users prunes none."""
    apply(daemon, DOCUMENT, tmp_path)
    head, _, rest = DOCUMENT.partition('[[users]]\nname = "alice"')
    fewer = head + "[[keys]]\nalias = 'alias/app'\naliases = ['alias/app-2']\n"
    assert rest
    assert apply(daemon, fewer, tmp_path) == ["0 to create, 0 to change, 0 to delete"]
    pruned = apply(daemon, fewer, tmp_path, "--prune")
    assert pruned[-1] == "0 to create, 0 to change, 4 to delete"
    assert f"- user arn:aws:iam::{ACCOUNT}:user/alice, with its access keys" in pruned
    assert "every user" in refused(
        daemon, "[[roles]]\n" + DOCUMENT.partition("[[roles]]\n")[2], tmp_path, EXIT_DATA, "--prune"
    )
    daemon.client().list_keys()


BROKEN = {
    "not TOML": ("[[users", "bad.toml"),
    "a table that there is none of": ("[[groups]]\nname = 'x'", "groups"),
    "a setting that there is none of": ("[[users]]\nname = 'x'\npassword = 'x'", "password"),
    "an access key": ("[[users]]\nname = 'x'\naccess_key = 'AKIA'", "access_key"),
    "a name": ("[[users]]\nname = 'a b'", "user a b"),
    "twice": ("[[users]]\nname = 'x'\n[[users]]\nname = 'x'", "twice"),
    "a policy": ("[[users]]\nname = 'x'\npolicies.main = '{'", "user x: policy main"),
    "a misspelt action": (
        """[[users]]\nname = 'x'\n[users.policies.main]\nVersion = '2012-10-17'
        Statement = [{ Effect = 'Allow', Action = 'kms:Encript', Resource = '*' }]""",
        "kms:Encript",
    ),
    "a trust policy": ("[[roles]]\nname = 'x'\ntrust = '{}'", "role x: trust policy"),
    "seconds": ("[[roles]]\nname = 'x'\nmax_session_seconds = 1\ntrust = '{}'", "role x"),
    "tags": ("[[users]]\nname = 'x'\ntags = { a = '1', A = '2' }", "case"),
    "an account": ("[[users]]\nname = 'x'\naccount = '12'", "12 digits"),
    "an alias": ("[[keys]]\nalias = 'app'", "alias/"),
    "a further alias": ("[[keys]]\nalias = 'alias/app'\naliases = ['alias/aws/x']", "alias/app"),
    "a grant's operation": (
        """[[keys]]\nalias = 'alias/app'\n[[keys.grants]]\nname = 'g'\ngrantee = 'arn:aws:iam::000000000000:user/x'
        operations = ['Sign']""",
        "Sign",
    ),
    "a grantee": (
        "[[keys]]\nalias = 'alias/app'\n[[keys.grants]]\nname = 'g'\ngrantee = 'x'\noperations = ['Encrypt']",
        "principal",
    ),
    "two constraints": (
        """[[keys]]\nalias = 'alias/app'\n[[keys.grants]]\nname = 'g'\ngrantee = 'x'\noperations = ['Encrypt']
        context_equals = { a = 'b' }\ncontext_subset = { a = 'b' }""",
        "one constraint",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_changes_nothing(daemon: Daemon, tmp_path: Path, name: str) -> None:
    """The mistake is named, and what is right beside it is not applied."""
    text, part = BROKEN[name]
    good = "\n[[users]]\nname = 'beside'\n"
    before = state(daemon)
    assert part in refused(daemon, text + good if name != "not TOML" else text, tmp_path)
    assert state(daemon) == before


def test_a_key_that_is_not_there(daemon: Daemon, tmp_path: Path) -> None:
    """It is not created here."""
    text = refused(daemon, "[[users]]\nname = 'beside'\n[[keys]]\nalias = 'alias/absent'", tmp_path, EXIT_NOT_FOUND)
    assert "alias/absent" in text
    assert "beside" not in daemon.cli("user", "list").stdout.decode()


async def _name_keys(daemon: Daemon) -> None:
    """Give each of many keys an alias."""
    async with open_store(settings.load(daemon.config)) as store, store.write() as transaction:
        now = datetime.now(UTC)
        for number, key_id in enumerate(sorted(await transaction.key_ids())):
            await transaction.insert_alias(Alias(ACCOUNT, f"alias/key-{number}", key_id, now, now))


def many(marker: str) -> str:
    """A file with many of everything."""
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    policy["Statement"][0]["Sid"] = marker  # type: ignore[index]
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "sts:AssumeRole"}],
    }
    key = {"Version": "2012-10-17", "Statement": [{**policy["Statement"][0], "Principal": {"AWS": ROOT}}]}  # type: ignore[dict-item]
    return "\n".join(
        [
            *(f"[[users]]\nname = 'u{n}'\npolicies.main = '{json.dumps(policy)}'" for n in range(USERS)),
            *(f"[[roles]]\nname = 'r{n}'\ntrust = '{json.dumps(trust)}'" for n in range(ROLES)),
            *(f"[[keys]]\nalias = 'alias/key-{n}'\npolicy = '{json.dumps(key)}'" for n in range(KEYS)),
        ]
    )


def test_many(tmp_path: Path) -> None:
    """The second run changes nothing; a mistake in the last line neither."""
    with provisioned(tmp_path, custody="wrapped") as daemon:
        asyncio.run(make_keys(daemon, KEYS))
        asyncio.run(_name_keys(daemon))
        assert apply(daemon, many("first"), tmp_path)[-1] == f"{USERS + ROLES} to create, {KEYS} to change, 0 to delete"
        assert apply(daemon, many("first"), tmp_path) == ["0 to create, 0 to change, 0 to delete"]
        before = state(daemon)
        refused(daemon, f"{many('second')}\n[[users]]\nname = 'a b'", tmp_path)
        assert state(daemon) == before
        daemon.start()
        assert code_of(daemon.client().list_keys) == ""
