"""STS over the wire: roles, sessions, and what ends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.domain.identity import AccessKeyStatus
from tests.support.clients import ACCOUNT, Credentials, code_of
from tests.support.harness import Harness
from tests.support.roles import allow, assume, make_role, session_of, trust

OTHER = "111122223333"


def test_who_am_i(harness: Harness) -> None:
    """GetCallerIdentity names user and session as AWS does."""
    user = harness.user()
    identity = harness.client("sts", user).get_caller_identity()
    assert identity["Arn"] == user.arn
    assert identity["Account"] == ACCOUNT
    assert identity["UserId"].startswith("AIDA")
    role = make_role(harness, "whoami", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    session = assume(harness, harness.admin, role)
    identity = harness.client("sts", session).get_caller_identity()
    assert identity["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/whoami/session"
    assert identity["UserId"].endswith(":session")


def test_a_session_may_do_what_its_role_may_and_no_more(harness: Harness) -> None:
    """Neither what its user may, nor more than a session policy leaves."""
    key_id = harness.client().create_key()["KeyMetadata"]["KeyId"]
    role = make_role(harness, "crypt", trust(f"arn:aws:iam::{ACCOUNT}:user/admin"), allow("kms:Encrypt", "kms:Decrypt"))
    kms = harness.client("kms", assume(harness, harness.admin, role))
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert code_of(kms.list_keys) == "AccessDeniedException"
    bounded = assume(harness, harness.admin, role, Policy=json.dumps(allow("kms:Decrypt", "kms:ListKeys")))
    kms = harness.client("kms", bounded)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert code_of(lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x")) == "AccessDeniedException"
    assert code_of(kms.list_keys) == "AccessDeniedException"


def test_trust_policies_are_evaluated(harness: Harness) -> None:
    """Who is not trusted, or lacks the ExternalId, or is denied, does not get in; absent roles answer alike."""
    friend, stranger = harness.user(allow("sts:AssumeRole"), name="friend"), harness.user(allow("sts:AssumeRole"))
    condition = {"Condition": {"StringEquals": {"sts:ExternalId": "correct-horse"}}}
    role = make_role(harness, "guarded", trust(friend.arn, **condition), allow("kms:ListKeys"))
    assert code_of(lambda: assume(harness, friend, role)) == "AccessDenied"
    assert code_of(lambda: assume(harness, friend, role, ExternalId="wrong-horse")) == "AccessDenied"
    assert code_of(lambda: assume(harness, stranger, role, ExternalId="correct-horse")) == "AccessDenied"
    assert code_of(lambda: assume(harness, friend, f"arn:aws:iam::{ACCOUNT}:role/absent")) == "AccessDenied"
    harness.client("kms", assume(harness, friend, role, ExternalId="correct-horse")).list_keys()


def test_across_accounts_both_sides_must_allow(harness: Harness) -> None:
    """The role trusts the other account's root; there, an identity policy must allow it as well."""
    role = make_role(harness, "shared", trust(f"arn:aws:iam::{OTHER}:root"), allow("kms:ListKeys"))
    allowed = harness.user(allow("sts:AssumeRole", resource=role), account=OTHER)
    refused = harness.user(allow("kms:*"), account=OTHER)
    kms = harness.client("kms", assume(harness, allowed, role))
    kms.list_keys()
    assert code_of(lambda: assume(harness, refused, role)) == "AccessDenied"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"DurationSeconds": 899}, "ValidationError"),
        ({"DurationSeconds": 43201}, "ValidationError"),
        ({"DurationSeconds": 7200}, "ValidationError"),
        ({"Policy": "{}"}, "MalformedPolicyDocument"),
        ({"Policy": "x" * 2049}, "ValidationError"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}]}, "ValidationError"),
        ({"RoleSessionName": "with blank"}, "ValidationError"),
    ],
)
def test_bad_parameters(harness: Harness, members: dict[str, Any], code: str) -> None:
    """Constraints, and what is not supported, refused by name."""
    name = "limits"
    if harness.run(_role_exists(harness, name)) is False:
        make_role(harness, name, trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    client = harness.client("sts", parameter_validation=False)
    request = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/{name}", "RoleSessionName": "session", **members}
    assert code_of(lambda: client.assume_role(**request)) == code


async def _role_exists(harness: Harness, name: str) -> bool:
    return await (await harness.components.store.read()).role(ACCOUNT, name) is not None


def test_sessions_expire(harness: Harness) -> None:
    """To the second, and with AWS's name."""
    role = make_role(harness, "brief", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    session = assume(harness, harness.admin, role, DurationSeconds=900)
    kms = harness.client("kms", session)
    harness.clock.advance(seconds=895)
    kms.list_keys()
    harness.clock.advance(seconds=6)
    assert code_of(kms.list_keys) == "ExpiredTokenException"
    assert code_of(harness.client("sts", session).get_caller_identity) == "ExpiredToken"


def test_sessions_cannot_be_forged(harness: Harness) -> None:
    """A changed token, another's token, a missing token, another key id, another secret."""
    role = make_role(harness, "forged", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    good, other = (assume(harness, harness.admin, role) for _ in range(2))
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
        replace(harness.admin, session_token=token): "UnrecognizedClientException",
    }
    for credentials, code in cases.items():
        assert code_of(harness.client("kms", credentials).list_keys) == code
    harness.client("kms", good).list_keys()


def test_what_ends_a_session_at_once(harness: Harness) -> None:
    """Its role is deleted, or made anew under the same name; a policy that is taken away is gone."""
    role = make_role(harness, "passing", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    kms = harness.client("kms", assume(harness, harness.admin, role))
    kms.list_keys()

    async def change(act: Callable[[Any], Any]) -> None:
        async with harness.components.store.write() as transaction:
            await act(transaction)

    harness.run(change(lambda transaction: transaction.put_role_policies(ACCOUNT, "passing", {})))
    assert code_of(kms.list_keys) == "AccessDeniedException"
    harness.run(change(lambda transaction: transaction.delete_role(ACCOUNT, "passing")))
    assert code_of(kms.list_keys) == "UnrecognizedClientException"
    make_role(harness, "passing", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    assert code_of(kms.list_keys) == "UnrecognizedClientException"


def test_session_tokens_of_users(harness: Harness) -> None:
    """GetSessionToken: as the user, for a time, and only while the access key that asked is active."""
    user = harness.user(allow("kms:ListKeys"))
    sts = harness.client("sts", user)
    session = session_of(sts.get_session_token(DurationSeconds=900)["Credentials"])
    kms = harness.client("kms", session)
    kms.list_keys()
    assert harness.client("sts", session).get_caller_identity()["Arn"] == user.arn
    assert code_of(harness.client("sts", session).get_session_token) == "AccessDenied"

    async def disable() -> None:
        async with harness.components.store.write() as transaction:
            await transaction.set_access_key_status(user.access_key_id, AccessKeyStatus.INACTIVE)

    harness.run(disable())
    assert code_of(kms.list_keys) == "UnrecognizedClientException"


def test_role_chaining_is_bounded(harness: Harness) -> None:
    """A role's session may assume another role for an hour at most."""
    first = make_role(harness, "first", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("sts:AssumeRole"), seconds=43200)
    second = make_role(harness, "second", trust(first), allow("kms:ListKeys"), seconds=43200)
    session = assume(harness, harness.admin, first, DurationSeconds=43200)
    assert code_of(lambda: assume(harness, session, second, DurationSeconds=3601)) == "ValidationError"
    harness.client("kms", assume(harness, session, second, DurationSeconds=3600)).list_keys()


def test_wrong_signatures_have_the_query_protocols_names(harness: Harness) -> None:
    """SignatureDoesNotMatch and InvalidClientTokenId, with 403, in XML that botocore reads."""
    for credentials, code in (
        (replace(harness.admin, secret="x" * 40), "SignatureDoesNotMatch"),
        (Credentials("AKIAAAAAAAAAAAAAAAAA", "x" * 40), "InvalidClientTokenId"),
    ):
        with pytest.raises(ClientError) as refused:
            harness.client("sts", credentials).get_caller_identity()
        assert refused.value.response["Error"]["Code"] == code
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_no_secret_of_a_session_in_the_trail(harness: Harness) -> None:
    """The record shows role and expiry, and neither secret nor token."""
    role = make_role(harness, "quiet", trust(f"arn:aws:iam::{ACCOUNT}:root"), allow("kms:ListKeys"))
    session = assume(harness, harness.admin, role)
    text = "".join(path.read_text() for path in harness.config.audit_dir.iterdir() if path.is_file())
    assert "assumed-role/quiet/session" in text or "AssumeRole" in text
    assert session.secret not in text
    assert (session.session_token or "-") not in text
