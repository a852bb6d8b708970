"""Every condition key that the daemon provides, in an Allow and in a Deny, over the wire."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from kmsd.app import arn_scope_of
from kmsd.authz.condition_keys import PROVIDED
from kmsd.authz.wildcard import fold
from kmsd.custody import provisioning
from tests.support.clients import ACCOUNT, REGION, Credentials, code_of
from tests.support.condition_rows import (
    FOR_A_ROLE,
    FOR_THE_SERVICE,
    ROOT,
    ROWS,
    SERVICE,
    TAGS,
    Row,
    Site,
)
from tests.support.harness import Harness

DENIED = ("AccessDeniedException", "AccessDenied")
KINDS = {
    "SIGN_VERIFY": "ECC_NIST_P256",
    "GENERATE_VERIFY_MAC": "HMAC_256",
    "KEY_AGREEMENT": "ECC_NIST_P256",
    "ENCRYPT_DECRYPT": "RSA_2048",
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def site(harness: Harness) -> Site:
    """One key for all rows."""
    found = Site(harness)
    tags = [{"TagKey": "env", "TagValue": "prod"}]
    found.key = found.admin.create_key(Tags=tags)["KeyMetadata"]["KeyId"]
    found.admin.create_alias(AliasName="alias/conditions", TargetKeyId=found.key)
    found.blob = found.admin.encrypt(KeyId=found.key, Plaintext=b"x")["CiphertextBlob"]
    for usage, spec in KINDS.items():
        found.keys[usage] = found.admin.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"]
    return found


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
    shown |= {"aws:federatedprovider"}  # test_web_identity
    shown |= {"aws:sourceidentity", "sts:sourceidentity", "sts:transitivetagkeys"}  # test_session_tags
    assert {key.name for key in PROVIDED if fold(key.name) not in shown} == set()


@EACH_CASE
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_in_a_policy_of_the_caller(site: Site, row: Row, effect: str, *, matches: bool, allowed: bool) -> None:
    """An Allow applies to the request's value alone, and a Deny denies it."""
    condition = {row.operator: {written(row.key): row.value if matches else row.other}}
    document = policy(effect, condition)
    document["Statement"][-1]["Action"] = row.action
    if row.action != "*":
        document["Statement"].append({"Effect": "Allow", "NotAction": row.action, "Resource": "*"})
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
