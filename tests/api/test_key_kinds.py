"""Kinds of keys: which CreateKey makes, what describes them, and which operations they do not have."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage
from tests.support.clients import ACCOUNT, code_of
from tests.support.harness import Harness
from tests.support.log_service import arn_of, key_policy

ME = f"arn:aws:iam::{ACCOUNT}:user/admin"
KINDS = {
    "RSA": ("RSA_2048", "SIGN_VERIFY"),
    "RSA-encryption": ("RSA_2048", "ENCRYPT_DECRYPT"),
    "ECDSA": ("ECC_NIST_P256", "SIGN_VERIFY"),
    "ECDH": ("ECC_NIST_P384", "KEY_AGREEMENT"),
    "HMAC": ("HMAC_256", "GENERATE_VERIFY_MAC"),
}
LISTS = {
    "ENCRYPT_DECRYPT": "EncryptionAlgorithms",
    "SIGN_VERIFY": "SigningAlgorithms",
    "GENERATE_VERIFY_MAC": "MacAlgorithms",
    "KEY_AGREEMENT": "KeyAgreementAlgorithms",
    "ENCAPSULATE_DECAPSULATE": "EncapsulationAlgorithms",
}
OFFERED = {"RSA_2048", "RSA_3072", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"} | {
    *("ECC_NIST_EDWARDS25519", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512")
}
"""What SoftHSM 2.6.1 offers; RSA_4096, which takes it seconds, is left to the slow tier."""
REFUSED = {"SM2", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"}
PAIRS = [(spec, usage) for spec in KeySpec if spec is not KeySpec.SYMMETRIC_DEFAULT for usage in ALGORITHMS[spec]]
NOT_IN_TOKEN = {"RSAES_OAEP_SHA_256", "ED25519_PH_SHA_512"}


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="keys", scope="module")
def _keys(kms: Any) -> dict[str, str]:
    """One key of each kind, by its name in `KINDS`."""
    return {name: make(kms, spec, usage)["KeyId"] for name, (spec, usage) in KINDS.items()}


def make(kms: Any, spec: str, usage: str, **members: Any) -> dict[str, Any]:
    """Create a key and return its metadata."""
    metadata: dict[str, Any] = kms.create_key(KeySpec=spec, KeyUsage=usage, **members)["KeyMetadata"]
    return metadata


@pytest.mark.parametrize(("spec", "usage"), [pair for pair in PAIRS if pair[0] in OFFERED])
def test_metadata_describes_the_kind(kms: Any, spec: KeySpec, usage: KeyUsage) -> None:
    """CreateKey, DescribeKey and GetPublicKey show spec, usage and the algorithms of the usage, and no other list."""
    metadata = make(kms, spec, usage)
    expected = [name for name in ALGORITHMS[spec][usage] if name not in NOT_IN_TOKEN]
    assert kms.describe_key(KeyId=metadata["KeyId"])["KeyMetadata"] == metadata
    assert (metadata["KeySpec"], metadata["CustomerMasterKeySpec"], metadata["KeyUsage"]) == (spec, spec, usage)
    assert metadata[LISTS[usage]] == expected
    assert not [name for name in LISTS.values() if name in metadata and name != LISTS[usage]]
    assert "CurrentKeyMaterialId" not in metadata
    assert metadata["KeyState"] == "Enabled"
    if spec.is_asymmetric:
        public = kms.get_public_key(KeyId=metadata["KeyId"])
        load_der_public_key(public["PublicKey"])
        assert (public["KeyId"], public["KeySpec"], public["KeyUsage"]) == (metadata["Arn"], spec, usage)
        assert public[LISTS[usage]] == expected
    else:
        assert code_of(kms.get_public_key, KeyId=metadata["KeyId"]) == "UnsupportedOperationException"


@pytest.mark.parametrize(("spec", "usage"), [pair for pair in PAIRS if pair[0] in REFUSED])
def test_what_the_token_lacks_is_refused_by_name(kms: Any, spec: KeySpec, usage: KeyUsage) -> None:
    """UnsupportedOperationException names spec, usage and the mechanism; no key remains."""
    before = kms.list_keys(Limit=1000)["Keys"]
    reason = "PKCS#11 has no mechanism" if spec is KeySpec.SM2 else "CKM_"
    with pytest.raises(kms.exceptions.UnsupportedOperationException, match=f"{spec}.*{usage}.*{reason}"):
        make(kms, spec, usage)
    assert kms.list_keys(Limit=1000)["Keys"] == before


@pytest.mark.parametrize("spec", [spec for spec in KeySpec if spec is not KeySpec.SYMMETRIC_DEFAULT])
def test_usage_is_required_and_must_fit(kms: Any, spec: KeySpec) -> None:
    """Without KeyUsage, and with one that the spec does not have, the request is a ValidationException."""
    assert code_of(kms.create_key, KeySpec=spec) == "ValidationException"
    for usage in set(KeyUsage) - set(ALGORITHMS[spec]):
        assert code_of(kms.create_key, KeySpec=spec, KeyUsage=usage) == "ValidationException"


def test_the_older_name_of_the_spec_works(kms: Any) -> None:
    """CustomerMasterKeySpec makes the same key; both together are refused."""
    metadata = kms.create_key(CustomerMasterKeySpec="HMAC_384", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]
    assert metadata["KeySpec"] == "HMAC_384"
    both = {"KeySpec": "HMAC_384", "CustomerMasterKeySpec": "HMAC_384", "KeyUsage": "GENERATE_VERIFY_MAC"}
    assert code_of(kms.create_key, **both) == "ValidationException"


@pytest.mark.parametrize("kind", KINDS)
def test_only_symmetric_keys_rotate_and_make_data_keys(kms: Any, keys: dict[str, str], kind: str) -> None:
    """Rotation is unsupported, data keys are a wrong usage, for every other kind; nothing changes."""
    key = {"KeyId": keys[kind]}
    before = kms.describe_key(**key)
    for rotate in ("enable_key_rotation", "disable_key_rotation", "get_key_rotation_status", "rotate_key_on_demand"):
        assert code_of(getattr(kms, rotate), **key) == "UnsupportedOperationException"
    assert code_of(kms.list_key_rotations, **key) == "UnsupportedOperationException"
    for make_data_key in (kms.generate_data_key, kms.generate_data_key_without_plaintext):
        assert code_of(make_data_key, **key, KeySpec="AES_256") == "InvalidKeyUsageException"
    for make_pair in (kms.generate_data_key_pair, kms.generate_data_key_pair_without_plaintext):
        assert code_of(make_pair, **key, KeyPairSpec="ECC_NIST_P256") == "InvalidKeyUsageException"
    assert kms.describe_key(**key)["KeyMetadata"] == before["KeyMetadata"]


CALLS = {
    "encrypt": {"Plaintext": b"x", "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
    "decrypt": {"CiphertextBlob": bytes(256), "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
    "sign": {"Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"},
    "verify": {"Message": b"x", "Signature": b"x", "SigningAlgorithm": "ECDSA_SHA_256"},
    "generate_mac": {"Message": b"x", "MacAlgorithm": "HMAC_SHA_256"},
    "verify_mac": {"Message": b"x", "Mac": b"x", "MacAlgorithm": "HMAC_SHA_256"},
    "derive_shared_secret": {"PublicKey": b"x", "KeyAgreementAlgorithm": "ECDH"},
    "encapsulate": {"EncapsulationAlgorithm": "ML_KEM"},
    "decapsulate": {"SharedSecretCiphertextBlob": b"x", "EncapsulationAlgorithm": "ML_KEM"},
}
USAGE_OF = {
    **dict.fromkeys(("encrypt", "decrypt"), "ENCRYPT_DECRYPT"),
    **dict.fromkeys(("sign", "verify"), "SIGN_VERIFY"),
    **dict.fromkeys(("generate_mac", "verify_mac"), "GENERATE_VERIFY_MAC"),
    "derive_shared_secret": "KEY_AGREEMENT",
    **dict.fromkeys(("encapsulate", "decapsulate"), "ENCAPSULATE_DECAPSULATE"),
}


WRONG = [
    (kind, call)
    for kind, (spec, usage) in KINDS.items()
    for call in CALLS
    # `CALLS` signs by ECDSA, which is the usage but not an algorithm of the RSA key.
    if usage != USAGE_OF[call] or (spec, usage) == ("RSA_2048", "SIGN_VERIFY")
]


@pytest.mark.parametrize(("kind", "call"), WRONG)
def test_a_key_has_one_usage(kms: Any, keys: dict[str, str], kind: str, call: str) -> None:
    """An operation of another usage is InvalidKeyUsageException; so is an algorithm of another spec."""
    assert code_of(getattr(kms, call), KeyId=keys[kind], **CALLS[call]) == "InvalidKeyUsageException"


def test_algorithms_of_the_api_that_the_token_lacks(kms: Any, keys: dict[str, str]) -> None:
    """They are refused by name, and not as a wrong usage."""
    with pytest.raises(kms.exceptions.UnsupportedOperationException, match="RSAES_OAEP_SHA_256"):
        kms.encrypt(KeyId=keys["RSA-encryption"], Plaintext=b"x", EncryptionAlgorithm="RSAES_OAEP_SHA_256")


def test_an_alias_stays_with_its_kind_of_key(kms: Any, keys: dict[str, str]) -> None:
    """UpdateAlias refuses a key of another type or usage; the alias points where it did."""
    kms.create_alias(AliasName="alias/kind", TargetKeyId=keys["ECDSA"])
    for other in ("RSA-encryption", "ECDH", "HMAC"):
        assert code_of(kms.update_alias, AliasName="alias/kind", TargetKeyId=keys[other]) == "ValidationException"
    assert kms.describe_key(KeyId="alias/kind")["KeyMetadata"]["KeyId"] == keys["ECDSA"]
    kms.update_alias(AliasName="alias/kind", TargetKeyId=keys["RSA"])
    assert kms.describe_key(KeyId="alias/kind")["KeyMetadata"]["KeyId"] == keys["RSA"]


@pytest.mark.parametrize("kind", KINDS)
def test_grants_allow_what_the_key_can_do(kms: Any, keys: dict[str, str], kind: str) -> None:
    """A grant lists operations of the key's usage only, and has no constraint on the encryption context."""
    usage = KINDS[kind][1]
    own = [call.title().replace("_", "") for call, of in USAGE_OF.items() if of == usage]
    terms = {"KeyId": keys[kind], "GranteePrincipal": ME}
    kms.create_grant(**terms, Operations=[*own, "DescribeKey"])
    foreign = [call.title().replace("_", "") for call, of in USAGE_OF.items() if of != usage]
    for operation in (*foreign, "GenerateDataKey"):
        assert code_of(kms.create_grant, **terms, Operations=[operation]) == "ValidationException"
    constraint = {"EncryptionContextSubset": {"a": "b"}}
    assert code_of(kms.create_grant, **terms, Operations=own, Constraints=constraint) == "ValidationException"


def test_a_grantee_may_do_what_its_grant_lists(harness: Harness, kms: Any, keys: dict[str, str]) -> None:
    """Sign, and neither Verify nor GetPublicKey, until the grant is revoked."""
    grantee = harness.user()
    terms = {"KeyId": keys["ECDSA"], "GranteePrincipal": grantee.arn, "Operations": ["Sign"]}
    grant_id = kms.create_grant(**terms)["GrantId"]
    other = harness.client("kms", grantee)
    key = {"KeyId": kms.describe_key(KeyId=keys["ECDSA"])["KeyMetadata"]["Arn"]}
    assert other.sign(**key, **CALLS["sign"])["Signature"]
    assert code_of(other.verify, **key, **CALLS["verify"]) == "AccessDeniedException"
    assert code_of(other.get_public_key, **key) == "AccessDeniedException"
    kms.revoke_grant(KeyId=keys["ECDSA"], GrantId=grant_id)
    assert code_of(other.sign, **key, **CALLS["sign"]) == "AccessDeniedException"


def test_log_groups_take_symmetric_keys_only(harness: Harness, kms: Any, keys: dict[str, str]) -> None:
    """AssociateKmsKey with another kind of key is InvalidParameterException."""
    logs = harness.client("logs")
    arn = kms.describe_key(KeyId=keys["HMAC"])["KeyMetadata"]["Arn"]
    kms.put_key_policy(KeyId=keys["HMAC"], Policy=key_policy(arn_of("kinds")))
    assert code_of(logs.create_log_group, logGroupName="kinds", kmsKeyId=arn) == "InvalidParameterException"


def test_deletion_and_states_are_those_of_any_key(kms: Any) -> None:
    """Disabled, pending deletion, cancelled, enabled: the operations of the kind follow."""
    key = {"KeyId": make(kms, "ECC_NIST_P256", "SIGN_VERIFY")["KeyId"]}
    sign = {**key, **CALLS["sign"]}
    kms.disable_key(**key)
    assert code_of(kms.sign, **sign) == "DisabledException"
    assert code_of(kms.get_public_key, **key) == "DisabledException"
    kms.schedule_key_deletion(**key, PendingWindowInDays=7)
    assert code_of(kms.sign, **sign) == "KMSInvalidStateException"
    kms.cancel_key_deletion(**key)
    kms.enable_key(**key)
    assert kms.sign(**sign)["Signature"]


def test_keys_of_every_kind_survive_a_restart(harness: Harness, kms: Any, keys: dict[str, str]) -> None:
    """The database keeps spec, usage, algorithms and public key."""
    before = {name: kms.describe_key(KeyId=key)["KeyMetadata"] for name, key in keys.items()}
    public = kms.get_public_key(KeyId=keys["ECDSA"])["PublicKey"]
    harness.restart()
    again = harness.client()
    assert {name: again.describe_key(KeyId=key)["KeyMetadata"] for name, key in keys.items()} == before
    assert again.get_public_key(KeyId=keys["ECDSA"])["PublicKey"] == public
