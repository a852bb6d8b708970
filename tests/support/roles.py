"""Roles and their policies."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from kmsd.app import arn_scope_of
from kmsd.custody import provisioning
from tests.support.clients import ACCOUNT, Credentials
from tests.support.harness import Harness


def allow(*actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    """An identity policy of one statement."""
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": resource, **more}],
    }


def trust(principal: str, **more: Any) -> str:
    """A trust policy of one statement."""
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def make_role(
    harness: Harness,
    name: str,
    trust_policy: str,
    policy: dict[str, Any],
    *,
    account: str = ACCOUNT,
    seconds: int = 3600,
) -> str:
    """A role; its ARN."""
    now = datetime.now(UTC)
    role = provisioning.new_role(
        arn_scope_of(harness.config),
        account,
        name,
        trust_policy=trust_policy,
        policies={"policy": json.dumps(policy)},
        seconds=seconds,
        now=now,
    )
    harness.run(provisioning.create_role(harness.components.store, role, now))
    return role.arn


def assume(harness: Harness, credentials: Credentials | None, role: str, **members: Any) -> Credentials:
    """AssumeRole by boto3."""
    answer = harness.client("sts", credentials).assume_role(RoleArn=role, RoleSessionName="session", **members)
    return session_of(answer["Credentials"], answer["AssumedRoleUser"]["Arn"])


def session_of(given: dict[str, Any], arn: str = "") -> Credentials:
    """Temporary credentials as a client uses them."""
    return Credentials(given["AccessKeyId"], given["SecretAccessKey"], arn, given["SessionToken"])
