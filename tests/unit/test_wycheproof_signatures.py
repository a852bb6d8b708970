"""Verify against the vectors of Project Wycheproof: every valid signature is accepted, every invalid one refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kmsd.custody import signatures
from kmsd.custody.signatures import SignedMessage
from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeyUsage, SigningAlgorithm
from kmsd.domain.material import Material, MaterialStatus
from tests.support.domain_keys import a_key

VECTORS = Path(__file__).parents[1] / "golden" / "wycheproof"
NO_TOKEN: Any = None
"""Verification needs none, if the material is not wrapped."""
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def decoded(text: str) -> bytes:
    """Bytes of a vector."""
    return base64.b64decode(text, validate=True)


def key_of(public_key: bytes) -> Key:
    """A key with this public half. Its spec is not asked: admission has compared it with the algorithm."""
    material = Material(bytes(16), None, MaterialStatus.READY, NOW, public_key=public_key)
    return a_key(current_material=material, usage=KeyUsage.SIGN_VERIFY)


def vectors_in(path: Path) -> Iterator[tuple[int, Key, SignedMessage, bytes, str]]:
    """Number, key, message, signature and expected result of each test."""
    content: dict[str, Any] = json.loads(path.read_text())
    algorithm = SigningAlgorithm(content["algorithm"])
    for group in content["groups"]:
        key = key_of(decoded(group["key"]))
        for number, message, signature, result in group["tests"]:
            yield number, key, SignedMessage(algorithm, decoded(message), is_digest=False), decoded(signature), result


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.stem)
async def test_signatures(path: Path) -> None:
    """`acceptable` is a matter of taste: a legacy encoding, for example."""
    wrong, seen = [], set()
    for number, key, message, signature, result in vectors_in(path):
        seen.add(result)
        accepted = await signatures.verify(NO_TOKEN, key, NOW, message, signature)
        if result != "acceptable" and accepted is not (result == "valid"):
            wrong.append((number, result))
    assert wrong == []
    assert seen >= {"valid", "invalid"}
