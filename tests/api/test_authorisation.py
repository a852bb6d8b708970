"""Who may do what, over the wire: key policies, grants, accounts, and attempts to get more than is due."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import Credentials, code_of
from tests.support.harness import Harness

ACCOUNT = "000000000000"
OTHER = "111122223333"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"


def allow(*actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    """An identity policy of one statement."""
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": resource, **more}],
    }


def statement(principal: Any, *actions: str, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    """One of a key policy."""
    return {"Effect": effect, "Principal": {"AWS": principal}, "Action": list(actions), "Resource": "*", **more}


def key_policy(*statements: dict[str, Any], delegates: bool = True) -> str:
    """A key policy that the administrator can go on changing."""
    first = statement(ROOT if delegates else f"arn:aws:iam::{ACCOUNT}:user/admin", "kms:*")
    return json.dumps({"Version": "2012-10-17", "Statement": [first, *statements]})


def new_key(harness: Harness, policy: str | None = None) -> str:
    """A key of the administrator."""
    members = {} if policy is None else {"Policy": policy}
    return str(harness.client().create_key(**members)["KeyMetadata"]["KeyId"])


def may(harness: Harness, who: Credentials, key: str) -> set[str]:
    """What `who` can do to a key, tried out."""
    kms = harness.client("kms", who)
    admin = harness.client()
    blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    tries: dict[str, Callable[[], Any]] = {
        "Encrypt": lambda: kms.encrypt(KeyId=key, Plaintext=b"x"),
        "Decrypt": lambda: kms.decrypt(CiphertextBlob=blob),
        "GenerateDataKey": lambda: kms.generate_data_key(KeyId=key, KeySpec="AES_256"),
        "DescribeKey": lambda: kms.describe_key(KeyId=key),
        "GetKeyPolicy": lambda: kms.get_key_policy(KeyId=key),
        "DisableKey": lambda: kms.disable_key(KeyId=key),
        "ListGrants": lambda: kms.list_grants(KeyId=key),
        "ScheduleKeyDeletion": lambda: kms.schedule_key_deletion(KeyId=key),
    }
    done = set()
    for name, act in tries.items():
        if not code_of(act):
            done.add(name)
            if name == "DisableKey":
                admin.enable_key(KeyId=key)
            if name == "ScheduleKeyDeletion":
                admin.cancel_key_deletion(KeyId=key)
                admin.enable_key(KeyId=key)
    return done


def test_identity_policies_work_only_where_the_key_delegates(harness: Harness) -> None:
    """The default policy delegates to the account; without that, an identity policy alone opens nothing."""
    user = harness.user(allow("kms:Encrypt", "kms:DescribeKey"))
    assert may(harness, user, new_key(harness)) == {"Encrypt", "DescribeKey"}
    assert may(harness, user, new_key(harness, key_policy(delegates=False))) == set()


def test_a_key_policy_alone_is_enough_within_the_account(harness: Harness) -> None:
    """A user without any policy may do what the key's policy says he may."""
    user = harness.user()
    key = new_key(harness, key_policy(statement(user.arn, "kms:Decrypt", "kms:GenerateDataKey*")))
    assert may(harness, user, key) == {"Decrypt", "GenerateDataKey"}


def test_an_explicit_deny_wins_wherever_it_stands(harness: Harness) -> None:
    """In the key policy over an identity policy, in an identity policy over the key policy, over grants."""
    user = harness.user(allow("kms:*"))
    key = new_key(harness, key_policy(statement(user.arn, "kms:Encrypt", effect="Deny")))
    kms, admin = harness.client("kms", user), harness.client()
    with pytest.raises(ClientError) as denied:
        kms.encrypt(KeyId=key, Plaintext=b"x")
    assert denied.value.response["Error"]["Message"].endswith("with an explicit deny in a resource-based policy")
    admin.create_grant(KeyId=key, GranteePrincipal=user.arn, Operations=["Encrypt"])
    assert code_of(lambda: kms.encrypt(KeyId=key, Plaintext=b"x")) == "AccessDeniedException"
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}]}
    other = harness.user(deny)
    key = new_key(harness, key_policy(statement(other.arn, "kms:*")))
    assert "Decrypt" not in may(harness, other, key)


def test_across_accounts_both_must_allow(harness: Harness) -> None:
    """Key policy and identity policy; and only the operations that cross accounts at all."""
    stranger = harness.user(allow("kms:*"), account=OTHER)
    unprivileged = harness.user(account=OTHER)
    key = new_key(harness, key_policy(statement(f"arn:aws:iam::{OTHER}:root", "kms:*")))
    arn = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{key}"
    kms = harness.client("kms", stranger)
    blob = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert (
        code_of(lambda: harness.client("kms", unprivileged).encrypt(KeyId=arn, Plaintext=b"x"))
        == "AccessDeniedException"
    )
    for act in (kms.disable_key, kms.get_key_policy, kms.schedule_key_deletion, kms.list_resource_tags):
        assert code_of(lambda act=act: act(KeyId=arn)) == "AccessDeniedException"
    # By its bare id a key is looked for in the caller's own account.
    assert code_of(lambda: kms.describe_key(KeyId=key)) == "NotFoundException"
    closed = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{new_key(harness)}"
    assert code_of(lambda: kms.encrypt(KeyId=closed, Plaintext=b"x")) == "AccessDeniedException"


def test_grants_are_enforced_with_their_constraints(harness: Harness) -> None:
    """Operations, Equals and Subset in the right direction; usable at once; gone once revoked."""
    user = harness.user()
    admin, kms = harness.client(), harness.client("kms", user)
    key = new_key(harness)

    def encrypts(context: dict[str, str]) -> bool:
        return not code_of(lambda: kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context))

    assert not encrypts({})
    made = admin.create_grant(
        KeyId=key,
        GranteePrincipal=user.arn,
        Operations=["Encrypt"],
        Constraints={"EncryptionContextSubset": {"tenant": "a"}},
    )
    assert encrypts({"tenant": "a"})
    assert encrypts({"tenant": "a", "more": "b"})
    # The reference's sentence, taken literally, would let this in.
    assert not encrypts({})
    assert not encrypts({"more": "b"})
    assert not encrypts({"tenant": "b"})
    assert code_of(lambda: kms.describe_key(KeyId=key)) == "AccessDeniedException"
    admin.revoke_grant(KeyId=key, GrantId=made["GrantId"])
    assert not encrypts({"tenant": "a"})
    admin.create_grant(
        KeyId=key,
        GranteePrincipal=user.arn,
        Operations=["Encrypt"],
        Constraints={"EncryptionContextEquals": {"tenant": "a"}},
    )
    assert encrypts({"tenant": "a"})
    assert not encrypts({"tenant": "a", "more": "b"})


def test_delegation_is_never_wider_than_what_is_held(harness: Harness) -> None:
    """A grantee with CreateGrant hands on some of its operations, under its constraint or a stricter one."""
    holder, friend = harness.user(), harness.user()
    admin, kms = harness.client(), harness.client("kms", holder)
    key = new_key(harness)
    admin.create_grant(
        KeyId=key,
        GranteePrincipal=holder.arn,
        Operations=["Decrypt", "CreateGrant"],
        Constraints={"EncryptionContextSubset": {"tenant": "a"}},
    )

    def hands_on(**members: Any) -> str:
        request = {
            "KeyId": key,
            "GranteePrincipal": friend.arn,
            "Operations": ["Decrypt"],
            "Constraints": {"EncryptionContextSubset": {"tenant": "a"}},
            **members,
        }
        return code_of(lambda: kms.create_grant(**request))

    assert hands_on(Operations=["Encrypt"]) == "AccessDeniedException"
    assert hands_on(Operations=["Decrypt", "Encrypt"]) == "AccessDeniedException"
    assert hands_on(Constraints={}) == "AccessDeniedException"
    assert hands_on(Constraints={"EncryptionContextSubset": {"other": "a"}}) == "AccessDeniedException"
    assert hands_on() == ""
    assert hands_on(Constraints={"EncryptionContextEquals": {"tenant": "a"}}) == ""
    blob = admin.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "a"})["CiphertextBlob"]
    opened = harness.client("kms", friend).decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "a"})
    assert opened["Plaintext"] == b"x"


def test_who_may_retire(harness: Harness) -> None:
    """The retiring principal, or the grantee if RetireGrant is among its operations; nobody else by policy alone."""
    grantee, retiring, stranger = harness.user(), harness.user(), harness.user(account=OTHER)
    key, admin = new_key(harness), harness.client()

    def made(*operations: str) -> str:
        grant = admin.create_grant(
            KeyId=key, GranteePrincipal=grantee.arn, RetiringPrincipal=retiring.arn, Operations=list(operations)
        )
        return str(grant["GrantToken"])

    token = made("Decrypt")
    for who in (grantee, stranger):
        assert (
            code_of(lambda who=who: harness.client("kms", who).retire_grant(GrantToken=token))
            == "AccessDeniedException"
        )
    harness.client("kms", retiring).retire_grant(GrantToken=token)
    harness.client("kms", grantee).retire_grant(GrantToken=made("Decrypt", "RetireGrant"))


def test_an_alias_re_pointed_between_two_calls_gives_no_more(harness: Harness) -> None:
    """What counts is the key behind the alias at the call: permission on one key does not follow the name."""
    admin = harness.client()
    first, second = new_key(harness), new_key(harness)
    user = harness.user(allow("kms:Encrypt", resource=f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{first}"))
    kms = harness.client("kms", user)
    admin.create_alias(AliasName="alias/pointed", TargetKeyId=first)
    kms.encrypt(KeyId="alias/pointed", Plaintext=b"x")
    admin.update_alias(AliasName="alias/pointed", TargetKeyId=second)
    assert code_of(lambda: kms.encrypt(KeyId="alias/pointed", Plaintext=b"x")) == "AccessDeniedException"
    # Nor can he point the name himself, without permission on alias and both keys.
    assert code_of(lambda: kms.update_alias(AliasName="alias/pointed", TargetKeyId=first)) == "AccessDeniedException"


def test_alias_and_tag_conditions_follow_the_store(harness: Harness) -> None:
    """kms:ResourceAliases, kms:RequestAlias and aws:ResourceTag decide by what the store says at the call."""
    admin = harness.client()
    key = new_key(harness)
    by_tag = harness.user(allow("kms:Encrypt", Condition={"StringEquals": {"aws:ResourceTag/team": "blue"}}))
    by_alias = harness.user(
        allow("kms:Encrypt", Condition={"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/blue"}})
    )
    by_request = harness.user(allow("kms:Encrypt", Condition={"StringEquals": {"kms:RequestAlias": "alias/blue"}}))
    escaped = harness.user(json.loads(json.dumps(allow("kms:Encrypt"))))

    def encrypts(who: Credentials, name: str = key) -> bool:
        return not code_of(lambda: harness.client("kms", who).encrypt(KeyId=name, Plaintext=b"x"))

    assert not encrypts(by_tag)
    assert not encrypts(by_alias)
    assert not encrypts(by_request)
    admin.tag_resource(KeyId=key, Tags=[{"TagKey": "team", "TagValue": "blue"}])
    admin.create_alias(AliasName="alias/blue", TargetKeyId=key)
    assert encrypts(by_tag)
    assert encrypts(by_alias)
    assert not encrypts(by_request)
    assert encrypts(by_request, "alias/blue")
    admin.untag_resource(KeyId=key, TagKeys=["team"])
    admin.delete_alias(AliasName="alias/blue")
    assert not encrypts(by_tag)
    assert not encrypts(by_alias)
    assert encrypts(escaped)


def test_a_json_escape_does_not_hide_a_condition(harness: Harness) -> None:
    r"""A Deny on `aws:Resource\u0054ag/x` fires: the policy is read, not searched."""
    admin = harness.client()
    user = harness.user(allow("kms:Encrypt"))
    text = key_policy(
        statement(user.arn, "kms:Encrypt", effect="Deny", Condition={"StringEquals": {"aws:ResourceTag/locked": "yes"}})
    ).replace("ResourceTag", "Resource\\u0054ag")
    key = new_key(harness, text)
    kms = harness.client("kms", user)
    kms.encrypt(KeyId=key, Plaintext=b"x")
    admin.tag_resource(KeyId=key, Tags=[{"TagKey": "locked", "TagValue": "yes"}])
    assert code_of(lambda: kms.encrypt(KeyId=key, Plaintext=b"x")) == "AccessDeniedException"


def test_the_lockout_check(harness: Harness) -> None:
    """A policy under which its author could never change it again is refused, unless he says that he means it."""
    admin, key = harness.client(), new_key(harness)
    nobody = json.dumps({"Version": "2012-10-17", "Statement": [statement(f"arn:aws:iam::{OTHER}:root", "kms:*")]})
    for call in (
        lambda **more: admin.put_key_policy(KeyId=key, Policy=nobody, **more),
        lambda **more: admin.create_key(Policy=nobody, **more),
    ):
        assert code_of(call) == "MalformedPolicyDocumentException"
        assert code_of(lambda call=call: call(BypassPolicyLockoutSafetyCheck=True)) == ""
    assert code_of(lambda: admin.get_key_policy(KeyId=key)) == "AccessDeniedException"


def test_create_key_asks_for_put_key_policy_where_a_policy_is_given(harness: Harness) -> None:
    """Whoever may only create keys gets the default policy; a policy that is given must leave it to its author."""
    default = json.dumps({"Version": "2012-10-17", "Statement": [statement(ROOT, "kms:*")]})
    creator = harness.client("kms", harness.user(allow("kms:CreateKey")))
    assert code_of(creator.create_key) == ""
    assert code_of(creator.create_key, Policy=default) == "MalformedPolicyDocumentException"
    assert code_of(creator.create_key, Policy=default, BypassPolicyLockoutSafetyCheck=True) == ""
    author = harness.client("kms", harness.user(allow("kms:CreateKey", "kms:PutKeyPolicy")))
    assert code_of(author.create_key, Policy=default) == ""


def test_re_encrypt_is_authorised_twice(harness: Harness) -> None:
    """From on the source, to on the destination; each may be missing."""
    source, destination = new_key(harness), new_key(harness)
    blob = harness.client().encrypt(KeyId=source, Plaintext=b"x")["CiphertextBlob"]

    def moves(*statements: dict[str, Any]) -> bool:
        user = harness.user({"Version": "2012-10-17", "Statement": list(statements)})
        kms = harness.client("kms", user)
        return not code_of(lambda: kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=destination))

    arn = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/"
    from_source = {"Effect": "Allow", "Action": "kms:ReEncryptFrom", "Resource": arn + source}
    to_destination = {"Effect": "Allow", "Action": "kms:ReEncryptTo", "Resource": arn + destination}
    assert moves(from_source, to_destination)
    assert not moves(from_source)
    assert not moves(to_destination)
    assert not moves({**from_source, "Resource": arn + destination}, {**to_destination, "Resource": arn + source})


def test_the_context_is_a_condition(harness: Harness) -> None:
    """kms:EncryptionContext:… in a key policy, on every cryptographic operation."""
    user = harness.user()
    condition = {"StringEquals": {"kms:EncryptionContext:tenant": "a"}}
    key = new_key(harness, key_policy(statement(user.arn, "kms:Encrypt", "kms:Decrypt", Condition=condition)))
    kms = harness.client("kms", user)
    blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "a"})["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "a"})["Plaintext"] == b"x"
    assert (
        code_of(lambda: kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "b"}))
        == "AccessDeniedException"
    )
    assert code_of(lambda: kms.encrypt(KeyId=key, Plaintext=b"x")) == "AccessDeniedException"


def test_the_trail_names_who_decided(harness: Harness) -> None:
    """Statement or grant for what was allowed; the reason for what was not; the client is not told."""
    user = harness.user()
    key = new_key(harness)
    made = harness.client().create_grant(KeyId=key, GranteePrincipal=user.arn, Operations=["Encrypt"])
    kms = harness.client("kms", user)
    kms.encrypt(KeyId=key, Plaintext=b"x")
    assert code_of(lambda: kms.describe_key(KeyId=key)) == "AccessDeniedException"
    records = harness.records()
    encrypted = next(one for one in reversed(records) if one["eventName"] == "Encrypt")
    assert made["GrantId"] in json.dumps(encrypted["additionalEventData"])
    refused = next(one for one in reversed(records) if one["eventName"] == "DescribeKey")
    assert refused["errorCode"] == "AccessDeniedException"
    assert refused["resources"][0]["ARN"].endswith(key)
    assert refused["userIdentity"]["arn"] == user.arn
