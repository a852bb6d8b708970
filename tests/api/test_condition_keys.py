"""Every condition key that the daemon provides, in an Allow and in a Deny, over the wire."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from kmsd.app import arn_scope_of
from kmsd.authz.condition_keys import PROVIDED
from kmsd.authz.wildcard import fold
from kmsd.custody import provisioning
from tests.support.clients import ACCOUNT, REGION, Credentials, code_of
from tests.support.harness import Harness
from tests.support.log_service import arn_of

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
SOMEBODY = f"arn:aws:iam::{ACCOUNT}:user/somebody"
SERVICE = f"logs.{REGION}.amazonaws.com"
DENIED = ("AccessDeniedException", "AccessDenied")
_numbers = itertools.count()

Act = Callable[["Site", Any], Any]
"""What a caller tries, with a client of its own."""


@dataclass
class Site:
    """A key with everything that conditions can ask for, and things to act on."""

    harness: Harness
    key: str = ""
    blob: bytes = b""
    user: Credentials = field(default_factory=lambda: Credentials("", ""))

    @property
    def admin(self) -> Any:
        """The administrator's client."""
        return self.harness.client()

    def grant(self) -> str:
        """A grant with a constraint, which principals of the account may retire by an identity policy."""
        found = self.admin.create_grant(
            KeyId=self.key,
            GranteePrincipal=SOMEBODY,
            RetiringPrincipal=SOMEBODY,
            Operations=["Encrypt"],
            Constraints={"EncryptionContextSubset": {"team": "a"}},
        )
        return str(found["GrantId"])

    def external(self) -> str:
        """A key that awaits import."""
        return str(self.admin.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"])


@pytest.fixture(scope="module")
def site(harness: Harness) -> Site:
    """One key for all rows."""
    found = Site(harness)
    tags = [{"TagKey": "env", "TagValue": "prod"}]
    found.key = found.admin.create_key(Tags=tags)["KeyMetadata"]["KeyId"]
    found.admin.create_alias(AliasName="alias/conditions", TargetKeyId=found.key)
    found.blob = found.admin.encrypt(KeyId=found.key, Plaintext=b"x")["CiphertextBlob"]
    return found


@dataclass(frozen=True)
class Row:
    """A condition key in a policy of the caller's."""

    key: str
    value: Any
    """What the request brings."""
    other: Any
    """What it does not bring."""
    act: Act
    operator: str = "StringEquals"
    session: bool = False
    """Act with temporary credentials of the user."""


def encrypt(site: Site, kms: Any, **members: Any) -> Any:
    """Encrypt under the key."""
    return kms.encrypt(**{"KeyId": site.key, "Plaintext": b"x", **members})


def in_context(site: Site, kms: Any) -> Any:
    """Encrypt with an encryption context."""
    return encrypt(site, kms, EncryptionContext={"team": "a"})


def by_alias(site: Site, kms: Any) -> Any:
    """Encrypt, the key being named by an alias."""
    return encrypt(site, kms, KeyId="alias/conditions")


def rotate(site: Site, kms: Any) -> Any:
    """Turn rotation on, with the default period."""
    return kms.enable_key_rotation(KeyId=site.key)


def create_key(_: Site, kms: Any, **members: Any) -> Any:
    """Make a key."""
    return kms.create_key(Description="condition", **members)


def create_grant(site: Site, kms: Any, **members: Any) -> Any:
    """Make a grant with a constraint."""
    constraints = {"EncryptionContextEquals": {"team": "a"}}
    return kms.create_grant(
        KeyId=site.key,
        GranteePrincipal=SOMEBODY,
        RetiringPrincipal=SOMEBODY,
        Operations=["Encrypt"],
        Constraints=constraints,
        **members,
    )


def retire(site: Site, kms: Any) -> Any:
    """Retire a grant with a constraint."""
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{site.key}"
    return kms.retire_grant(KeyId=arn, GrantId=site.grant())


def reencrypt(site: Site, kms: Any) -> Any:
    """Re-encrypt under the same key."""
    return kms.re_encrypt(CiphertextBlob=site.blob, DestinationKeyId=site.key)


def parameters(site: Site, kms: Any) -> Any:
    """Ask for import parameters."""
    return kms.get_parameters_for_import(
        KeyId=site.external(), WrappingAlgorithm="RSAES_OAEP_SHA_1", WrappingKeySpec="RSA_2048"
    )


def import_material(site: Site, kms: Any) -> Any:
    """Import material that nobody wrapped: it is authorised before it is looked at."""
    until = datetime(2099, 1, 1, tzinfo=UTC)
    return kms.import_key_material(KeyId=site.external(), ImportToken=b"x", EncryptedKeyMaterial=b"x", ValidTo=until)


ANY = "ForAnyValue:StringEquals"
FAR, PAST = "2098-12-31T00:00:00Z", "2001-01-01T00:00:00Z"
TAGS = [{"TagKey": "team", "TagValue": "a"}]
ROWS = [
    Row("aws:CurrentTime", FAR, PAST, encrypt, "DateLessThan"),
    Row("aws:EpochTime", "4070908800", "1", encrypt, "NumericLessThan"),
    Row("aws:MultiFactorAuthPresent", "false", "true", encrypt, "Bool", session=True),
    Row("aws:PrincipalAccount", ACCOUNT, "111122223333", encrypt),
    Row("aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:user/cond*", SOMEBODY, encrypt, "ArnLike"),
    Row("aws:PrincipalIsAWSService", "false", "true", encrypt, "Bool"),
    Row("aws:PrincipalTag/${TagKey}", "blue", "red", encrypt),
    Row("aws:PrincipalType", "User", "AssumedRole", encrypt),
    Row("aws:RequestedRegion", REGION, "eu-west-1", encrypt),
    Row("aws:RequestTag/${TagKey}", "a", "b", lambda site, kms: create_key(site, kms, Tags=TAGS)),
    Row("aws:RequestTag/${TagKey}", "a", "b", lambda site, kms: kms.tag_resource(KeyId=site.key, Tags=TAGS)),
    Row("aws:ResourceAccount", ACCOUNT, "111122223333", encrypt),
    Row("aws:ResourceAccount", ACCOUNT, "111122223333", lambda _, kms: kms.list_keys()),
    Row("aws:ResourceTag/${TagKey}", "prod", "dev", encrypt),
    Row("aws:SecureTransport", "false", "true", encrypt, "Bool"),
    Row("aws:SourceIp", "127.0.0.0/8", "192.0.2.0/24", encrypt, "IpAddress"),
    Row("aws:TagKeys", "team", "env", lambda site, kms: create_key(site, kms, Tags=TAGS), ANY),
    Row("aws:TagKeys", "x", "y", lambda site, kms: kms.untag_resource(KeyId=site.key, TagKeys=["x"]), ANY),
    Row("aws:TokenIssueTime", FAR, PAST, encrypt, "DateLessThan", session=True),
    Row("aws:UserAgent", "Boto*", "curl*", encrypt, "StringLike"),
    Row("aws:userid", "AIDA*", "AROA*", encrypt, "StringLike"),
    Row("aws:username", "cond*", "somebody", encrypt, "StringLike"),
    Row("aws:ViaAWSService", "false", "true", encrypt, "Bool"),
    Row(
        "kms:BypassPolicyLockoutSafetyCheck",
        "true",
        "false",
        lambda site, kms: create_key(site, kms, BypassPolicyLockoutSafetyCheck=True),
        "Bool",
    ),
    Row("kms:BypassPolicyLockoutSafetyCheck", "false", "true", create_key, "Bool"),
    Row("kms:CallerAccount", ACCOUNT, "111122223333", encrypt),
    Row("kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", encrypt),
    Row("kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", create_key),
    Row("kms:CustomerMasterKeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", encrypt),
    Row("kms:CustomerMasterKeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", create_key),
    Row("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", encrypt),
    Row("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", reencrypt),
    Row("kms:EncryptionContext:${EncryptionContextKey}", "a", "b", in_context),
    Row("kms:EncryptionContext:${EncryptionContextKey}", "a", "b", create_grant),
    Row("kms:EncryptionContext:${EncryptionContextKey}", "a", "b", retire),
    Row("kms:EncryptionContextKeys", "team", "env", in_context, ANY),
    Row("kms:EncryptionContextKeys", "team", "env", create_grant, ANY),
    Row("kms:EncryptionContextKeys", "team", "env", retire, ANY),
    Row("kms:ExpirationModel", "KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE", import_material),
    Row("kms:GrantConstraintType", "EncryptionContextEquals", "EncryptionContextSubset", create_grant),
    Row("kms:GrantConstraintType", "EncryptionContextSubset", "EncryptionContextEquals", retire),
    Row("kms:GranteePrincipal", SOMEBODY, ROOT, create_grant),
    Row("kms:GrantIsForAWSResource", "false", "true", create_grant, "Bool"),
    Row("kms:GrantIsForAWSResource", "false", "true", lambda site, kms: kms.list_grants(KeyId=site.key), "Bool"),
    Row(
        "kms:GrantIsForAWSResource",
        "false",
        "true",
        lambda site, kms: kms.revoke_grant(KeyId=site.key, GrantId=site.grant()),
        "Bool",
    ),
    Row("kms:GrantOperations", "Encrypt", "Decrypt", create_grant, ANY),
    Row("kms:KeyOrigin", "AWS_KMS", "EXTERNAL", encrypt),
    Row("kms:KeyOrigin", "AWS_KMS", "EXTERNAL", create_key),
    Row("kms:KeyOrigin", "EXTERNAL", "AWS_KMS", lambda site, kms: create_key(site, kms, Origin="EXTERNAL")),
    Row("kms:KeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", encrypt),
    Row("kms:KeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", create_key),
    Row("kms:KeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", encrypt),
    Row("kms:KeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", create_key),
    Row("kms:MultiRegion", "false", "true", encrypt, "Bool"),
    Row("kms:MultiRegion", "false", "true", create_key, "Bool"),
    Row("kms:ReEncryptOnSameKey", "true", "false", reencrypt, "Bool"),
    Row("kms:RequestAlias", "alias/conditions", "alias/x", by_alias),
    Row("kms:ResourceAliases", "alias/conditions", "alias/x", encrypt, ANY),
    Row("kms:RetiringPrincipal", SOMEBODY, ROOT, create_grant),
    Row("kms:RotationPeriodInDays", "365", "90", rotate, "NumericEquals"),
    Row(
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        "30",
        "7",
        lambda site, kms: kms.schedule_key_deletion(KeyId=site.external()),
        "NumericEquals",
    ),
    Row("kms:ValidTo", "2099-01-01T00:00:00Z", PAST, import_material, "DateEquals"),
    Row("kms:WrappingAlgorithm", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", parameters),
    Row("kms:WrappingKeySpec", "RSA_2048", "RSA_4096", parameters),
]  # fmt: skip

FOR_THE_SERVICE = [
    ("aws:PrincipalIsAWSService", "Bool", "true", "false"),
    ("aws:PrincipalServiceName", "StringEquals", SERVICE, "s3.amazonaws.com"),
    ("aws:PrincipalServiceNamesList", ANY, "logs.amazonaws.com", "s3.amazonaws.com"),
    ("aws:PrincipalType", "StringEquals", "Service", "User"),
    ("aws:SourceAccount", "StringEquals", ACCOUNT, "111122223333"),
    ("aws:SourceArn", "ArnLike", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/conditions/*", arn_of("/other")),
    ("aws:SecureTransport", "Bool", "true", "false"),
    ("aws:ViaAWSService", "Bool", "false", "true"),
    ("aws:ResourceAccount", "StringEquals", ACCOUNT, "111122223333"),
    ("aws:ResourceTag/env", "StringEquals", "prod", "dev"),
    ("kms:ResourceAliases", "ForAnyValue:StringLike", "alias/service-*", "alias/x"),
    ("kms:KeySpec", "StringEquals", "SYMMETRIC_DEFAULT", "RSA_2048"),
    ("aws:CurrentTime", "DateLessThan", FAR, PAST),
    ("aws:RequestedRegion", "StringEquals", REGION, "eu-west-1"),
]
FOR_A_ROLE = [
    ("sts:ExternalId", "StringEquals", "outside", "inside"),
    ("sts:RoleSessionName", "StringEquals", "conditions", "other"),
    ("iam:ResourceTag/team", "StringEquals", "blue", "red"),
    ("aws:ResourceTag/team", "StringEquals", "blue", "red"),
    ("aws:ResourceAccount", "StringEquals", ACCOUNT, "111122223333"),
]


def written(name: str) -> str:
    """The name of a key in a policy: `team` for names of the request's own, `env` for the tag of the key."""
    own = "env" if name.startswith("aws:ResourceTag") else "team"
    return name.partition("${")[0] + own if "${" in name else name


def policy(effect: str, condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The statements of a policy whose one condition decides: the only Allow, or a Deny beside an Allow."""
    always = {"Effect": "Allow", "Action": "*", "Resource": "*", **more}
    given = {**always, "Effect": effect, "Condition": condition}
    return {"Version": "2012-10-17", "Statement": [given] if effect == "Allow" else [always, given]}


CASES = [("Allow", True, True), ("Allow", False, False), ("Deny", True, False), ("Deny", False, True)]
"""Effect, whether the condition names the request's value, whether the request is allowed then."""
EACH_CASE = pytest.mark.parametrize(("effect", "matches", "allowed"), CASES, ids=str)


def test_every_provided_key_has_a_row() -> None:
    """What is declared is shown to work, in Allow and Deny."""
    shown = {fold(row.key) for row in ROWS} | {fold(name) for name, *_ in FOR_THE_SERVICE}
    shown |= {fold(name) for name, *_ in FOR_A_ROLE} | {"iam:resourcetag/${tagkey}"}
    assert {key.name for key in PROVIDED if fold(key.name) not in shown} == set()


@EACH_CASE
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_in_a_policy_of_the_caller(site: Site, row: Row, effect: str, *, matches: bool, allowed: bool) -> None:
    """An Allow applies to the request's value alone, and a Deny denies it."""
    document = policy(effect, {row.operator: {written(row.key): row.value if matches else row.other}})
    # CreateKey looks ahead to the next PutKeyPolicy; STS is asked for the session.
    aside = {"Effect": "Allow", "Action": ["kms:PutKeyPolicy", "sts:*"], "Resource": "*"}
    document["Statement"].append(aside)
    site.user = site.harness.user(document, name=f"cond{next(_numbers)}", team="blue")
    credentials = site.user
    if row.session:
        given = site.harness.client("sts", credentials).get_session_token()["Credentials"]
        token = given["SessionToken"]
        credentials = Credentials(given["AccessKeyId"], given["SecretAccessKey"], site.user.arn, token)
    kms = site.harness.client("kms", credentials)
    code = code_of(lambda: row.act(site, kms))
    assert (code not in DENIED) is allowed, code


@EACH_CASE
@pytest.mark.parametrize("row", FOR_THE_SERVICE, ids=lambda row: row[0])
def test_in_a_key_policy_for_the_log_service(
    site: Site, row: tuple[str, str, str, str], effect: str, *, matches: bool, allowed: bool
) -> None:
    """The log service's use of a key is authorised as anybody's, with the tags and aliases of the key."""
    name, operator, value, other = row
    document = policy(effect, {operator: {name: value if matches else other}}, Principal={"Service": SERVICE})
    document["Statement"].append({"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"})
    tags = [{"TagKey": "env", "TagValue": "prod"}]
    number = next(_numbers)
    arn = site.admin.create_key(Policy=json.dumps(document), Tags=tags)["KeyMetadata"]["Arn"]
    site.admin.create_alias(AliasName=f"alias/service-{number}", TargetKeyId=arn)
    logs = site.harness.client("logs")
    code = code_of(lambda: logs.create_log_group(logGroupName=f"/conditions/{number}", kmsKeyId=arn))
    assert (code not in DENIED) is allowed, code


@EACH_CASE
@pytest.mark.parametrize("row", FOR_A_ROLE, ids=lambda row: row[0])
def test_in_a_trust_policy(
    site: Site, row: tuple[str, str, str, str], effect: str, *, matches: bool, allowed: bool
) -> None:
    """AssumeRole brings ExternalId, the session's name, and the tags of the role."""
    name, operator, value, other = row
    document = policy(effect, {operator: {name: value if matches else other}}, Principal={"AWS": ROOT})
    for statement in document["Statement"]:
        del statement["Resource"]
        statement["Action"] = "sts:AssumeRole"
    harness, role_name = site.harness, f"conditions{next(_numbers)}"
    role = provisioning.new_role(
        arn_scope_of(harness.config),
        ACCOUNT,
        role_name,
        trust_policy=json.dumps(document),
        policies={},
        seconds=3600,
        now=harness.clock.now(),
        tags={"team": "blue"},
    )
    harness.run(provisioning.create_role(harness.components.store, role, harness.clock.now()))
    sts = harness.client("sts")
    members = {"RoleArn": role.arn, "RoleSessionName": "conditions", "ExternalId": "outside"}
    code = code_of(lambda: sts.assume_role(**members))
    assert (code not in DENIED) is allowed, code


def keys(harness: Harness) -> int:
    """How many keys there are."""
    pages = harness.client().get_paginator("list_keys").paginate()
    return sum(len(page["Keys"]) for page in pages)


def test_tags_given_to_a_new_key_need_a_permission_of_their_own(harness: Harness) -> None:
    """CreateKey with Tags asks for kms:TagResource on keys of the account; without Tags it does not."""
    may = {"Effect": "Allow", "Action": ["kms:CreateKey", "kms:PutKeyPolicy"], "Resource": "*"}
    not_tag = {"Effect": "Deny", "Action": "kms:TagResource", "Resource": "*"}
    here = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/*"
    elsewhere = here.replace(ACCOUNT, "111122223333")
    cases = [
        ([may], False),
        ([may, {"Effect": "Allow", "Action": "kms:TagResource", "Resource": here}], True),
        ([may, {"Effect": "Allow", "Action": "kms:TagResource", "Resource": elsewhere}], False),
        ([{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}, not_tag], False),
    ]
    for statements, allowed in cases:
        kms = harness.client("kms", harness.user({"Version": "2012-10-17", "Statement": statements}))
        before = keys(harness)
        code = code_of(lambda kms=kms: kms.create_key(Tags=TAGS))
        assert (code, keys(harness) - before) == (("", 1) if allowed else ("AccessDeniedException", 0))
        kms.create_key()
        kms.create_key(Tags=[])


def test_a_tag_of_another_case_does_not_lift_a_deny(harness: Harness) -> None:
    """Who may tag a key, but not touch the tag Env, cannot hide its value behind a tag named env."""
    kms = harness.client()
    key = kms.create_key(Tags=[{"TagKey": "Env", "TagValue": "prod"}])["KeyMetadata"]["KeyId"]
    document = policy("Deny", {"StringEquals": {"aws:ResourceTag/Env": "prod"}})
    document["Statement"][1]["Action"] = "kms:Encrypt"
    user = harness.client("kms", harness.user(document))
    assert code_of(lambda: user.encrypt(KeyId=key, Plaintext=b"x")) == "AccessDeniedException"
    user.tag_resource(KeyId=key, Tags=[{"TagKey": "env", "TagValue": "dev"}])
    assert code_of(lambda: user.encrypt(KeyId=key, Plaintext=b"x")) == "AccessDeniedException"
    both = [{"TagKey": "Env", "TagValue": "prod"}, {"TagKey": "env", "TagValue": "dev"}]
    allowing = policy("Allow", {"StringEquals": {"aws:RequestTag/Env": "dev"}})
    other = harness.client("kms", harness.user(allowing))
    assert code_of(lambda: other.create_key(Tags=both)) == "AccessDeniedException"


@pytest.mark.parametrize("act", ["create", "put", "assume"])
def test_a_deny_on_a_key_that_is_never_provided_is_refused(site: Site, act: str) -> None:
    """By every operation that takes a policy, and nothing is changed."""
    kms, sts = site.admin, site.harness.client("sts")
    who: dict[str, Any] = {} if act == "assume" else {"Principal": {"AWS": ROOT}}
    document = json.dumps(policy("Deny", {"StringEquals": {"aws:SourceVpc": "vpc-1"}}, **who))
    before = kms.get_key_policy(KeyId=site.key)["Policy"], keys(site.harness)
    acts: dict[str, Callable[[], Any]] = {
        "create": lambda: kms.create_key(Policy=document),
        "put": lambda: kms.put_key_policy(KeyId=site.key, Policy=document),
        "assume": lambda: sts.assume_role(RoleArn=_trusting(site.harness), RoleSessionName="session", Policy=document),
    }
    assert code_of(acts[act]) in ("MalformedPolicyDocumentException", "MalformedPolicyDocument")
    assert (kms.get_key_policy(KeyId=site.key)["Policy"], keys(site.harness)) == before


def _trusting(harness: Harness) -> str:
    trust = {"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "sts:AssumeRole"}
    role = provisioning.new_role(
        arn_scope_of(harness.config),
        ACCOUNT,
        f"trusting{next(_numbers)}",
        trust_policy=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        policies={},
        seconds=3600,
        now=harness.clock.now(),
    )
    harness.run(provisioning.create_role(harness.components.store, role, harness.clock.now()))
    return role.arn


def test_a_new_key_is_the_only_resource_of_its_record(harness: Harness) -> None:
    """The pattern on which kms:TagResource is authorised is no resource."""
    since = len(harness.records())
    arn = harness.client().create_key(Tags=TAGS)["KeyMetadata"]["Arn"]
    (made,) = [one for one in harness.records()[since:] if one["eventName"] == "CreateKey"]
    assert [one["ARN"] for one in made["resources"]] == [arn]
