"""AssumeRoleWithWebIdentity over the wire, with boto3: temporary credentials for the bearer of a web token."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.clients import ACCOUNT, code_of
from tests.support.harness import Harness
from tests.support.harness import harness as open_harness
from tests.support.json_schema import violations
from tests.support.plain_http import send
from tests.support.roles import allow, make_role, session_of
from tests.support.web_identity import AUDIENCE, SUBJECT, Issuer, trusting_table

ACTION = "sts:AssumeRoleWithWebIdentity"
PER_SECOND = 1000


@pytest.fixture(scope="module", name="issuer")
def _issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Harness]:
    """A daemon that trusts the issuer."""
    folder = tmp_path_factory.mktemp("harness")
    extra = f"{trusting_table(issuer, folder)}[rates]\nweb_identity = {PER_SECOND}\n"
    with open_harness(folder, extra=extra) as found:
        yield found


def trusting(issuer: Issuer, *, effect: str = "Allow", principal: Any = None, **more: Any) -> dict[str, Any]:
    """A statement of a trust policy."""
    return {
        "Effect": effect,
        "Principal": principal or {"Federated": issuer.arn(ACCOUNT)},
        "Action": ACTION,
        **more,
    }


def role_of(harness: Harness, name: str, *statements: dict[str, Any], **more: Any) -> str:
    """A role that may list keys, with this trust policy."""
    policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return make_role(harness, name, policy, allow("kms:ListKeys"), **more)


def assume(harness: Harness, role: str, token: str, **members: Any) -> dict[str, Any]:
    """The answer to the unsigned call of a stock client."""
    answer: dict[str, Any] = harness.client("sts").assume_role_with_web_identity(
        RoleArn=role, RoleSessionName="pod", WebIdentityToken=token, **members
    )
    return answer


def refused(harness: Harness, role: str, token: str, **members: Any) -> str:
    """The name of the error."""
    return code_of(lambda: assume(harness, role, token, **members))


def test_a_session(harness: Harness, issuer: Issuer) -> None:
    """The credentials work, and do what the role may; the answer names subject, audience and issuer."""
    role = role_of(harness, "web", trusting(issuer))
    answer = assume(harness, role, issuer.token())
    assert answer["SubjectFromWebIdentityToken"] == SUBJECT
    assert answer["Audience"] == AUDIENCE
    assert answer["Provider"] == issuer.url
    session = session_of(answer["Credentials"])
    harness.client("kms", session).list_keys()
    assert code_of(harness.client("kms", session).create_key) == "AccessDeniedException"
    identity = harness.client("sts", session).get_caller_identity()
    assert identity["Arn"] == answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/web/pod"


def test_who_is_trusted(harness: Harness, issuer: Issuer) -> None:
    """The issuer must be named: neither everybody nor the account includes its bearers. A Deny includes them."""
    token, everybody = issuer.token(), {"AWS": "*"}
    other = issuer.arn(ACCOUNT).replace("tenant", "another")
    no_trust = {
        "everybody": (trusting(issuer, principal=everybody),),
        "star": (trusting(issuer, principal="*"),),
        "account": (trusting(issuer, principal={"AWS": ACCOUNT}),),
        "another": (trusting(issuer, principal={"Federated": other}),),
        "anothers-account": (trusting(issuer, principal={"Federated": issuer.arn("111122223333")}),),
        "action": ({**trusting(issuer), "Action": "sts:AssumeRole"},),
        "denied": (trusting(issuer), trusting(issuer, effect="Deny", principal="*")),
        "denied-by-name": (trusting(issuer), trusting(issuer, effect="Deny")),
    }
    for name, statements in no_trust.items():
        assert refused(harness, role_of(harness, name, *statements), token) == "AccessDenied", name
    assert refused(harness, f"arn:aws:iam::{ACCOUNT}:role/absent", token) == "AccessDenied"
    elsewhere = role_of(harness, "elsewhere", trusting(issuer), account="111122223333")
    assert refused(harness, elsewhere, token) == "AccessDenied"
    kept = {"AWS": f"arn:aws:iam::{ACCOUNT}:root", "Federated": issuer.arn(ACCOUNT)}
    spared = {**trusting(issuer, effect="Deny"), "NotPrincipal": kept}
    del spared["Principal"]
    assume(harness, role_of(harness, "spared", trusting(issuer), spared), token)


def test_conditions(harness: Harness, issuer: Issuer) -> None:
    """Trust policies see the claims; names do not depend on case, values do."""
    name = issuer.name
    role = role_of(
        harness,
        "conditional",
        trusting(
            issuer,
            Condition={
                "StringEquals": {f"{name.upper()}:aud": AUDIENCE, f"{name}:sub": SUBJECT},
                "ForAnyValue:StringLike": {f"{name}:amr": "mfa*"},
                "StringLike": {"sts:RoleSessionName": "po?"},
            },
        ),
    )
    assume(harness, role, issuer.token(amr=["pwd", "mfa-key"]))
    assert refused(harness, role, issuer.token(amr=["pwd"])) == "AccessDenied"
    assert refused(harness, role, issuer.token()) == "AccessDenied"
    assert refused(harness, role, issuer.token(amr=["mfa"], sub=SUBJECT.upper())) == "AccessDenied"


@pytest.mark.parametrize(
    ("effect", "matches", "allowed"),
    [("Allow", True, True), ("Allow", False, False), ("Deny", True, False), ("Deny", False, True)],
)
def test_the_provider_of_a_session(
    harness: Harness, issuer: Issuer, effect: str, *, matches: bool, allowed: bool
) -> None:
    """`aws:FederatedProvider` is there for the session's calls."""
    provider = issuer.arn(ACCOUNT) if matches else issuer.arn("111122223333")
    policy = allow("kms:ListAliases" if effect == "Allow" else "kms:ListKeys")
    condition = {"StringEquals": {"aws:FederatedProvider": provider}}
    policy["Statement"].append({"Effect": effect, "Action": "kms:ListKeys", "Resource": "*", "Condition": condition})
    trust = json.dumps({"Version": "2012-10-17", "Statement": [trusting(issuer)]})
    role = make_role(harness, f"provider-{effect}-{matches}", trust, policy)
    kms = harness.client("kms", session_of(assume(harness, role, issuer.token())["Credentials"]))
    assert code_of(kms.list_keys) == ("" if allowed else "AccessDeniedException")


def test_a_session_has_no_claims(harness: Harness, issuer: Issuer) -> None:
    """They are there for the call that presents the token. A Deny on one, stored by hand, does not apply later."""
    policy = allow("kms:ListKeys")
    condition = {"StringEquals": {f"{issuer.name}:sub": SUBJECT}}
    policy["Statement"].append({"Effect": "Deny", "Action": "kms:ListKeys", "Resource": "*", "Condition": condition})
    trust = json.dumps({"Version": "2012-10-17", "Statement": [trusting(issuer)]})
    session = session_of(assume(harness, make_role(harness, "no-claims", trust, policy), issuer.token())["Credentials"])
    harness.client("kms", session).list_keys()


def test_tags_in_the_token(harness: Harness, issuer: Issuer) -> None:
    """Session tags and source identity may be claims; the trust policy must allow to set them."""
    claims = {
        "https://aws.amazon.com/tags": {"principal_tags": {"team": ["blue"]}, "transitive_tag_keys": ["team"]},
        "https://aws.amazon.com/source_identity": "alice",
    }
    plain = role_of(harness, "tagless", trusting(issuer))
    assert refused(harness, plain, issuer.token(**claims)) == "AccessDenied"
    actions = [ACTION, "sts:TagSession", "sts:SetSourceIdentity"]
    condition = {"StringEquals": {"aws:RequestTag/team": "blue", "sts:SourceIdentity": "alice"}}
    trust = json.dumps(
        {"Version": "2012-10-17", "Statement": [{**trusting(issuer), "Action": actions, "Condition": condition}]}
    )
    wanted = {"aws:PrincipalTag/team": "blue", "aws:SourceIdentity": "alice"}
    role = make_role(harness, "by-claims", trust, allow("kms:ListKeys", Condition={"StringEquals": wanted}))
    answer = assume(harness, role, issuer.token(**claims))
    assert answer["SourceIdentity"] == "alice"
    harness.client("kms", session_of(answer["Credentials"])).list_keys()
    assert refused(harness, role, issuer.token()) == "AccessDenied"
    several = {"https://aws.amazon.com/tags": {"principal_tags": {"team": ["blue", "red"]}}}
    assert refused(harness, role, issuer.token(**several)) == "InvalidIdentityToken"


def test_duration_and_session_policy(harness: Harness, issuer: Issuer) -> None:
    """As for AssumeRole."""
    role = role_of(harness, "bounded", trusting(issuer))
    assert refused(harness, role, issuer.token(), DurationSeconds=7200) == "ValidationError"
    assert refused(harness, role, issuer.token(), Policy="{}") == "MalformedPolicyDocument"
    assert refused(harness, role, issuer.token(), PolicyArns=[{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}])
    none = json.dumps(allow("kms:Encrypt"))
    session = session_of(assume(harness, role, issuer.token(), Policy=none, DurationSeconds=900)["Credentials"])
    assert code_of(harness.client("kms", session).list_keys) == "AccessDeniedException"


def test_refusals(harness: Harness, issuer: Issuer) -> None:
    """Have the names that clients know; none of them costs a call to the token, and each is in the trail."""
    role = role_of(harness, "refusals", trusting(issuer))
    stranger = Issuer("https://evil.example.com")
    expired = {"iat": 1_000_000_000, "exp": 1_000_000_600}
    counters = harness.components.token.counters
    before, records = {name: one.calls for name, one in counters.calls.items()}, len(harness.records())
    found = [
        refused(harness, role, stranger.token()),
        refused(harness, role, issuer.token(headers={"kid": "unknown"})),
        refused(harness, role, issuer.token(aud="someone-else")),
        refused(harness, role, issuer.token(**expired)),
        refused(harness, role, "abcd.efgh.ijkl"),
    ]
    assert found == [*["InvalidIdentityToken"] * 3, "ExpiredTokenException", "InvalidIdentityToken"]
    assert {name: one.calls for name, one in counters.calls.items()} == before
    added = harness.records()[records:]
    assert [record["eventName"] for record in added] == ["AssumeRoleWithWebIdentity"] * 5
    assert [record["userIdentity"]["type"] for record in added] == ["Unknown"] * 5


def test_the_record(harness: Harness, issuer: Issuer) -> None:
    """Names the subject and the issuer, for the call and for what its session does; the token is in no record."""
    role = role_of(harness, "recorded", trusting(issuer))
    token = issuer.token()
    session = session_of(assume(harness, role, token)["Credentials"])
    harness.client("kms", session).list_keys()
    call, use = harness.records()[-2:]
    assert call["userIdentity"] == {
        "type": "WebIdentityUser",
        "principalId": f"{issuer.url}:{AUDIENCE}:{SUBJECT}",
        "userName": SUBJECT,
        "identityProvider": issuer.arn(ACCOUNT),
    }
    assert use["userIdentity"]["sessionContext"]["webIdFederationData"] == {"federatedProvider": issuer.arn(ACCOUNT)}
    assert token not in json.dumps(harness.records())
    assert [problem for record in harness.records() for problem in violations(record)] == []


def form(action: str, **fields: str) -> bytes:
    """A request as a client without SDK writes it."""
    return urlencode({"Action": action, "Version": "2011-06-15", **fields}).encode()


def post(harness: Harness, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to an unsigned form."""
    request = urllib.request.Request(  # noqa: S310 (http)
        harness.endpoint, body, {"Content-Type": "application/x-www-form-urlencoded"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_only_this_operation_may_be_unsigned(harness: Harness, issuer: Issuer) -> None:
    """Another unsigned form is refused as before, and a web token in it changes nothing; a bad form is refused too."""
    role = role_of(harness, "forms", trusting(issuer))
    good = {"RoleArn": role, "RoleSessionName": "pod", "WebIdentityToken": issuer.token()}
    assert post(harness, form("AssumeRoleWithWebIdentity", **good))[0] == 200
    for body in (
        form("GetCallerIdentity", **good),
        form("AssumeRole", **good),
        form("NoSuchAction", **good),
        form("AssumeRoleWithWebIdentity", **good) + b"&RoleArn=twice",
        b"\xff",
        b"",
    ):
        status, answer = post(harness, body)
        assert status == 403, body
        assert b"<Code>MissingAuthenticationToken</Code>" in answer
    for lacking in good:
        fields = {name: value for name, value in good.items() if name != lacking}
        status, answer = post(harness, form("AssumeRoleWithWebIdentity", **fields))
        assert (status, b"<Code>ValidationError</Code>" in answer) == (400, True)
    long = form("AssumeRoleWithWebIdentity", **{**good, "WebIdentityToken": "a" * 20_001})
    assert post(harness, long)[0] == 400


def test_a_signed_call_is_refused(harness: Harness, issuer: Issuer) -> None:
    """A caller is authenticated in one way."""
    role = role_of(harness, "signed", trusting(issuer))
    body = form("AssumeRoleWithWebIdentity", RoleArn=role, RoleSessionName="pod", WebIdentityToken=issuer.token())
    path = f"/?{body.decode()}"
    answer = send(harness.endpoint, harness.admin, None, b"", method="GET", path=path, service="sts")
    assert (answer.status, b"must not be signed" in answer.body) == (400, True)
