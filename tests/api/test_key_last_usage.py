"""GetKeyLastUsage: what the audit trail says of a key's last use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.log_service import copy_audit


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory, custody: str) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), custody=custody) as found:
        yield found


def usage(site: Harness, key_id: str) -> dict[str, Any]:
    """The answer once the trail was copied, which takes whole seconds of the clock."""
    site.clock.advance(seconds=2)
    copy_audit(site)
    answer: dict[str, Any] = site.client().get_key_last_usage(KeyId=key_id)
    return answer


def last(site: Harness, key_id: str) -> str | None:
    """The operation of the last use."""
    operation: str | None = usage(site, key_id)["KeyLastUsage"].get("Operation")
    return operation


def test_a_new_key_was_not_used(site: Harness) -> None:
    """An empty element; tracking began when the key was created."""
    metadata = site.client().create_key()["KeyMetadata"]
    site.client().describe_key(KeyId=metadata["KeyId"])
    answer = usage(site, metadata["KeyId"])
    assert answer["KeyLastUsage"] == {}
    assert answer["KeyId"] == metadata["KeyId"]
    assert answer["KeyCreationDate"] == answer["TrackingStartDate"] == metadata["CreationDate"]


def test_the_last_use_is_that_of_the_trail(site: Harness) -> None:
    """Operation, time, event id and request id are those of the record; a refused call is no use."""
    kms = site.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert last(site, key_id) == "Encrypt"
    answer = kms.decrypt(CiphertextBlob=blob)
    assert code_of(kms.decrypt, CiphertextBlob=blob, EncryptionContext={"a": "b"}) == "InvalidCiphertextException"
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x", DryRun=True) == "DryRunOperationException"
    kms.describe_key(KeyId=key_id)
    use = usage(site, key_id)["KeyLastUsage"]
    record = next(one for one in site.records() if one["requestID"] == answer["ResponseMetadata"]["RequestId"])
    assert use["Operation"] == "Decrypt"
    assert use["KmsRequestId"] == record["requestID"]
    assert use["CloudTrailEventId"] == record["eventID"]
    assert use["Timestamp"].strftime("%Y-%m-%dT%H:%M:%SZ") == record["eventTime"]


def test_re_encrypt_uses_both_keys(site: Harness) -> None:
    """Source and destination show the same event."""
    kms = site.client()
    source, destination = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    blob = kms.encrypt(KeyId=source, Plaintext=b"x")["CiphertextBlob"]
    kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=destination)
    uses = [usage(site, key_id)["KeyLastUsage"] for key_id in (source, destination)]
    assert uses[0] == uses[1]
    assert uses[0]["Operation"] == "ReEncrypt"


def test_other_kinds_of_keys(site: Harness) -> None:
    """Sign and GenerateMac are uses; GetPublicKey is none."""
    kms = site.client()
    signer = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    kms.get_public_key(KeyId=signer)
    assert last(site, signer) is None
    kms.sign(KeyId=signer, Message=b"x", SigningAlgorithm="ECDSA_SHA_256")
    assert last(site, signer) == "Sign"
    mac = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
    kms.generate_mac(KeyId=mac, Message=b"x", MacAlgorithm="HMAC_SHA_256")
    assert last(site, mac) == "GenerateMac"


def test_it_survives_restarts(site: Harness) -> None:
    """Uses that were not copied before the end are found after it; others stay."""
    kms = site.client()
    first, second = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    kms.encrypt(KeyId=first, Plaintext=b"x")
    assert last(site, first) == "Encrypt"
    kms.generate_data_key(KeyId=second, KeySpec="AES_256")
    site.restart()
    assert last(site, first) == "Encrypt"
    assert last(site, second) == "GenerateDataKey"


def test_who_may_not(site: Harness) -> None:
    """An alias is no name here, and the permission is kms:GetKeyLastUsage."""
    kms = site.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/used", TargetKeyId=key_id)
    assert code_of(kms.get_key_last_usage, KeyId="alias/used") in {"NotFoundException", "InvalidArnException"}
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": "*"}],
    }
    other = site.client("kms", site.user(document))
    assert code_of(other.get_key_last_usage, KeyId=key_id) == "AccessDeniedException"
