"""Refusals that must not tell whether a key is there: of another account's keys and aliases, and of a blob alone."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import Credentials
from tests.support.harness import Harness
from tests.support.key_names import ALIASED, PLACE, PLAIN, aliased_key

OTHER = "111122223333"
ABSENT = "00000000-0000-4000-8000-00000000000a"
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
REASON = (
    "because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based "
    "policy explicitly denies access"
)
UNKNOWN = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not "
    "allowed to access."
)


@pytest.fixture(name="key_id", scope="module")
def _key_id(harness: Harness) -> str:
    return aliased_key(harness, "alias/payroll")


@pytest.fixture(name="strangers", scope="module")
def _strangers(harness: Harness) -> list[Credentials]:
    """Of another account: one who may do everything there, and one who may do nothing."""
    return [harness.user(EVERYTHING, account=OTHER), harness.user(account=OTHER)]


def answer_of(call: Callable[[], Any]) -> dict[str, Any]:
    """All that a refusal tells, but for the request's id and date."""
    with pytest.raises(ClientError) as refused:
        call()
    metadata = refused.value.response["ResponseMetadata"]
    headers = {
        name: value for name, value in metadata["HTTPHeaders"].items() if name not in ("date", "x-amzn-requestid")
    }
    return {"error": refused.value.response["Error"], "status": metadata["HTTPStatusCode"], "headers": headers}


@pytest.mark.parametrize("operation", sorted({*ALIASED, *PLAIN} - {"list_aliases"}))
def test_a_foreign_key_or_alias_is_refused_alike_there_or_not(
    harness: Harness, key_id: str, strangers: list[Credentials], operation: str
) -> None:
    """AWS's sentence, which names what the caller named and no key behind it."""
    act = {**ALIASED, **PLAIN}[operation]
    pairs = [(f"{PLACE}:key/{key_id}", f"{PLACE}:key/{ABSENT}")]
    if operation in ALIASED:
        pairs.append((f"{PLACE}:alias/payroll", f"{PLACE}:alias/payslip"))
    for stranger in strangers:
        kms = harness.client("kms", stranger)
        for present, absent in pairs:
            found, missed = (answer_of(lambda name=name, kms=kms: act(kms, name)) for name in (present, absent))
            action = "kms:" + "".join(word.capitalize() for word in operation.split("_"))
            assert found["error"] == {
                "Code": "AccessDeniedException",
                "Message": f"User: {stranger.arn} is not authorized to perform: {action} on resource: {present} "
                + REASON,
            }
            missed["error"]["Message"] = missed["error"]["Message"].replace(absent, present)
            assert missed == found


def test_a_foreign_key_has_no_aliases_to_list_there_or_not(
    harness: Harness, key_id: str, strangers: list[Credentials]
) -> None:
    """ListAliases lists those of the caller's account alone, whichever key is named."""
    kms = harness.client("kms", strangers[0])
    for name in (key_id, ABSENT):
        assert kms.list_aliases(KeyId=f"{PLACE}:key/{name}")["Aliases"] == []


def test_the_record_tells_the_operator(harness: Harness, key_id: str, strangers: list[Credentials]) -> None:
    """Which key stood behind the alias, or that nothing did."""
    kms = harness.client("kms", strangers[0])
    answer_of(lambda: kms.describe_key(KeyId=f"{PLACE}:alias/payroll"))
    present = harness.records()[-1]
    answer_of(lambda: kms.describe_key(KeyId=f"{PLACE}:alias/payslip"))
    absent = harness.records()[-1]
    assert [resource["ARN"] for resource in present["resources"]] == [f"{PLACE}:key/{key_id}"]
    assert absent["resources"] == [
        {"ARN": f"{PLACE}:alias/payslip", "accountId": "000000000000", "type": "AWS::KMS::Alias"}
    ]
    assert absent["additionalEventData"]["reason"] == f"{PLACE}:alias/payslip does not exist"
    assert present["errorMessage"].replace("payroll", "payslip") == absent["errorMessage"]


def test_in_the_own_account_what_is_not_there_is_not_found(harness: Harness, key_id: str) -> None:
    """As in AWS, by its ARN too."""
    kms = harness.client()
    for name in (f"{PLACE}:key/{ABSENT}", ABSENT, f"{PLACE}:alias/payslip", "alias/payslip"):
        assert answer_of(lambda name=name: kms.describe_key(KeyId=name))["error"]["Code"] == "NotFoundException"
    assert key_id


# --- By a blob alone ------------------------------------------------------------------------------------


def of_unknown_key(blob: bytes) -> bytes:
    """The same blob, of a key that is not here."""
    return blob[:2] + bytes(byte ^ 0xFF for byte in blob[2:18]) + blob[18:]


@pytest.mark.parametrize("account", ["000000000000", OTHER])
def test_a_blob_of_an_unknown_key_is_refused_like_that_of_a_forbidden_one(
    harness: Harness, key_id: str, account: str
) -> None:
    """Decrypt and ReEncrypt, whether the destination is there or not; named, the key is what the refusal is about."""
    nobody = harness.user(account=account)
    kms, admin = harness.client("kms", nobody), harness.client()
    blob = admin.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    expected = {"Code": "AccessDeniedException", "Message": UNKNOWN}
    for act in (
        lambda blob: kms.decrypt(CiphertextBlob=blob),
        lambda blob: kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"}),
        lambda blob: kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=f"{PLACE}:key/{key_id}"),
    ):
        forbidden, unknown = (answer_of(lambda text=text, act=act: act(text)) for text in (blob, of_unknown_key(blob)))
        assert forbidden == unknown
        assert forbidden["error"] == expected
        assert forbidden["status"] == 400
    absent = f"arn:aws:kms:us-east-1:{account}:key/{ABSENT}"
    forbidden, unknown = (
        answer_of(lambda text=text: kms.re_encrypt(CiphertextBlob=text, DestinationKeyId=absent))
        for text in (blob, of_unknown_key(blob))
    )
    assert forbidden == unknown
    named = answer_of(lambda: kms.decrypt(CiphertextBlob=blob, KeyId=f"{PLACE}:key/{key_id}"))
    assert f"is not authorized to perform: kms:Decrypt on resource: {PLACE}:key/{key_id}" in named["error"]["Message"]


def test_the_administrator_is_told_no_more(harness: Harness, key_id: str) -> None:
    """Also to whoever may use every key of the account a blob's unknown key is one that he may not use."""
    kms = harness.client()
    blob = of_unknown_key(kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"])
    for act in (kms.decrypt, lambda **members: kms.re_encrypt(DestinationKeyId=key_id, **members)):
        assert answer_of(lambda act=act: act(CiphertextBlob=blob))["error"] == {
            "Code": "AccessDeniedException",
            "Message": UNKNOWN,
        }
        record = harness.records()[-1]
        assert record["additionalEventData"]["reason"].startswith("the key ")
        assert record["additionalEventData"]["reason"].endswith(" of the blob does not exist")


def test_the_refusal_of_an_unknown_key_takes_the_same_work(harness: Harness, key_id: str) -> None:
    """The same functions of operations and authorisation run, as often."""
    nobody = harness.client("kms", harness.user())
    blob = harness.client().encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]

    def work(text: bytes) -> Counter[str]:
        counted: Counter[str] = Counter()

        def note(frame: Any, event: str, _: Any) -> None:
            where = frame.f_code.co_filename
            if event == "call" and ("/kmsd/operations/" in where or "/kmsd/authz/" in where):
                counted[f"{where.rpartition('/kmsd/')[2]}:{frame.f_code.co_qualname}"] += 1

        async def profile(act: Any) -> None:
            sys.setprofile(act)

        harness.run(profile(note))
        try:
            answer_of(lambda: nobody.decrypt(CiphertextBlob=text))
        finally:
            harness.run(profile(None))
        return counted

    for text in (blob, of_unknown_key(blob)):
        work(text)  # what is worked out once
    forbidden, unknown = work(blob), work(of_unknown_key(blob))
    extra = (forbidden - unknown) + (unknown - forbidden)
    assert set(extra) <= {"operations/access.py:_stand_in", "operations/admission.py:_absent"} | {
        name for name in extra if "lockout.py" in name
    }
    assert forbidden["authz/evaluate.py:authorize"] == unknown["authz/evaluate.py:authorize"] == 1
