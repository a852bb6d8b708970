"""Terraform's `aws_kms_grant`, by the requests that providers 3.39 and 5.100 send: create, read, destroy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.harness import Harness
from tests.support.plain_http import send

GRANTEE = "arn:aws:iam::000000000000:role/grantee"
PAGE = 100
"""The provider's `Limit` of ListGrants."""


class Provider:
    """What the resource does. Both providers send the same bodies: a map that is not configured is sent as `{}`."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    def call(self, operation: str, members: dict[str, Any]) -> Any:
        """The answer of a successful call."""
        target, body = f"TrentService.{operation}", json.dumps(members).encode()
        answer = send(self._harness.endpoint, self._harness.admin, target, body)
        assert answer.status == 200, answer
        return answer.json

    def create(self, key_id: str, constraints: dict[str, Any] | None, **more: Any) -> str:
        """The id of a new grant."""
        members: dict[str, Any] = {
            "GranteePrincipal": GRANTEE,
            "KeyId": key_id,
            "Operations": ["Encrypt", "Decrypt"],
            **more,
        }
        if constraints is not None:
            members["Constraints"] = {"EncryptionContextEquals": {}, "EncryptionContextSubset": {}, **constraints}
        return str(self.call("CreateGrant", members)["GrantId"])

    def read(self, key_id: str, grant_id: str) -> dict[str, Any] | None:
        """The grant, from all pages of the list; None if none of them has it."""
        found: list[dict[str, Any]] = []
        members: dict[str, Any] = {"KeyId": key_id, "Limit": PAGE}
        while True:
            page = self.call("ListGrants", members)
            found += [grant for grant in page["Grants"] if grant["GrantId"] == grant_id]
            if not page["Truncated"]:
                break
            members["Marker"] = page["NextMarker"]
        assert len(found) <= 1
        return found[0] if found else None

    def destroy(self, key_id: str, grant_id: str) -> None:
        """Revoke it, and look for it until it is gone: here that is at once."""
        self.call("RevokeGrant", {"KeyId": key_id, "GrantId": grant_id})
        assert self.read(key_id, grant_id) is None


@pytest.mark.parametrize("kind", ["EncryptionContextEquals", "EncryptionContextSubset"])
def test_a_grant_with_one_constraint_is_created_read_and_destroyed(harness: Harness, kind: str) -> None:
    """What is read is what is configured, and nothing else: a plan after it is empty."""
    provider = Provider(harness)
    key_id = harness.client().create_key()["KeyMetadata"]["KeyId"]
    grant_id = provider.create(key_id, {kind: {"Department": "Finance"}}, Name="terraform")
    grant = provider.read(key_id, grant_id)
    assert grant is not None
    assert grant["Constraints"] == {kind: {"Department": "Finance"}}
    assert (grant["GranteePrincipal"], sorted(grant["Operations"])) == (GRANTEE, ["Decrypt", "Encrypt"])
    assert (grant["Name"], "RetiringPrincipal" in grant) == ("terraform", False)
    provider.destroy(key_id, grant_id)


@pytest.mark.parametrize("constraints", [None, {}], ids=["no-block", "empty-block"])
def test_a_grant_without_constraint_and_name_is_read_without_them(harness: Harness, constraints: Any) -> None:
    """Neither an empty name nor empty constraints are answered; the provider would see a difference."""
    provider = Provider(harness)
    key_id = harness.client().create_key()["KeyMetadata"]["KeyId"]
    grant_id = provider.create(key_id, constraints)
    grant = provider.read(key_id, grant_id)
    assert grant is not None
    assert set(grant) == {"KeyId", "GrantId", "CreationDate", "GranteePrincipal", "IssuingAccount", "Operations"}
    provider.destroy(key_id, grant_id)


def test_a_grant_is_found_on_a_later_page(harness: Harness) -> None:
    """Whatever its id, beside more grants than a page holds."""
    provider = Provider(harness)
    key_id = harness.client().create_key()["KeyMetadata"]["KeyId"]
    made = [provider.create(key_id, None) for _ in range(PAGE + 2)]
    for grant_id in (min(made), max(made)):
        assert provider.read(key_id, grant_id) is not None
    provider.destroy(key_id, max(made))


def test_two_constraints_are_refused(harness: Harness) -> None:
    """Only a map that holds something is a constraint; two of them are one too many, and nothing is made."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    body = {
        "KeyId": key_id,
        "GranteePrincipal": GRANTEE,
        "Operations": ["Encrypt"],
        "Constraints": {"EncryptionContextEquals": {"a": "b"}, "EncryptionContextSubset": {"a": "b"}},
    }
    answer = send(harness.endpoint, harness.admin, "TrentService.CreateGrant", json.dumps(body).encode())
    assert (answer.status, answer.json["__type"]) == (400, "ValidationException")
    assert kms.list_grants(KeyId=key_id)["Grants"] == []
