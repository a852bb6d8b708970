"""The client's side of an import: key material wrapped as openssl and the SDKs wrap it, and as an attacker might."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.custody.imported_material import current
from kmsd.domain.key import Key
from kmsd.domain.material import Material
from tests.support.harness import Harness

ALGORITHMS = (
    *("RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"),
    *("RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"),
)
SPECS = ("RSA_2048", "RSA_3072", "RSA_4096")
FOREVER = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}


def oaep(digest: hashes.HashAlgorithm) -> padding.OAEP:
    """RSAES-OAEP with one hash for label and mask."""
    return padding.OAEP(padding.MGF1(digest), digest, None)


def wrap(material: bytes, algorithm: str, public_key: bytes) -> bytes:
    """`EncryptedKeyMaterial` for a public key as GetParametersForImport gives it."""
    key = rsa_key(public_key)
    if algorithm == "RSAES_PKCS1_V1_5":
        return key.encrypt(material, padding.PKCS1v15())
    way = oaep(hashes.SHA256() if algorithm.endswith("SHA_256") else hashes.SHA1())  # noqa: S303 (the API's)
    if algorithm.startswith("RSAES"):
        return key.encrypt(material, way)
    kek = os.urandom(32)
    return key.encrypt(kek, way) + keywrap.aes_key_wrap_with_padding(kek, material)


def rsa_key(public_key: bytes) -> RSAPublicKey:
    """The wrapping key."""
    key = load_der_public_key(public_key)
    assert isinstance(key, RSAPublicKey)
    return key


def raw_encrypt(encoded: bytes, public_key: bytes) -> bytes:
    """A blob whose padding is as an attacker likes: textbook RSA of an encoded message."""
    numbers = rsa_key(public_key).public_numbers()
    size = (numbers.n.bit_length() + 7) // 8
    return pow(int.from_bytes(encoded, "big"), numbers.e, numbers.n).to_bytes(size, "big")


@contextmanager
def refusals_at_once() -> Iterator[None]:
    """Let a daemon in this process refuse blobs without waiting for the beat."""
    with patch("kmsd.custody.imported_material.REFUSAL_QUANTUM_SECONDS", 1e-4):
        yield


@dataclass
class Parameters:
    """What GetParametersForImport answered."""

    algorithm: str
    answer: dict[str, Any]

    @property
    def public_key(self) -> bytes:
        """DER."""
        return bytes(self.answer["PublicKey"])

    def members(self, material: bytes) -> dict[str, Any]:
        """What ImportKeyMaterial wants for this material."""
        return self.members_of(wrap(material, self.algorithm, self.public_key))

    def new_members(self, material: bytes) -> dict[str, Any]:
        """What ImportKeyMaterial wants for material that the key does not have yet."""
        return {**self.members(material), "ImportType": "NEW_KEY_MATERIAL"}

    def members_of(self, blob: bytes) -> dict[str, Any]:
        """What ImportKeyMaterial wants for this blob."""
        token = self.answer["ImportToken"]
        return {"KeyId": self.answer["KeyId"], "ImportToken": token, "EncryptedKeyMaterial": blob, **FOREVER}


def parameters(kms: Any, key_id: str, algorithm: str = "RSAES_OAEP_SHA_1", spec: str = "RSA_2048") -> Parameters:
    """Fresh import parameters."""
    answer = kms.get_parameters_for_import(KeyId=key_id, WrappingAlgorithm=algorithm, WrappingKeySpec=spec)
    return Parameters(algorithm, answer)


def external_key(kms: Any, spec: str = "SYMMETRIC_DEFAULT", usage: str = "ENCRYPT_DECRYPT") -> str:
    """A key that awaits its material."""
    return str(kms.create_key(Origin="EXTERNAL", KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])


def imported_key(kms: Any, material: bytes) -> str:
    """A key with imported material that does not expire."""
    key_id = external_key(kms)
    kms.import_key_material(**parameters(kms, key_id).members(material))
    return key_id


def add_material(kms: Any, key_id: str, material: bytes, **members: Any) -> str:
    """Import material that is then pending rotation. Its `KeyMaterialId`."""
    answer = kms.import_key_material(**{**parameters(kms, key_id).new_members(material), **members})
    return str(answer["KeyMaterialId"])


def import_again(kms: Any, key_id: str, material: bytes, **members: Any) -> str:
    """Import material that the key has or had. Its `KeyMaterialId`."""
    answer = kms.import_key_material(**{**parameters(kms, key_id).members(material), **members})
    return str(answer["KeyMaterialId"])


def current_id(kms: Any, key_id: str) -> str:
    """`CurrentKeyMaterialId`."""
    return str(kms.describe_key(KeyId=key_id)["KeyMetadata"]["CurrentKeyMaterialId"])


def materials_of(kms: Any, key_id: str) -> list[tuple[str, str, str]]:
    """`KeyMaterialId`, `KeyMaterialState` and `ImportState` of all materials, oldest first."""
    found = kms.list_key_rotations(KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    return [(one["KeyMaterialId"], one["KeyMaterialState"], one["ImportState"]) for one in found]


def state_of(kms: Any, key_id: str) -> str:
    """`KeyState`."""
    return str(kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"])


def current_material(harness: Harness, key_id: str) -> Material:
    """A key's current material."""
    key = harness.run(_key(harness, key_id))
    assert key is not None
    assert key.current_material is not None
    return key.current_material


def current_material_id(harness: Harness, key_id: str) -> bytes:
    """The id of a key's current material in token and database."""
    return current_material(harness, key_id).material_id


async def _key(harness: Harness, key_id: str) -> Key | None:
    return await (await harness.components.store.read()).key(key_id)


async def imported_material(harness: Harness, key_id: str) -> Any:
    """What the store knows of a key's current material."""
    return current(await (await harness.components.store.read()).imported_materials(key_id))
