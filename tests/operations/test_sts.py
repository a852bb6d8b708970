"""STS over the wire: roles, sessions, and what ends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.domain.identity import AccessKeyStatus
from tests.support.clients import Credentials, code_of
from tests.support.harness import House
from tests.support.roles import ACCOUNT, allow, assume, make_role, session_of, trust

OTHER = "111122223333"


def test_who_am_i(house: House) -> None:
    """GetCallerIdentity names user and session as AWS does."""
    user = house.user()
    identity = house.client("sts", user).get_caller_identity()
    assert identity["Arn"] == user.arn
    assert identity["Account"] == ACCOUNT
    assert identity["UserId"].startswith("AIDA")
    role = make_role(house, "whoami", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    session = assume(house, house.admin, role)
    identity = house.client("sts", session).get_caller_identity()
    assert identity["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/whoami/session"
    assert identity["UserId"].endswith(":session")


def test_a_session_may_do_what_its_role_may_and_no_more(house: House) -> None:
    """Neither what its user may, nor more than a session policy leaves."""
    key_id = house.client().create_key()["KeyMetadata"]["KeyId"]
    role = make_role(house, "crypt", trust(f"arn:aws:iam::{ACCOUNT}:user/admin"), allow("kms:Encrypt", "kms:Decrypt"))
    kms = house.client("kms", assume(house, house.admin, role))
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert code_of(kms.list_keys) == "AccessDeniedException"
    bounded = assume(house, house.admin, role, Policy=json.dumps(allow("kms:Decrypt", "kms:ListKeys")))
    kms = house.client("kms", bounded)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert code_of(lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x")) == "AccessDeniedException"
    assert code_of(kms.list_keys) == "AccessDeniedException"


def test_trust_policies_are_evaluated(house: House) -> None:
    """Who is not trusted, or lacks the ExternalId, or is denied, does not get in; absent roles answer alike."""
    friend, stranger = house.user(allow("sts:AssumeRole"), name="friend"), house.user(allow("sts:AssumeRole"))
    condition = {"Condition": {"StringEquals": {"sts:ExternalId": "correct-horse"}}}
    role = make_role(house, "guarded", trust(friend.arn, **condition), allow("kms:ListKeys"))
    assert code_of(lambda: assume(house, friend, role)) == "AccessDenied"
    assert code_of(lambda: assume(house, friend, role, ExternalId="wrong-horse")) == "AccessDenied"
    assert code_of(lambda: assume(house, stranger, role, ExternalId="correct-horse")) == "AccessDenied"
    assert code_of(lambda: assume(house, friend, f"arn:aws:iam::{ACCOUNT}:role/absent")) == "AccessDenied"
    house.client("kms", assume(house, friend, role, ExternalId="correct-horse")).list_keys()


def test_across_accounts_both_sides_must_allow(house: House) -> None:
    """The role trusts the other account's root; there, an identity policy must allow it as well."""
    role = make_role(house, "shared", trust(f"arn:aws:iam::{OTHER}:root"), allow("kms:ListKeys"))
    allowed = house.user(allow("sts:AssumeRole", resource=role), account=OTHER)
    refused = house.user(allow("kms:*"), account=OTHER)
    kms = house.client("kms", assume(house, allowed, role))
    kms.list_keys()
    assert code_of(lambda: assume(house, refused, role)) == "AccessDenied"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"DurationSeconds": 899}, "ValidationError"),
        ({"DurationSeconds": 43201}, "ValidationError"),
        ({"DurationSeconds": 7200}, "ValidationError"),
        ({"Policy": "{}"}, "MalformedPolicyDocument"),
        ({"Policy": "x" * 2049}, "ValidationError"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}]}, "ValidationError"),
        ({"Tags": [{"Key": "a", "Value": "b"}]}, "ValidationError"),
        ({"SourceIdentity": "me"}, "ValidationError"),
        ({"RoleSessionName": "with blank"}, "ValidationError"),
    ],
)
def test_bad_parameters(house: House, members: dict[str, Any], code: str) -> None:
    """Constraints, and what is not supported, refused by name."""
    name = "limits"
    if house.run(_role_exists(house, name)) is False:
        make_role(house, name, trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    client = house.client("sts", parameter_validation=False)
    request = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/{name}", "RoleSessionName": "session", **members}
    assert code_of(lambda: client.assume_role(**request)) == code


async def _role_exists(house: House, name: str) -> bool:
    return await (await house.components.store.read()).role(ACCOUNT, name) is not None


def test_sessions_expire(house: House) -> None:
    """To the second, and with AWS's name."""
    role = make_role(house, "brief", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    session = assume(house, house.admin, role, DurationSeconds=900)
    kms = house.client("kms", session)
    house.clock.advance(seconds=895)
    kms.list_keys()
    house.clock.advance(seconds=6)
    assert code_of(kms.list_keys) == "ExpiredTokenException"
    assert code_of(house.client("sts", session).get_caller_identity) == "ExpiredToken"


def test_sessions_cannot_be_forged(house: House) -> None:
    """A changed token, another's token, a missing token, another key id, another secret."""
    role = make_role(house, "forged", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    good, other = (assume(house, house.admin, role) for _ in range(2))
    token = good.session_token or ""
    middle = len(token) // 2
    changed = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    cases = {
        replace(good, session_token=changed): "UnrecognizedClientException",
        replace(good, session_token=other.session_token): "UnrecognizedClientException",
        replace(good, session_token=None): "UnrecognizedClientException",
        replace(good, session_token="nonsense"): "UnrecognizedClientException",
        replace(good, access_key_id=other.access_key_id): "UnrecognizedClientException",
        replace(good, secret=other.secret): "InvalidSignatureException",
        replace(house.admin, session_token=token): "UnrecognizedClientException",
    }
    for credentials, code in cases.items():
        assert code_of(house.client("kms", credentials).list_keys) == code
    house.client("kms", good).list_keys()


def test_what_ends_a_session_at_once(house: House) -> None:
    """Its role is deleted, or made anew under the same name; a policy that is taken away is gone."""
    role = make_role(house, "passing", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    kms = house.client("kms", assume(house, house.admin, role))
    kms.list_keys()

    async def change(act: Callable[[Any], Any]) -> None:
        async with house.components.store.write() as transaction:
            await act(transaction)

    house.run(change(lambda transaction: transaction.put_role_policies(ACCOUNT, "passing", {})))
    assert code_of(kms.list_keys) == "AccessDeniedException"
    house.run(change(lambda transaction: transaction.delete_role(ACCOUNT, "passing")))
    assert code_of(kms.list_keys) == "UnrecognizedClientException"
    make_role(house, "passing", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    assert code_of(kms.list_keys) == "UnrecognizedClientException"


def test_session_tokens_of_users(house: House) -> None:
    """GetSessionToken: as the user, for a time, and only while the access key that asked is active."""
    user = house.user(allow("kms:ListKeys"))
    sts = house.client("sts", user)
    session = session_of(sts.get_session_token(DurationSeconds=900)["Credentials"])
    kms = house.client("kms", session)
    kms.list_keys()
    assert house.client("sts", session).get_caller_identity()["Arn"] == user.arn
    assert code_of(house.client("sts", session).get_session_token) == "AccessDenied"

    async def disable() -> None:
        async with house.components.store.write() as transaction:
            await transaction.set_access_key_status(user.access_key_id, AccessKeyStatus.INACTIVE)

    house.run(disable())
    assert code_of(kms.list_keys) == "UnrecognizedClientException"


def test_role_chaining_is_bounded(house: House) -> None:
    """A role's session may assume another role for an hour at most."""
    first = make_role(house, "first", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("sts:AssumeRole"), seconds=43200)
    second = make_role(house, "second", trust(first), allow("kms:ListKeys"), seconds=43200)
    session = assume(house, house.admin, first, DurationSeconds=43200)
    assert code_of(lambda: assume(house, session, second, DurationSeconds=3601)) == "ValidationError"
    house.client("kms", assume(house, session, second, DurationSeconds=3600)).list_keys()


def test_wrong_signatures_have_the_query_protocols_names(house: House) -> None:
    """SignatureDoesNotMatch and InvalidClientTokenId, with 403, in XML that botocore reads."""
    for credentials, code in (
        (replace(house.admin, secret="x" * 40), "SignatureDoesNotMatch"),
        (Credentials("AKIAAAAAAAAAAAAAAAAA", "x" * 40), "InvalidClientTokenId"),
    ):
        with pytest.raises(ClientError) as refused:
            house.client("sts", credentials).get_caller_identity()
        assert refused.value.response["Error"]["Code"] == code
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_no_secret_of_a_session_in_the_trail(house: House) -> None:
    """The record shows role and expiry, and neither secret nor token."""
    role = make_role(house, "quiet", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    session = assume(house, house.admin, role)
    text = "".join(path.read_text() for path in house.config.audit_dir.iterdir() if path.is_file())
    assert "assumed-role/quiet/session" in text or "AssumeRole" in text
    assert session.secret not in text
    assert (session.session_token or "-") not in text
