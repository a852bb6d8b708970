"""How keys may be named: id, ARN, alias and alias ARN, wherever each is accepted and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.harness import Harness
from tests.support.key_names import ALIASED, PLACE, PLAIN, aliased_key


@pytest.fixture(name="key_id", scope="module")
def _key_id(harness: Harness) -> str:
    return aliased_key(harness, "alias/named")


def error_of(call: Callable[[], Any]) -> tuple[str, str]:
    """Name and message of the refusal."""
    with pytest.raises(ClientError) as refused:
        call()
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.mark.parametrize("operation", ALIASED)
def test_every_form_is_accepted(harness: Harness, key_id: str, operation: str) -> None:
    """Key id, key ARN, alias name, alias ARN."""
    for name in (key_id, f"{PLACE}:key/{key_id}", "alias/named", f"{PLACE}:alias/named"):
        ALIASED[operation](harness.client(), name)


@pytest.mark.parametrize("operation", PLAIN)
def test_aliases_only_where_they_are_accepted(harness: Harness, key_id: str, operation: str) -> None:
    """An alias elsewhere is no key."""
    kms = harness.client()
    for name in (key_id, f"{PLACE}:key/{key_id}"):
        PLAIN[operation](kms, name)
    for name in ("alias/named", f"{PLACE}:alias/named"):
        assert error_of(lambda name=name: PLAIN[operation](kms, name)) == (
            "NotFoundException",
            f"Invalid keyId '{name}'",
        )


@pytest.mark.parametrize("operation", [*ALIASED, *PLAIN])
def test_what_is_no_name(harness: Harness, key_id: str, operation: str) -> None:
    """Wrong region, account, partition, service and shape, each with AWS's error."""
    act, kms = {**ALIASED, **PLAIN}[operation], harness.client()
    absent = "00000000-0000-4000-8000-000000000000"
    cases = {
        absent: ("NotFoundException", f"Key '{PLACE}:key/{absent}' does not exist"),
        f"{PLACE}:key/{absent}": ("NotFoundException", f"Key '{PLACE}:key/{absent}' does not exist"),
        "nonsense": ("NotFoundException", "Invalid keyId 'nonsense'"),
        key_id.upper(): ("NotFoundException", f"Invalid keyId '{key_id.upper()}'"),
        f"arn:aws:kms:eu-west-1:000000000000:key/{key_id}": ("NotFoundException", "Invalid arn eu-west-1"),
        f"arn:aws-cn:kms:us-east-1:000000000000:key/{key_id}": ("InvalidArnException", "Invalid arn"),
        "arn:aws:s3:us-east-1:000000000000:key/x": ("InvalidArnException", "Invalid arn"),
        f"{PLACE}:user/{key_id}": ("InvalidArnException", "Invalid arn"),
        "arn:aws:kms": ("InvalidArnException", "Invalid arn"),
        f"arn:aws:kms:us-east-1:12345:key/{key_id}": ("InvalidArnException", "Invalid arn"),
    }
    for name, (code, message) in cases.items():
        found = error_of(lambda name=name: act(kms, name))
        assert found[0] == code, name
        assert message in found[1], name


@pytest.mark.parametrize("operation", ALIASED)
def test_absent_aliases(harness: Harness, operation: str) -> None:
    """AWS's sentence for an alias that is not there."""
    arn = f"{PLACE}:alias/none"
    found = error_of(lambda: ALIASED[operation](harness.client(), arn))
    assert found == ("NotFoundException", f"Alias {arn} is not found.")


def test_decrypt_and_re_encrypt_accept_every_form_for_the_source(harness: Harness, key_id: str) -> None:
    """`Decrypt.KeyId` and `ReEncrypt.SourceKeyId`."""
    kms = harness.client()
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    for name in (key_id, f"{PLACE}:key/{key_id}", "alias/named", f"{PLACE}:alias/named"):
        assert kms.decrypt(CiphertextBlob=blob, KeyId=name)["Plaintext"] == b"x"
        kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=name, DestinationKeyId=name)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("alias/aws/s3", "InvalidAliasNameException"),
        ("alias/AWS/s3", "InvalidAliasNameException"),
        ("alias/", "ValidationException"),
        ("named", "ValidationException"),
        ("Alias/named", "ValidationException"),
        ("alias/with:colon", "ValidationException"),
        ("alias/with blank", "ValidationException"),
        ("alias/named", "AlreadyExistsException"),
    ],
)
def test_alias_names(harness: Harness, key_id: str, name: str, code: str) -> None:
    """What a client may not call an alias."""
    assert error_of(lambda: harness.client().create_alias(AliasName=name, TargetKeyId=key_id))[0] == code


@pytest.mark.parametrize("operation", ["CreateAlias", "UpdateAlias", "DeleteAlias"])
def test_an_alias_has_its_prefix(harness: Harness, key_id: str, operation: str) -> None:
    """AWS's sentence, from each operation on an alias, whatever else is wrong."""
    members = {"AliasName": "named", **({} if operation == "DeleteAlias" else {"TargetKeyId": key_id})}
    code, message = error_of(lambda: harness.client()._make_api_call(operation, members))
    page = "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
    assert code == "ValidationException"
    assert message == f'Alias must start with the prefix "alias/". Please see {page}'


def tags_named(*names: str) -> list[dict[str, str]]:
    """Tags of these names."""
    return [{"TagKey": name, "TagValue": ""} for name in names]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (tags_named(*(f"t{number}" for number in range(51))), "Too many tags"),
        (tags_named("a", "b", "a"), "Duplicate tag keys"),
        (tags_named("aws:a"), "Tags beginning with aws: are reserved"),
        (tags_named("AWS:a"), "Tags beginning with aws: are reserved"),
    ],
)
def test_what_no_tags_are(harness: Harness, key_id: str, tags: list[dict[str, str]], message: str) -> None:
    """TagException with AWS's sentence, from CreateKey and TagResource; the key keeps the tags that it had."""
    kms = harness.client()
    assert error_of(lambda: kms.create_key(Tags=tags)) == ("TagException", message)
    assert error_of(lambda: kms.tag_resource(KeyId=key_id, Tags=tags)) == ("TagException", message)
    assert kms.list_resource_tags(KeyId=key_id)["Tags"] == []


def test_fifty_tags_and_not_one_more(harness: Harness) -> None:
    """Over several calls; to change the value of one of fifty is no further tag."""
    kms = harness.client()
    names = [f"t{number}" for number in range(50)]
    key_id = kms.create_key(Tags=tags_named(*names))["KeyMetadata"]["KeyId"]
    kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": "t0", "TagValue": "changed"}])
    assert error_of(lambda: kms.tag_resource(KeyId=key_id, Tags=tags_named("more"))) == (
        "TagException",
        "Too many tags",
    )
    assert error_of(lambda: kms.untag_resource(KeyId=key_id, TagKeys=["aws:x"])) == (
        "TagException",
        "Tags beginning with aws: are reserved",
    )


@pytest.mark.parametrize(("length", "words"), [(0, "greater than or equal to 1"), (4097, "less than or equal to 4096")])
def test_a_secret_of_a_wrong_length_is_not_shown(harness: Harness, key_id: str, length: int, words: str) -> None:
    """Nothing stands in its place either."""
    kms = harness.client(parameter_validation=False)
    code, message = error_of(lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x" * length))
    violation = f"Value at 'plaintext' failed to satisfy constraint: Member must have length {words}"
    assert (code, message) == ("ValidationException", f"1 validation error detected: {violation}")
