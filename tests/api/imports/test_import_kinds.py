"""Import of RSA, ECC and HMAC material: the key in the token is the key of the client, and only that."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, RSA_BITS, KeySpec, KeyUsage
from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.imported_kinds import (
    CURVES,
    HYBRID,
    import_into,
    importable_kinds,
    imported_key_of,
    material_of,
    other_material_of,
    use,
)
from tests.support.key_import import ALGORITHMS as WRAPPING
from tests.support.key_import import current_material, current_material_id, external_key, parameters, state_of
from tests.support.key_kinds import Kind
from tests.support.material_ids import imported_ids

RSA_2048 = KeySpec.RSA_2048
INCORRECT, UNSUPPORTED = "IncorrectKeyMaterialException", "UnsupportedOperationException"
ONE_OF_EACH: tuple[Kind, ...] = (
    (RSA_2048, KeyUsage.SIGN_VERIFY),
    (RSA_2048, KeyUsage.ENCRYPT_DECRYPT),
    (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY),
    (KeySpec.ECC_NIST_P384, KeyUsage.KEY_AGREEMENT),
    (KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC),
)
WRAPPED = (RSA_2048, KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P521, KeySpec.HMAC_224, KeySpec.HMAC_512)
NO_KINDS = (KeySpec.ECC_NIST_EDWARDS25519, KeySpec.ML_DSA_44, KeySpec.ML_KEM_768, KeySpec.SM2)


def usage_of(spec: KeySpec) -> KeyUsage:
    """The first usage of a spec."""
    return next(iter(ALGORITHMS[spec]))


def takes(spec: KeySpec, algorithm: str, wrapping_spec: str) -> bool:
    """AWS's rules, written down once more: what wraps the material of a spec."""
    if algorithm.startswith("RSA_AES"):
        return True
    if algorithm == "RSAES_PKCS1_V1_5" or spec in RSA_BITS:
        return False
    return not (spec is KeySpec.ECC_NIST_P521 and wrapping_spec == "RSA_2048")


@pytest.mark.parametrize(("spec", "usage"), [*importable_kinds()])
def test_the_imported_key_is_that_of_the_client(harness: Harness, kms: Any, spec: KeySpec, usage: KeyUsage) -> None:
    """It signs, decrypts, agrees and makes MACs as the software key does; its object has one role."""
    key_id = external_key(kms, spec, usage)
    assert state_of(kms, key_id) == "PendingImport"
    answer = import_into(kms, key_id, material_of(spec))
    assert "KeyMaterialId" not in answer
    metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Origin"], metadata["KeySpec"]) == ("Enabled", "EXTERNAL", spec)
    assert "CurrentKeyMaterialId" not in metadata
    use(kms, key_id, (spec, usage))
    material = current_material(harness, key_id)
    assert material.material_id in imported_ids(harness)
    shown = harness.run(harness.components.token.attributes(material.reference))
    assert (shown["CKA_SENSITIVE"], shown["CKA_EXTRACTABLE"], shown["CKA_MODIFIABLE"]) == (True, False, False)
    roles = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE", "SIGN_RECOVER")
    expected = {KeyUsage.ENCRYPT_DECRYPT: "DECRYPT", KeyUsage.KEY_AGREEMENT: "DERIVE"}.get(usage, "SIGN")
    assert [role for role in roles if shown.get(f"CKA_{role}")] == [expected]


@pytest.mark.parametrize("spec", WRAPPED)
def test_wrapping_algorithms(kms: Any, spec: KeySpec) -> None:
    """Each that AWS has for the spec works, through either token; the others are refused before a key is wrapped."""
    for wrapping_spec in ("RSA_2048", "RSA_3072") if spec is KeySpec.ECC_NIST_P521 else ("RSA_2048",):
        for algorithm in WRAPPING:
            key_id = external_key(kms, spec, usage_of(spec))
            members = {"KeyId": key_id, "WrappingAlgorithm": algorithm, "WrappingKeySpec": wrapping_spec}
            if takes(spec, algorithm, wrapping_spec):
                given = parameters(kms, key_id, algorithm, wrapping_spec)
                kms.import_key_material(**given.members(material_of(spec)))
                use(kms, key_id, (spec, usage_of(spec)))
            else:
                assert code_of(kms.get_parameters_for_import, **members) == UNSUPPORTED, algorithm


@pytest.mark.parametrize("spec", NO_KINDS)
def test_kinds_that_are_not_imported(kms: Any, spec: KeySpec) -> None:
    """They are refused by name when the key would be created."""
    members = {"Origin": "EXTERNAL", "KeySpec": spec, "KeyUsage": usage_of(spec)}
    assert code_of(kms.create_key, **members) == UNSUPPORTED


def wrong_materials(spec: KeySpec) -> dict[str, bytes]:
    """What is intact, and no material of the spec. NSS cannot tell longer nonsense from a changed blob."""
    wrong = {"a symmetric key": os.urandom(32 if spec is not KeySpec.HMAC_256 else 24), "one byte": b"\0"}
    for other in (KeySpec.RSA_2048, KeySpec.RSA_3072, *CURVES):
        if other is not spec:
            wrong[other] = material_of(other)
    if spec in HMAC_BITS:
        length = HMAC_BITS[spec] // 8
        for wrong_length in (length - 4, length - 1, length + 1, length + 4, 2 * length):
            wrong[f"{wrong_length} bytes"] = os.urandom(wrong_length)
        wrong["padded"] = material_of(spec) + b"\0"
    else:
        right = material_of(spec)
        wrong |= {"cut": right[:100], "nonsense": bytes(reversed(right))[:250]}
    return wrong


@pytest.mark.parametrize("algorithm", ["RSA_AES_KEY_WRAP_SHA_1", HYBRID])
@pytest.mark.parametrize("spec", [*WRAPPED, KeySpec.ECC_SECG_P256K1])
def test_other_material_is_refused(harness: Harness, kms: Any, spec: KeySpec, algorithm: str) -> None:
    """Another kind, length or curve; nothing is left of it, and the key takes the right material afterwards."""
    key_id = external_key(kms, spec, usage_of(spec))
    before, given = imported_ids(harness), parameters(kms, key_id, algorithm)
    for name, material in wrong_materials(spec).items():
        assert code_of(kms.import_key_material, **given.members(material)) == INCORRECT, name
    assert imported_ids(harness) == before
    assert state_of(kms, key_id) == "PendingImport"
    kms.import_key_material(**given.members(material_of(spec)))
    use(kms, key_id, (spec, usage_of(spec)))


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("algorithm", ["RSA_AES_KEY_WRAP_SHA_1", HYBRID])
def test_a_blob_that_is_not_intact(kms: Any, kind: Kind, algorithm: str) -> None:
    """Whatever part of it was changed, the error is the same."""
    key_id = external_key(kms, *kind)
    given = parameters(kms, key_id, algorithm)
    blob = given.members(material_of(kind[0]))["EncryptedKeyMaterial"]
    for position in (0, 128, 255, 256, len(blob) // 2, len(blob) - 1):
        changed = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
        assert code_of(kms.import_key_material, **given.members_of(changed)) == "InvalidCiphertextException", position
    for cut in (blob[:-1], blob[:-8], blob[:256], blob[:10], blob + b"\0", blob + bytes(8), b"\0"):
        assert code_of(kms.import_key_material, **given.members_of(cut)) == "InvalidCiphertextException", len(cut)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_only_the_same_material_comes_back(harness: Harness, kms: Any, kind: Kind) -> None:
    """While it is there, and after its deletion; it gets its object back, and the key works as before."""
    key_id = imported_key_of(kms, kind)
    object_id = current_material_id(harness, key_id)
    import_into(kms, key_id, material_of(kind[0]), "RSA_AES_KEY_WRAP_SHA_1")
    other = other_material_of(kind[0])
    assert code_of(import_into, kms, key_id, other) == INCORRECT
    kms.delete_imported_key_material(KeyId=key_id)
    assert state_of(kms, key_id) == "PendingImport"
    assert object_id not in imported_ids(harness)
    assert code_of(import_into, kms, key_id, other) == INCORRECT
    assert state_of(kms, key_id) == "PendingImport"
    import_into(kms, key_id, material_of(kind[0]))
    assert current_material_id(harness, key_id) == object_id
    use(kms, key_id, kind)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("job_runs", [False, True])
def test_expiry(harness: Harness, kms: Any, kind: Kind, *, job_runs: bool) -> None:
    """The key awaits import from the instant on, and the job destroys the object; a reimport brings it back."""
    valid_to = harness.clock.now().timestamp() // 1 + 3600
    expiry = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}
    key_id = imported_key_of(kms, kind, **expiry)
    object_id = current_material_id(harness, key_id)
    harness.clock.advance(hours=1)
    if job_runs:
        harness.tick()
    assert state_of(kms, key_id) == "PendingImport"
    assert (object_id in imported_ids(harness)) is not job_runs
    import_into(kms, key_id, material_of(kind[0]))
    assert current_material_id(harness, key_id) == object_id
    use(kms, key_id, kind)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_members_of_symmetric_keys_are_refused(kms: Any, kind: Kind) -> None:
    """A key of these kinds has one material: no type of import, no name, no description, and no rotation."""
    key_id = external_key(kms, *kind)
    members = parameters(kms, key_id, HYBRID).members(material_of(kind[0]))
    for extra in (
        {"ImportType": "NEW_KEY_MATERIAL"},
        {"ImportType": "EXISTING_KEY_MATERIAL"},
        {"KeyMaterialDescription": "x"},
        {"KeyMaterialId": "0" * 64},
    ):
        assert code_of(kms.import_key_material, **members, **extra) == UNSUPPORTED
    kms.import_key_material(**members)
    for operation in (kms.rotate_key_on_demand, kms.list_key_rotations, kms.enable_key_rotation):
        assert code_of(operation, KeyId=key_id) == UNSUPPORTED
    assert code_of(kms.delete_imported_key_material, KeyId=key_id, KeyMaterialId="0" * 64) == "NotFoundException"


def test_a_restart_finds_the_keys(harness: Harness) -> None:
    """Objects, public keys and states are those from before."""
    made = [(imported_key_of(harness.client(), kind), kind) for kind in ONE_OF_EACH]
    harness.restart()
    harness.tick()
    for key_id, kind in made:
        use(harness.client(), key_id, kind)


def test_the_audit_record_has_no_material(harness: Harness, kms: Any) -> None:
    """It names key, algorithm and expiry; neither the blob nor the material is in it."""
    for kind in ONE_OF_EACH:
        imported_key_of(kms, kind)
    records = [one for one in harness.records() if one.get("eventName") == "ImportKeyMaterial"]
    assert records
    text = str(records)
    for spec, _ in ONE_OF_EACH:
        assert material_of(spec).hex() not in text
    assert "ncryptedKeyMaterial" not in text
