"""Blobs of every released version open, bit for bit as documented, in the token and by the document alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain import encryption_context
from kmsd.domain.material import Algorithm
from kmsd.ports import NotAuthentic
from tests.support.software_cryptography import ROLES, software_open, software_seal
from tests.support.tokens import softhsm

FOLDER = Path(__file__).parent / "blobs"
DOCUMENT = Path(__file__).parents[2] / "docs" / "ciphertext.md"


@dataclass(frozen=True)
class Vector:
    """One blob and everything that went into it."""

    algorithm: Algorithm
    key: bytes
    key_id: str
    material_id: bytes
    nonce: bytes
    context: dict[str, str]
    canonical: bytes
    plaintext: bytes
    blob: bytes


def vector_of(fields: dict[str, Any]) -> Vector:
    """From the golden file."""
    binary = {
        name: bytes.fromhex(fields[name]) for name in ("key", "material_id", "nonce", "canonical", "plaintext", "blob")
    }
    return Vector(
        algorithm=Algorithm(fields["algorithm"]), key_id=fields["key_id"], context=fields["context"], **binary
    )


VECTORS = [vector_of(fields) for path in sorted(FOLDER.glob("*.json")) for fields in json.loads(path.read_text())]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.algorithm.name}-{len(vector.context)}")
def test_format(vector: Vector) -> None:
    """Header, canonical context and sealing give exactly the golden bytes; parsing gives the parts back."""
    assert encryption_context.canonical(vector.context) == vector.canonical
    head = blobs.header(vector.algorithm, vector.key_id, vector.material_id)
    aad = blobs.associated_data(head, vector.context)
    sealed = software_seal(vector.key, vector.algorithm, vector.nonce, vector.plaintext, aad)
    assert head + sealed == vector.blob
    parsed = blobs.parse(vector.blob)
    assert (parsed.algorithm, parsed.key_id, parsed.material_id) == (
        vector.algorithm,
        vector.key_id,
        vector.material_id,
    )
    assert parsed.encode() == vector.blob
    assert software_open(vector.key, parsed.algorithm, parsed.sealed, aad) == vector.plaintext


@pytest.fixture(name="token")
async def _token(tmp_path: Path) -> AsyncIterator[Pkcs11Token]:
    with softhsm(tmp_path) as place:
        async with place.open() as token:
            yield token


async def test_the_token_opens_them(token: Pkcs11Token) -> None:
    """With the material in the token, every golden blob opens, and under no other context."""
    connection = token._link.require().connection
    for vector in VECTORS:
        template = session_key(KeyType.AES, 32, ROLES[vector.algorithm])
        del template[Attribute.VALUE_LEN]
        material = {**template, Attribute.VALUE: vector.key, Attribute.ID: vector.material_id}
        handle = connection.raw.create(connection.keeper.handle, material)
        parsed = blobs.parse(vector.blob)
        aad = blobs.associated_data(vector.blob[: blobs.HEADER_LENGTH], vector.context)
        assert await token.decrypt(parsed.material_id, parsed.algorithm, parsed.sealed, aad) == vector.plaintext
        other = blobs.associated_data(vector.blob[: blobs.HEADER_LENGTH], {**vector.context, "more": ""})
        with pytest.raises(NotAuthentic):
            await token.decrypt(parsed.material_id, parsed.algorithm, parsed.sealed, other)
        token.invalidate(vector.material_id)
        connection.raw.destroy(connection.keeper.handle, handle)


def test_the_document_shows_the_vectors() -> None:
    """What docs/ciphertext.md prints is what the golden file holds."""
    text = DOCUMENT.read_text()
    shown = [vector for vector in VECTORS if vector.plaintext == b"kmsd"]
    assert len(shown) == 9
    for vector in shown:
        assert f"`{vector.nonce.hex()}`" in text
        assert f"`{vector.blob.hex()[68 + len(vector.nonce.hex()) :]}`" in text


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x01", b"\x02" * 100, b"\x01\x04" + bytes(100)),
        *(VECTORS[0].blob[:73], b"\x01\x02" + bytes(32 + 27), b"\x01\x03" + bytes(32 + 31)),
    ],
)
def test_what_is_no_blob(data: bytes) -> None:
    """Unknown versions and algorithms, and texts that are too short, are refused by name."""
    with pytest.raises(blobs.MalformedBlob):
        blobs.parse(data)
