"""GenerateMac and VerifyMac."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.harness import Harness

BITS = ("224", "256", "384", "512")


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="keys", scope="module")
def _keys(kms: Any) -> dict[str, str]:
    """One key of each length."""
    return {
        bits: kms.create_key(KeySpec=f"HMAC_{bits}", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
        for bits in BITS
    }


@pytest.mark.parametrize("bits", BITS)
def test_a_mac_is_whole_and_verifies(kms: Any, keys: dict[str, str], bits: str) -> None:
    """Messages of 1 to 4096 bytes; the MAC has the hash's length, differs by key and message, and verifies."""
    members = {"KeyId": keys[bits], "MacAlgorithm": f"HMAC_SHA_{bits}"}
    macs = set()
    for message in (b"x", b"a message", bytes(4096)):
        answer = kms.generate_mac(**members, Message=message)
        assert len(answer["Mac"]) == int(bits) // 8
        assert answer["MacAlgorithm"] == members["MacAlgorithm"]
        assert kms.generate_mac(**members, Message=message)["Mac"] == answer["Mac"]
        assert kms.verify_mac(**members, Message=message, Mac=answer["Mac"])["MacValid"] is True
        macs.add(answer["Mac"])
    assert len(macs) == 3
    # The key is random: its MAC is not one under a guessable key.
    guesses = (bytes(int(bits) // 8), b"", keys[bits].encode())
    assert hmac.new(bytes(1), b"x", hashlib.sha256).digest() not in macs
    assert not {hmac.new(guess, b"x", f"sha{bits}").digest() for guess in guesses} & macs


@pytest.mark.parametrize("bits", BITS)
def test_a_wrong_mac_is_an_error(kms: Any, keys: dict[str, str], bits: str) -> None:
    """KMSInvalidMacException for changed, shortened and lengthened MACs, and for another message."""
    members = {"KeyId": keys[bits], "MacAlgorithm": f"HMAC_SHA_{bits}"}
    mac = kms.generate_mac(**members, Message=b"a message")["Mac"]
    for wrong in (mac[:-1] + bytes([mac[-1] ^ 1]), mac[:-1], mac[:16], mac + b"\0", b"x", bytes(6144)):
        assert code_of(kms.verify_mac, **members, Message=b"a message", Mac=wrong) == "KMSInvalidMacException"
    assert code_of(kms.verify_mac, **members, Message=b"another", Mac=mac) == "KMSInvalidMacException"


def test_a_key_has_one_algorithm(kms: Any, keys: dict[str, str]) -> None:
    """HMAC_SHA_384 with a key of HMAC_256 is InvalidKeyUsageException."""
    members = {"KeyId": keys["256"], "MacAlgorithm": "HMAC_SHA_384", "Message": b"x"}
    assert code_of(kms.generate_mac, **members) == "InvalidKeyUsageException"
    assert code_of(kms.verify_mac, **members, Mac=b"x") == "InvalidKeyUsageException"


def test_a_dry_run_computes_nothing(kms: Any, keys: dict[str, str]) -> None:
    """DryRun answers DryRunOperationException."""
    members = {"KeyId": keys["256"], "MacAlgorithm": "HMAC_SHA_256", "Message": b"x", "DryRun": True}
    assert code_of(kms.generate_mac, **members) == "DryRunOperationException"


def test_the_record_shows_neither_message_nor_mac(harness: Harness, kms: Any, keys: dict[str, str]) -> None:
    """The audit records have key and algorithm only."""
    members = {"KeyId": keys["512"], "MacAlgorithm": "HMAC_SHA_512", "Message": b"confidential"}
    mac = kms.generate_mac(**members)["Mac"]
    kms.verify_mac(**members, Mac=mac)
    for name in ("GenerateMac", "VerifyMac"):
        record = [one for one in harness.records() if one["eventName"] == name][-1]
        assert record["requestParameters"] == {"keyId": keys["512"], "macAlgorithm": "HMAC_SHA_512"}
        assert record["responseElements"] is None
