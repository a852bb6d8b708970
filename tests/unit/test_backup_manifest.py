"""The manifest vouches for every part, and its signature for it: whatever is touched, the right part is named."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from kmsd.backup.archive import CorruptArchive, Part
from kmsd.backup.manifest import MANIFEST, SIGNATURE, Manifest, TokenNote, parse, signature_text, signed_digest

PARTS = (Part("database.sqlite", 3, "aa"), Part("audit/checkpoints.jsonl", 1, "bb"))
OWN = [Part(MANIFEST, 1, ""), Part(SIGNATURE, 1, "")]


@dataclass(frozen=True)
class Signed:
    """A manifest as the token signs it."""

    text: bytes
    signature: bytes


def signed(key: ec.EllipticCurvePrivateKey | None = None) -> Signed:
    """By a key of its own, or by another than it names."""
    own = ec.generate_private_key(ec.SECP256R1())
    public = own.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    token = TokenNote("label", "serial", "manufacturer", "model")
    manifest = Manifest(1, "id", "2026-11-22T06:30:00Z", "", "0.1.0", "host", "000000000000", "x", token, public, PARTS)
    text = msgspec.json.encode(manifest)
    made = (key or own).sign(signed_digest(text), ec.ECDSA(Prehashed(hashes.SHA256())))
    return Signed(text, signature_text(made))


def test_what_is_whole_is_taken() -> None:
    """With all its members."""
    found = signed()
    assert parse(found.text, found.signature, [*PARTS, *OWN]).parts == PARTS


@pytest.mark.parametrize("flip", range(1, 256))
def test_a_damaged_signature_is_named(flip: int) -> None:
    """Whether or not it is base64 still."""
    found = signed()
    broken = bytes([found.signature[8] ^ flip])
    with pytest.raises(CorruptArchive, match=SIGNATURE):
        parse(found.text, found.signature[:8] + broken + found.signature[9:], [*PARTS, *OWN])


def test_another_key_cannot_sign() -> None:
    """Nobody but the token makes a backup."""
    found = signed(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CorruptArchive, match="not what the audit key signed"):
        parse(found.text, found.signature, [*PARTS, *OWN])
    with pytest.raises(CorruptArchive, match="not what the audit key signed"):
        parse(signed().text.replace(b'"aa"', b'"ab"'), signed().signature, [*PARTS, *OWN])


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([PARTS[0], *OWN], "audit/checkpoints.jsonl is missing"),
        ([Part("database.sqlite", 3, "ab"), PARTS[1], *OWN], "database.sqlite is damaged"),
        ([*PARTS, Part("audit/x", 1, "cc"), *OWN], "audit/x is not named"),
        ([*PARTS, PARTS[0], *OWN], "one name"),
    ],
)
def test_parts_are_those_that_it_names(parts: list[Part], told: str) -> None:
    """None missing, none changed, none added, none twice."""
    found = signed()
    with pytest.raises(CorruptArchive, match=told):
        parse(found.text, found.signature, parts)
