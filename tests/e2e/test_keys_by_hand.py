"""`kmsd key`: on the host, without an access key, beside a daemon that serves."""

from __future__ import annotations

import json
from typing import Any

from tests.support.clients import ACCOUNT, code_of
from tests.support.daemon import Daemon
from tests.support.json_schema import violations

ROOT = f"arn:aws:iam::{ACCOUNT}:root"


def acts(daemon: Daemon, key_arn: str, name: str) -> list[dict[str, Any]]:
    """The administrative records of one act on a key, in order."""
    return [
        record
        for record in daemon.audit_records()
        if record["eventName"] == name
        and record["eventType"] == "KmsdAdministrativeEvent"
        and record["resources"][0]["ARN"] == key_arn
    ]


def test_a_key_is_stopped_and_freed_at_once(daemon: Daemon) -> None:
    """By id, ARN and alias; every worker obeys when the command has returned; the trail tells who did it."""
    kms = daemon.client()
    made = kms.create_key(Description="orders\x1b[2J")["KeyMetadata"]
    arn, key_id = made["Arn"], made["KeyId"]
    kms.create_alias(AliasName="alias/orders", TargetKeyId=key_id)
    encrypt = {"KeyId": key_id, "Plaintext": b"x"}
    done = daemon.cli("key", "disable", "alias/orders")
    assert done.stdout.decode() == f"{arn} was Enabled, and is Disabled\n"
    assert {code_of(daemon.client().encrypt, **encrypt) for _ in range(8)} == {"DisabledException"}
    assert daemon.cli("key", "disable", arn).stdout.decode() == f"{arn} is Disabled already: nothing to do\n"
    assert f"{arn}\tDisabled\tAWS_KMS\t" in daemon.cli("key", "list").stdout.decode()
    shown = daemon.cli("key", "show", key_id).stdout.decode()
    assert f"Key: {arn}\nState: Disabled\n" in shown
    assert "Description: orders\\x1b[2J\nAliases: alias/orders\n" in shown
    assert json.loads(shown.partition("Policy:\n")[2])["Id"] == "key-default-1"
    assert daemon.cli("key", "enable", key_id).stdout.decode() == f"{arn} was Disabled, and is Enabled\n"
    assert {code_of(daemon.client().encrypt, **encrypt) for _ in range(8)} == {""}
    for name in ("DisableKey", "EnableKey"):
        records = acts(daemon, arn, name)
        assert [one["additionalEventData"]["phase"] for one in records] == ["intent", "outcome"]
        assert {one["eventSource"] for one in records} == {"kms.amazonaws.com"}
        assert {one["userIdentity"]["type"] for one in records} == {"OSUser"}
        assert [violation for one in records for violation in violations(one)] == []
    daemon.cli("audit", "verify")


def test_a_key_that_locks_everybody_out_is_freed(daemon: Daemon) -> None:
    """The policy before is printed and recorded; afterwards the account's administrators decide again."""
    kms = daemon.client()
    nobody = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:Encrypt"}
    locked = json.dumps({"Version": "2012-10-17", "Statement": [{**nobody, "Resource": "*"}]})
    arn = kms.create_key(Policy=locked, BypassPolicyLockoutSafetyCheck=True)["KeyMetadata"]["Arn"]
    assert code_of(kms.describe_key, KeyId=arn) == "AccessDeniedException"
    printed = daemon.cli("key", "policy", "reset", arn).stdout.decode()
    assert printed.startswith(f"the key policy of {arn} until now:\n{locked}\n")
    assert f"now it is the default: {ROOT} may do everything" in printed
    assert {code_of(daemon.client().describe_key, KeyId=arn) for _ in range(8)} == {""}
    intent, outcome = acts(daemon, arn, "PutKeyPolicy")
    assert intent["requestParameters"]["previousPolicy"] == locked
    assert json.loads(intent["requestParameters"]["policy"])["Statement"][0]["Principal"] == {"AWS": ROOT}
    assert "errorCode" not in outcome
    assert b"has the default key policy already: nothing to do" in daemon.cli("key", "policy", "reset", arn).stdout


def test_states_that_do_not_allow_it(daemon: Daemon) -> None:
    """A key pending deletion or import is refused with its reason, and stays; one that is not there is not found."""
    kms = daemon.client()
    doomed = kms.create_key()["KeyMetadata"]["Arn"]
    kms.schedule_key_deletion(KeyId=doomed, PendingWindowInDays=7)
    empty = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["Arn"]
    for command, arn, state, why in (
        ("enable", doomed, "PendingDeletion", "pending deletion"),
        ("disable", empty, "PendingImport", "pending import"),
    ):
        refused = daemon.cli("key", command, arn, check=False)
        assert refused.returncode == 65
        assert f"{arn} is {why}." in refused.stderr.decode()
        assert kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == state
    assert [one.get("errorCode") for one in acts(daemon, empty, "DisableKey")] == [None, "InputRefused"]
    for command, name in (
        ("show", "alias/missing"),
        ("disable", "00000000-0000-0000-0000-000000000000"),
        ("policy reset", "no key"),
        ("show", f"arn:aws:kms:x:{ACCOUNT}:key/y"),
    ):
        missing = daemon.cli("key", *command.split(), name, check=False)
        assert (missing.returncode, missing.stdout) == (66, b"")
