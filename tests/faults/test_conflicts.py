"""Twenty clients change one resource at the same instant, by each operation that writes: nobody is answered 5xx."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd import services
from kmsd.operations.declaration import Operation
from kmsd.operations.description import errors_of
from kmsd.services import OPERATIONS
from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon
from tests.support.key_import import external_key, imported_key, parameters
from tests.support.log_service import arn_of, key_for
from tests.support.mixed_load import policy_of

CLIENTS = 20
WRITING_BY_ITSELF = ("GetParametersForImport",)
"""Operations that write, and not within the transaction that the pipeline opens for them."""
WRITING = [
    operation
    for operation in OPERATIONS
    if operation.writes or operation.appends or operation.name in WRITING_BY_ITSELF
]
COMMON = ("ThrottlingException",)
"""Of the errors that every operation may answer, the one that means that others were quicker too often."""


class Crowd:
    """Twenty clients of each service, each with connections of its own, so that both workers have some."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        options = {"connect_timeout": 5, "read_timeout": 60}
        self._clients = {service: [daemon.client(service, **options) for _ in range(CLIENTS)] for service in SERVICES}
        self.kms: Any = self._clients["kms"][0]
        self.logs: Any = self._clients["logs"][0]
        self._made = 0

    def new_name(self) -> str:
        """One that was not used before."""
        self._made += 1
        return f"crowd-{self._made}"

    def new_key(self, **members: Any) -> str:
        """A fresh key."""
        return str(self.kms.create_key(Policy=policy_of("crowd"), **members)["KeyMetadata"]["KeyId"])

    def new_group(self, **members: Any) -> str:
        """A fresh log group with a stream `s`."""
        group = f"/{self.new_name()}"
        self.logs.create_log_group(logGroupName=group, **members)
        self.logs.create_log_stream(logGroupName=group, logStreamName="s")
        return group

    def ask(self, calls: Sequence[tuple[Operation[Any, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
        """The answers, in the order of the calls; all begun at the same instant. An error is an answer too."""
        gate = threading.Barrier(len(calls))
        answers: list[dict[str, Any]] = [{} for _ in calls]

        def run(place: int) -> None:
            operation, members = calls[place]
            client = self._clients[operation.service.scope][place]
            gate.wait()
            try:
                answers[place] = client._make_api_call(operation.name, members)
            except ClientError as error:
                answers[place] = error.response

        threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        for (operation, _), answer in zip(calls, answers, strict=True):
            assert answer["ResponseMetadata"]["HTTPStatusCode"] < 500, (operation.name, answer)
            assert code_of(answer) in ("", *errors_of(operation), *COMMON), (operation.name, answer)
        self._assert_recorded(answers)
        return answers

    def _assert_recorded(self, answers: Sequence[dict[str, Any]]) -> None:
        """Each call has just one record, which says what was answered."""
        wanted = {answer["ResponseMetadata"]["RequestId"]: code_of(answer) for answer in answers}
        found = [
            (record["requestID"], record.get("errorCode", ""))
            for record in self.daemon.audit_records()
            if record.get("requestID") in wanted
        ]
        assert sorted(found) == sorted(wanted.items())


SERVICES = ("kms", "logs")


def code_of(answer: dict[str, Any]) -> str:
    """Name of the error; empty for a success."""
    return str(answer.get("Error", {}).get("Code", ""))


@pytest.fixture(scope="module", name="crowd")
def _crowd(daemon: Daemon) -> Crowd:
    return Crowd(daemon)


# --- What each operation is asked, of one resource ------------------------------------------------------

Ask = Callable[[int], dict[str, Any]]
"""The request of the client of this number."""


def on_key(crowd: Crowd, **members: Any) -> Ask:
    """The same of a fresh key."""
    key_id = crowd.new_key()
    return lambda _: {"KeyId": key_id, **members}


def pending_deletion(crowd: Crowd) -> Ask:
    """A key that is scheduled for deletion."""
    key_id = crowd.new_key()
    crowd.kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    return lambda _: {"KeyId": key_id}


def on_alias(crowd: Crowd, *, exists: bool) -> Ask:
    """An alias, pointed to one of several keys."""
    name, keys = f"alias/{crowd.new_name()}", [crowd.new_key() for _ in range(3)]
    if exists:
        crowd.kms.create_alias(AliasName=name, TargetKeyId=keys[0])
    return lambda place: {"AliasName": name, "TargetKeyId": keys[place % len(keys)]}


def on_grant(crowd: Crowd) -> Ask:
    """One grant."""
    key_id = crowd.new_key()
    made = crowd.kms.create_grant(KeyId=key_id, GranteePrincipal=crowd.daemon.admin.arn, **GRANT)
    arn = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{key_id}"
    return lambda _: {"KeyId": arn, "GrantId": made["GrantId"]}


GRANT = {"Operations": ["Encrypt"], "RetiringPrincipal": f"arn:aws:iam::{ACCOUNT}:user/admin"}


def material(place: int) -> bytes:
    """Key material of the client of this number."""
    return bytes([place]) * 32


def imports(crowd: Crowd) -> Ask:
    """Different materials, by two import tokens: each takes nineteen refusals."""
    key_id = external_key(crowd.kms)
    given = [parameters(crowd.kms, key_id) for _ in range(2)]
    return lambda place: given[place % 2].members(material(place))


def on_group(crowd: Crowd, **members: Any) -> Ask:
    """The same of a fresh log group."""
    group = crowd.new_group()
    return lambda _: {"logGroupName": group, **members}


def on_group_by_arn(crowd: Crowd, **members: Any) -> Ask:
    """The same of a fresh log group, named by its ARN."""
    arn = arn_of(crowd.new_group())
    return lambda _: {"resourceArn": arn, **members}


def association(crowd: Crowd) -> Ask:
    """A log group and one of two keys."""
    group = crowd.new_group()
    keys = [key_for(crowd.kms, arn_of(group)) for _ in range(2)]
    return lambda place: {"logGroupName": group, "kmsKeyId": keys[place % 2]}


def associated(crowd: Crowd) -> Ask:
    """A log group with a key."""
    group = crowd.new_group()
    crowd.logs.associate_kms_key(logGroupName=group, kmsKeyId=key_for(crowd.kms, arn_of(group)))
    return lambda _: {"logGroupName": group}


def events(crowd: Crowd) -> Ask:
    """Events of one stream."""
    ask, now = on_group(crowd), int(time.time() * 1000)
    return lambda place: {
        **ask(place),
        "logStreamName": "s",
        "logEvents": [{"timestamp": now, "message": f"event {place}"}],
    }


def a_query(crowd: Crowd) -> Ask:
    """One that runs, or has run."""
    now = int(time.time())
    members = {"startTime": now - 60, "endTime": now, "queryString": "fields @message"}
    query_id = crowd.logs.start_query(logGroupName=crowd.new_group(), **members)["queryId"]
    return lambda _: {"queryId": query_id}


def numbered(ask: Ask, member: str, value: Callable[[int], Any]) -> Ask:
    """`ask` with a member that differs from client to client."""
    return lambda place: {**ask(place), member: value(place)}


def without(ask: Ask, member: str) -> Ask:
    """`ask` less a member."""
    return lambda place: {name: value for name, value in ask(place).items() if name != member}


NOW = int(time.time())
SCENES: dict[str, Callable[[Crowd], Ask]] = {
    "kms:CancelKeyDeletion": pending_deletion,
    "kms:CreateAlias": partial(on_alias, exists=False),
    "kms:CreateGrant": lambda crowd: numbered(
        on_key(crowd, GranteePrincipal=crowd.daemon.admin.arn, **GRANT), "Name", lambda place: f"grant{place % 2}"
    ),
    "kms:CreateKey": lambda crowd: lambda place: {"Description": f"{crowd.new_name()} {place}"},
    "kms:DeleteAlias": lambda crowd: without(on_alias(crowd, exists=True), "TargetKeyId"),
    "kms:DeleteImportedKeyMaterial": lambda crowd: partial(_same, {"KeyId": imported_key(crowd.kms, material(0))}),
    "kms:DisableKey": on_key,
    "kms:DisableKeyRotation": on_key,
    "kms:EnableKey": on_key,
    "kms:EnableKeyRotation": lambda crowd: numbered(on_key(crowd), "RotationPeriodInDays", lambda place: 90 + place),
    "kms:GetParametersForImport": lambda crowd: partial(
        _same,
        {
            "KeyId": external_key(crowd.kms),
            "WrappingAlgorithm": "RSAES_OAEP_SHA_1",
            "WrappingKeySpec": "RSA_2048",
        },
    ),
    "kms:ImportKeyMaterial": imports,
    "kms:PutKeyPolicy": lambda crowd: numbered(on_key(crowd), "Policy", lambda place: policy_of(f"policy{place}")),
    "kms:RetireGrant": on_grant,
    "kms:RevokeGrant": on_grant,
    "kms:RotateKeyOnDemand": on_key,
    "kms:ScheduleKeyDeletion": lambda crowd: on_key(crowd, PendingWindowInDays=7),
    "kms:TagResource": lambda crowd: numbered(
        on_key(crowd), "Tags", lambda place: [{"TagKey": f"t{place % 4}", "TagValue": str(place)}]
    ),
    "kms:UntagResource": lambda crowd: on_key(crowd, TagKeys=["a", "b"]),
    "kms:UpdateAlias": partial(on_alias, exists=True),
    "kms:UpdateKeyDescription": lambda crowd: numbered(on_key(crowd), "Description", str),
    "logs:AssociateKmsKey": association,
    "logs:CreateLogGroup": lambda crowd: partial(_same, {"logGroupName": f"/{crowd.new_name()}"}),
    "logs:CreateLogStream": lambda crowd: on_group(crowd, logStreamName="new"),
    "logs:DeleteLogGroup": on_group,
    "logs:DeleteLogStream": lambda crowd: on_group(crowd, logStreamName="s"),
    "logs:DeleteRetentionPolicy": on_group,
    "logs:DisassociateKmsKey": associated,
    "logs:PutLogEvents": events,
    "logs:PutRetentionPolicy": lambda crowd: numbered(
        on_group(crowd), "retentionInDays", lambda place: (1, 3, 5, 7)[place % 4]
    ),
    "logs:StartQuery": lambda crowd: on_group(
        crowd, startTime=NOW - 60, endTime=NOW + 60, queryString="fields @message"
    ),
    "logs:StopQuery": a_query,
    "logs:TagLogGroup": lambda crowd: numbered(on_group(crowd), "tags", lambda place: {f"t{place % 4}": str(place)}),
    "logs:TagResource": lambda crowd: numbered(
        on_group_by_arn(crowd), "tags", lambda place: {f"t{place % 4}": str(place)}
    ),
    "logs:UntagLogGroup": lambda crowd: on_group(crowd, tags=["a"]),
    "logs:UntagResource": lambda crowd: on_group_by_arn(crowd, tagKeys=["a"]),
}


def _same(members: dict[str, Any], _: int) -> dict[str, Any]:
    """For each client the same."""
    return members


@pytest.mark.parametrize("operation", WRITING, ids=lambda operation: operation.action)
def test_twenty_clients_of_one_operation(crowd: Crowd, operation: Operation[Any, Any]) -> None:
    """No 5xx; each answer is one that the operation's page names; one record for each call. New ones are asked too."""
    ask = SCENES[operation.action](crowd)
    answers = crowd.ask([(operation, ask(place)) for place in range(CLIENTS)])
    # A query may be over before anybody stops it.
    assert operation.name == "StopQuery" or "" in {code_of(answer) for answer in answers}, answers


def by_name(name: str) -> Operation[Any, Any]:
    """An operation of KMS."""
    return next(one for one in OPERATIONS if (one.service, one.name) == (services.KMS, name))


# --- Import -----------------------------------------------------------------------------------------------


def test_of_different_materials_one_is_imported(crowd: Crowd) -> None:
    """All others are refused by IncorrectKeyMaterialException, and leave no object in the token."""
    ask = imports(crowd)
    answers = crowd.ask([(by_name("ImportKeyMaterial"), ask(place)) for place in range(CLIENTS)])
    assert Counter(map(code_of, answers)) == {"": 1, "IncorrectKeyMaterialException": CLIENTS - 1}
    key_id = ask(0)["KeyId"]
    (winner,) = [place for place, answer in enumerate(answers) if not code_of(answer)]
    # The same material goes in again; another does not.
    crowd.kms.import_key_material(**parameters(crowd.kms, key_id).members(material(winner)))
    with pytest.raises(ClientError, match="IncorrectKeyMaterialException"):
        crowd.kms.import_key_material(**parameters(crowd.kms, key_id).members(material(winner + 1)))
    blob = crowd.kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert crowd.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


@pytest.mark.parametrize("first", [True, False], ids=["first", "again"])
def test_the_same_material_is_imported_by_all(crowd: Crowd, first: bool) -> None:  # noqa: FBT001 (a parameter)
    """For the first time, and again after it was deleted: everybody succeeds, and there is one object."""
    secret = os.urandom(32)
    key_id = external_key(crowd.kms) if first else imported_key(crowd.kms, secret)
    given = parameters(crowd.kms, key_id).members(secret)
    if not first:
        crowd.kms.delete_imported_key_material(KeyId=key_id)
    answers = crowd.ask([(by_name("ImportKeyMaterial"), given)] * CLIENTS)
    assert Counter(map(code_of, answers)) == {"": CLIENTS}
    assert len({answer["KeyMaterialId"] for answer in answers}) == 1
    blob = crowd.kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert crowd.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_import_against_deletion(crowd: Crowd) -> None:
    """Half of the clients delete the material while the others import it: the key ends with or without it."""
    secret = os.urandom(32)
    key_id = imported_key(crowd.kms, secret)
    importing = (by_name("ImportKeyMaterial"), parameters(crowd.kms, key_id).members(secret))
    deleting = (by_name("DeleteImportedKeyMaterial"), {"KeyId": key_id})
    for _ in range(4):
        crowd.ask([importing, deleting] * (CLIENTS // 2))
        state = crowd.kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"]
        assert state in ("Enabled", "PendingImport")
        if state == "Enabled":
            crowd.kms.encrypt(KeyId=key_id, Plaintext=b"x")
    crowd.kms.import_key_material(**importing[1])
    crowd.kms.encrypt(KeyId=key_id, Plaintext=b"x")


# --- All at once ------------------------------------------------------------------------------------------


def test_twenty_operations_on_one_key(crowd: Crowd) -> None:
    """Whatever changes a key, at the same instant; afterwards all clients see one key, which can be used."""
    key_id, alias = crowd.new_key(), f"alias/{crowd.new_name()}"
    one = {"KeyId": key_id}
    calls = {
        "CancelKeyDeletion": one,
        "CreateAlias": {"AliasName": alias, "TargetKeyId": key_id},
        "CreateGrant": {**one, "GranteePrincipal": crowd.daemon.admin.arn, **GRANT},
        "DeleteAlias": {"AliasName": alias},
        "DisableKey": one,
        "DisableKeyRotation": one,
        "EnableKey": one,
        "EnableKeyRotation": one,
        "PutKeyPolicy": {**one, "Policy": policy_of("crowd")},
        "RotateKeyOnDemand": one,
        "ScheduleKeyDeletion": {**one, "PendingWindowInDays": 7},
        "TagResource": {**one, "Tags": [{"TagKey": "a", "TagValue": "b"}]},
        "UntagResource": {**one, "TagKeys": ["a"]},
        "UpdateAlias": {"AliasName": alias, "TargetKeyId": key_id},
        "UpdateKeyDescription": {**one, "Description": "d"},
    }
    asked = [(by_name(name), members) for name, members in calls.items()]
    for _ in range(3):
        crowd.ask((asked * 2)[:CLIENTS])
    if crowd.kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion":
        crowd.kms.cancel_key_deletion(KeyId=key_id)
    crowd.kms.enable_key(KeyId=key_id)
    blob = crowd.kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert crowd.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_on_demand_rotations_end_at_their_limit(crowd: Crowd) -> None:
    """25 of a key, however many are asked for at once; the others are told, and make nothing."""
    key_id = crowd.new_key()
    rotate = [(by_name("RotateKeyOnDemand"), {"KeyId": key_id})] * CLIENTS
    answers = [*crowd.ask(rotate), *crowd.ask(rotate)]
    assert Counter(map(code_of, answers)) == {"": 25, "LimitExceededException": 15}
    assert len(crowd.kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 25
