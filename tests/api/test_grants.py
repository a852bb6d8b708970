"""Grants: idempotence, tokens, limits; and what else a request for one can get wrong."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.harness import Harness

ME = "arn:aws:iam::000000000000:user/admin"


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="key_id")
def _key_id(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["KeyId"])


def grant(kms: Any, key_id: str, **members: Any) -> dict[str, str]:
    """CreateGrant with what every grant needs."""
    answer: dict[str, str] = kms.create_grant(
        **{"KeyId": key_id, "GranteePrincipal": ME, "Operations": ["Encrypt", "Decrypt"], **members}
    )
    return answer


def error_of(call: Any, *arguments: Any, **members: Any) -> str:
    """The name of the refusal."""
    with pytest.raises(ClientError) as refused:
        call(*arguments, **members)
    return str(refused.value.response["Error"]["Code"])


def test_named_grants_are_idempotent(kms: Any, key_id: str) -> None:
    """Name and identical parameters: the same id, a new token each time, all good; anything else: a new grant."""
    terms = {"Name": "n", "Constraints": {"EncryptionContextSubset": {"a": "b"}}, "RetiringPrincipal": ME}
    made = [grant(kms, key_id, **terms) for _ in range(3)]
    made.append(grant(kms, key_id, **{**terms, "Operations": ["Decrypt", "Encrypt"]}))
    assert len({one["GrantId"] for one in made}) == 1
    assert len({one["GrantToken"] for one in made}) == 4
    for one in made:
        kms.describe_key(KeyId=key_id, GrantTokens=[one["GrantToken"]])
    others = [
        grant(kms, key_id, **{**terms, "Operations": ["Decrypt"]}),
        grant(kms, key_id, **{**terms, "Constraints": {"EncryptionContextSubset": {"a": "c"}}}),
        grant(kms, key_id, **{**terms, "Constraints": {"EncryptionContextEquals": {"a": "b"}}}),
        grant(kms, key_id, **{**terms, "Name": "m"}),
        grant(kms, key_id),
        grant(kms, key_id),
    ]
    ids = {one["GrantId"] for one in others} | {made[0]["GrantId"]}
    assert len(ids) == 7
    assert all(len(grant_id) == 64 for grant_id in ids)
    listed = kms.list_grants(KeyId=key_id)["Grants"]
    assert {one["GrantId"] for one in listed} == ids


def test_what_is_listed_is_what_was_made(kms: Any, key_id: str) -> None:
    """All members come back; the filters find it."""
    made = grant(
        kms, key_id, Name="n", RetiringPrincipal=ME, Constraints={"EncryptionContextEquals": {"a": "b", "c": ""}}
    )
    (entry,) = kms.list_grants(KeyId=key_id, GrantId=made["GrantId"])["Grants"]
    del entry["CreationDate"]
    assert entry == {
        "KeyId": f"arn:aws:kms:us-east-1:000000000000:key/{key_id}",
        "GrantId": made["GrantId"],
        "Name": "n",
        "GranteePrincipal": ME,
        "RetiringPrincipal": ME,
        "IssuingAccount": "arn:aws:iam::000000000000:root",
        "Operations": ["Encrypt", "Decrypt"],
        "Constraints": {"EncryptionContextEquals": {"a": "b", "c": ""}},
    }
    assert len(kms.list_grants(KeyId=key_id, GranteePrincipal=ME)["Grants"]) == 1
    assert kms.list_grants(KeyId=key_id, GranteePrincipal=ME + "2")["Grants"] == []
    assert error_of(kms.list_grants, KeyId=key_id, GrantId="zz") == "InvalidGrantIdException"


def test_tokens_cannot_be_forged(kms: Any, key_id: str) -> None:
    """A changed, invented or outlived token is refused wherever tokens are taken."""
    made = grant(kms, key_id, RetiringPrincipal=ME)
    token = made["GrantToken"]
    letters = token.rstrip("=")
    assert letters != token, "no unused bits to change"
    # The same bytes in another text: one of the unused bits of the last letter is set.
    other_text = letters[:-1] + chr(ord(letters[-1]) + 1) + "=" * (len(token) - len(letters))
    assert base64.urlsafe_b64decode(other_text) == base64.urlsafe_b64decode(token)
    changed = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
    for forged in (changed, other_text, letters, "AAAA", "x", token[8:]):
        assert error_of(kms.encrypt, KeyId=key_id, Plaintext=b"x", GrantTokens=[forged]) == "InvalidGrantTokenException"
        assert error_of(kms.retire_grant, GrantToken=forged) == "InvalidGrantTokenException"
    kms.retire_grant(GrantToken=token)
    assert error_of(kms.encrypt, KeyId=key_id, Plaintext=b"x", GrantTokens=[token]) == "InvalidGrantTokenException"


def test_retiring_by_id(kms: Any, key_id: str) -> None:
    """A key ARN and a grant id do as well as a token; half of it does not."""
    made = grant(kms, key_id, RetiringPrincipal=ME)
    arn = f"arn:aws:kms:us-east-1:000000000000:key/{key_id}"
    assert error_of(kms.retire_grant) == "ValidationException"
    assert error_of(kms.retire_grant, KeyId=arn) == "ValidationException"
    assert error_of(kms.retire_grant, KeyId=arn, GrantId="zz") == "InvalidGrantIdException"
    assert error_of(kms.retire_grant, KeyId=arn, GrantId="0" * 64) == "NotFoundException"
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    assert error_of(kms.retire_grant, KeyId=other, GrantId=made["GrantId"]) == "NotFoundException"
    assert error_of(kms.retire_grant, KeyId=arn, GrantId=made["GrantId"], DryRun=True) == "DryRunOperationException"
    kms.retire_grant(KeyId=arn, GrantId=made["GrantId"])
    assert kms.list_grants(KeyId=key_id)["Grants"] == []


def test_revoking(kms: Any, key_id: str) -> None:
    """By the key and its own grants only; DryRun leaves it."""
    made = grant(kms, key_id)
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    assert error_of(kms.revoke_grant, KeyId=other, GrantId=made["GrantId"]) == "NotFoundException"
    assert error_of(kms.revoke_grant, KeyId=key_id, GrantId="zz") == "InvalidGrantIdException"
    assert error_of(kms.revoke_grant, KeyId=key_id, GrantId=made["GrantId"], DryRun=True) == "DryRunOperationException"
    assert len(kms.list_grants(KeyId=key_id)["Grants"]) == 1
    kms.revoke_grant(KeyId=key_id, GrantId=made["GrantId"])
    assert error_of(kms.revoke_grant, KeyId=key_id, GrantId=made["GrantId"]) == "NotFoundException"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"Operations": []}, "ValidationException"),
        ({"Operations": ["Sign"]}, "ValidationException"),
        ({"GranteePrincipal": "nobody"}, "InvalidArnException"),
        ({"GranteePrincipal": "arn:aws:iam::1234:user/x"}, "InvalidArnException"),
        ({"GranteePrincipal": "arn:aws-cn:iam::000000000000:user/x"}, "InvalidArnException"),
        ({"RetiringPrincipal": "arn:aws:kms:us-east-1:000000000000:key/x"}, "InvalidArnException"),
        ({"Constraints": {"EncryptionContextEquals": {str(n): "" for n in range(9)}}}, "LimitExceededException"),
        ({"Constraints": {"EncryptionContextSubset": {"a": "x" * 385}}}, "LimitExceededException"),
        (
            {"Constraints": {"EncryptionContextSubset": {"a": "b"}, "EncryptionContextEquals": {"a": "b"}}},
            "ValidationException",
        ),
        (
            {"Constraints": {"SourceArn": "arn:aws:s3:us-east-1:000000000000:bucket"}},
            "UnsupportedOperationException",
        ),
        ({"GranteeServicePrincipal": "logs.us-east-1.amazonaws.com"}, "UnsupportedOperationException"),
    ],
)
def test_what_makes_no_grant(kms: Any, key_id: str, members: dict[str, Any], code: str) -> None:
    """Refused by name, and nothing is made."""
    assert error_of(grant, kms, key_id, **members) == code
    assert kms.list_grants(KeyId=key_id)["Grants"] == []


def test_retirable_grants_are_listed_for_the_own_account_only(kms: Any, key_id: str) -> None:
    """Of another account's principals, nothing is told."""
    stranger = "arn:aws:iam::111122223333:user/x"
    grant(kms, key_id, RetiringPrincipal=stranger)
    assert error_of(kms.list_retirable_grants, RetiringPrincipal=stranger) == "NotFoundException"
    assert error_of(kms.list_retirable_grants, RetiringPrincipal="nobody") == "InvalidArnException"
