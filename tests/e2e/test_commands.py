"""The command line: users, roles, policies, explain; on the running daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.clients import code_of
from tests.support.daemon import Daemon

ACCOUNT = "000000000000"


def policy(folder: Path, name: str, *actions: str, effect: str = "Allow") -> str:
    """A policy file."""
    path = folder / f"{name}.json"
    statement = {"Sid": name, "Effect": effect, "Action": list(actions), "Resource": "*"}
    path.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    return str(path)


def test_policies_take_effect_at_once(daemon: Daemon, tmp_path: Path) -> None:
    """`user put-policy` has returned: every worker decides by the new one."""
    user = daemon.user("changing")
    for actions, code in (
        ((), "AccessDeniedException"),
        (("kms:ListKeys",), ""),
        (("kms:ListAliases",), "AccessDeniedException"),
    ):
        if actions:
            daemon.cli("user", "put-policy", "changing", "--policy", policy(tmp_path, "p", *actions))
        for _ in range(6):
            assert code_of(daemon.client(credentials=user).list_keys) == code
    assert user.arn.encode() in daemon.cli("user", "list").stdout
    daemon.cli("user", "delete", "changing")
    assert code_of(daemon.client(credentials=user).list_keys) == "UnrecognizedClientException"
    assert daemon.cli("user", "delete", "changing", check=False).returncode != 0


def test_roles_by_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    """create, list, put-policy, put-trust, delete; a bad policy is refused with its place, and makes nothing."""
    trust = tmp_path / "trust.json"
    root = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    trust.write_text(json.dumps({"Version": "2012-10-17", "Statement": [root]}))
    bad = daemon.cli("role", "create", "worker", "--trust", policy(tmp_path, "bad", "kms:*"), check=False)
    assert bad.returncode != 0
    assert b"Statement" in bad.stderr
    daemon.cli("role", "create", "worker", "--trust", str(trust), "--policy", policy(tmp_path, "w", "kms:ListKeys"))
    assert b"role/worker" in daemon.cli("role", "list").stdout
    arn = f"arn:aws:iam::{ACCOUNT}:role/worker"
    sts = daemon.client("sts")
    assumed = sts.assume_role(RoleArn=arn, RoleSessionName="session")
    assert assumed["AssumedRoleUser"]["Arn"].endswith("assumed-role/worker/session")
    root["Effect"] = "Deny"
    trust.write_text(json.dumps({"Version": "2012-10-17", "Statement": [root]}))
    daemon.cli("role", "put-trust", "worker", "--trust", str(trust))
    assert code_of(sts.assume_role, RoleArn=arn, RoleSessionName="session") == "AccessDenied"
    daemon.cli("role", "delete", "worker")
    assert b"role/worker" not in daemon.cli("role", "list").stdout


def test_explain_names_what_almost_matched(daemon: Daemon, tmp_path: Path) -> None:
    """Which statement or grant allows or denies, which nearly did, and on what it failed; without token or PIN."""
    kms = daemon.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    user = daemon.user("explained", json.loads(Path(policy(tmp_path, "OnlyEncrypt", "kms:Encrypt")).read_text()))
    made = kms.create_grant(
        KeyId=key_id,
        GranteePrincipal=user.arn,
        Operations=["Decrypt"],
        Constraints={"EncryptionContextSubset": {"tenant": "a"}},
    )
    allowed = daemon.cli("explain", "--principal", user.arn, "--action", "kms:Encrypt", "--key", key_id)
    assert allowed.stdout.startswith(b"ALLOWED by identity-policy:OnlyEncrypt")
    ask = ["explain", "--principal", user.arn, "--action", "kms:Decrypt", "--key", key_id]
    denied = daemon.cli(*ask, "--context", "tenant=b", check=False)
    assert denied.returncode == 1
    text = denied.stdout.decode()
    assert text.startswith("DENIED")
    assert f"grant:{made['GrantId']}" in text
    assert "Constraints" in text
    assert "OnlyEncrypt" in text
    assert daemon.cli(*ask, "--context", "tenant=a").stdout.startswith(f"ALLOWED by grant:{made['GrantId']}".encode())
    assert daemon.cli("explain", "--principal", "nobody", "--action", "kms:Encrypt", check=False).returncode == 64
    missing = f"arn:aws:iam::{ACCOUNT}:user/missing"
    assert daemon.cli("explain", "--principal", missing, "--action", "kms:Encrypt", check=False).returncode == 66


@pytest.mark.parametrize("arguments", [("check",), ("jobs", "run", "reconcile")])
def test_commands_that_find_nothing_wrong(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    """`kmsd check` and a reconcile beside the running daemon."""
    done = daemon.cli(*arguments)
    assert b"FAIL" not in done.stdout
    assert b"MISSING" not in done.stdout


def test_the_release_is_told(daemon: Daemon) -> None:
    """By `--version`, without a configuration; by `check`; and in the log when the daemon starts."""
    told = f"kmsd {version('kmsd')}"
    done = subprocess.run([sys.executable, "-m", "kmsd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{told}\n"
    assert daemon.cli("check", "--no-token").stdout.decode().startswith(f"ok   {told}\n")
    assert f'"version": "{version("kmsd")}"' in daemon.log()
