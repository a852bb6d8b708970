"""`--json`: what commands list, one JSON object a line, with the same entries as the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon, provisioned


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("daemon"), custody="wrapped") as daemon:
        daemon.start()
        kms = daemon.client()
        key_id = kms.create_key(Description="a\tb")["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/one", TargetKeyId=key_id)
        kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}],
        }
        daemon.cli("role", "create", "auditor", "--trust", "-", stdin=json.dumps(trust).encode())
        yield daemon


def listed(daemon: Daemon, *arguments: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries as JSON, and as text."""
    objects = [json.loads(line) for line in daemon.cli(*arguments, "--json").stdout.splitlines()]
    return objects, daemon.cli(*arguments).stdout.decode().splitlines()


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("user", "list"), "arn"),
        (("access-key", "list", "admin"), "access_key_id"),
        (("role", "list"), "role_id"),
        (("key", "list"), "arn"),
        (("domain-key", "list"), "domain_key_id"),
    ],
)
def test_lists(own: Daemon, command: tuple[str, ...], named: str) -> None:
    """Each entry is there in both; times are ISO 8601."""
    objects, lines = listed(own, *command)
    assert len(objects) == len(lines) > 0
    for one, line in zip(objects, lines, strict=True):
        assert one[named] in line.split("\t")
        assert one["created_at"] in line.split("\t")


def test_a_key(own: Daemon) -> None:
    """With its policy as JSON, and the description as it is: text escapes control characters."""
    (key,), lines = listed(own, "key", "show", "alias/one")
    assert key["key"] == lines[0].removeprefix("Key: ")
    assert key["description"] == "a\tb"
    assert "Description: a\\x09b" in lines
    assert key["policy"]["Statement"]
    assert f":{ACCOUNT}:" in key["key"]


def test_a_trail(own: Daemon) -> None:
    """Nothing found, and what is signed of each chain."""
    (report,) = [json.loads(line) for line in own.cli("audit", "verify", "--json").stdout.splitlines()]
    assert (report["findings"], report["pinned"]) == ([], True)
    assert {one["writer"] for one in report["chains"]} == {"cli", "worker-0"}
    assert all(one["lines"] > 0 for one in report["chains"])
