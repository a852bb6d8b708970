"""ML-DSA and ML-KEM, on tokens that have them: NSS from 3.131 on, on which `test_newer_nss.py` runs this file."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.public_keys import ML_KEM_512_HEAD
from kmsd.domain.key_spec import KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import MechanismMissing, NoSuchObject, TokenError
from tests.support.key_kinds import new_id, pair_of, verify

SIGN, ENCAPSULATE = KeyUsage.SIGN_VERIFY, KeyUsage.ENCAPSULATE_DECAPSULATE
ML_DSA = {
    KeySpec.ML_DSA_44: (mldsa.MLDSA44PublicKey, 2420),
    KeySpec.ML_DSA_65: (mldsa.MLDSA65PublicKey, 3309),
    KeySpec.ML_DSA_87: (mldsa.MLDSA87PublicKey, 4627),
}
"""Public key and bytes of a signature (FIPS 204, table 2)."""
ML_KEM = {KeySpec.ML_KEM_512: 768, KeySpec.ML_KEM_768: 1088, KeySpec.ML_KEM_1024: 1568}
"""Bytes of a ciphertext (FIPS 203, table 3)."""


async def pair_or_skip(token: Pkcs11Token, spec: KeySpec, usage: KeyUsage) -> tuple[bytes, bytes]:
    """A pair. Without an offer, generation is refused by the mechanism's name, and the test is skipped."""
    if not (await token.key_offers())[spec, usage].algorithms:
        with pytest.raises(MechanismMissing, match="CKM_ML_"):
            await token.generate_key_pair(new_id(), spec, usage)
        pytest.skip("the token has no ML-DSA and ML-KEM")
    return await pair_of(token, spec, usage)


@pytest.mark.parametrize("spec", list(ML_DSA), ids=str)
async def test_ml_dsa(token: Pkcs11Token, spec: KeySpec) -> None:
    """Signatures of messages verify; two of one message differ; digests are refused."""
    algorithm, (public_class, length) = SigningAlgorithm.ML_DSA_SHAKE_256, ML_DSA[spec]
    object_id, public = await pair_or_skip(token, spec, SIGN)
    assert isinstance(load_der_public_key(public), public_class)
    assert await token.public_key(object_id) == public
    for message in (b"m", secrets.token_bytes(4096)):
        first, second = [await token.sign(object_id, algorithm, message, is_digest=False) for _ in range(2)]
        assert (len(first), len(second), first != second) == (length, length, True)
        for signature in (first, second):
            verify(public, algorithm, message, signature, digest=False)
        with pytest.raises(InvalidSignature):
            verify(public, algorithm, message + b"x", first, digest=False)
    with pytest.raises(ValueError, match="messages"):
        await token.sign(object_id, algorithm, bytes(64), is_digest=True)
    with pytest.raises(NoSuchObject):
        await token.sign(new_id(), algorithm, b"m", is_digest=False)


@pytest.mark.parametrize("spec", list(ML_KEM), ids=str)
async def test_ml_kem(token: Pkcs11Token, spec: KeySpec) -> None:
    """A secret comes out of its ciphertext, whichever side made it; a changed ciphertext gives another secret."""
    object_id, public = await pair_or_skip(token, spec, ENCAPSULATE)
    assert await token.public_key(object_id) == public
    secret, ciphertext = await token.encapsulate(object_id)
    assert (len(secret), len(ciphertext)) == (32, ML_KEM[spec])
    assert await token.decapsulate(object_id, ciphertext) == secret
    assert (await token.encapsulate(object_id))[0] != secret
    changed = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    other = await token.decapsulate(object_id, changed)
    assert len(other) == 32
    assert other != secret
    assert await token.decapsulate(object_id, changed) == other
    if spec is KeySpec.ML_KEM_512:
        assert public.startswith(ML_KEM_512_HEAD)  # `cryptography` does not have it
        assert len(public) == len(ML_KEM_512_HEAD) + 800
    else:
        key = load_der_public_key(public)
        assert isinstance(key, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey)
        secret, ciphertext = key.encapsulate()
        assert await token.decapsulate(object_id, ciphertext) == secret


async def test_ml_kem_of_what_is_wrong(token: Pkcs11Token) -> None:
    """Lengths of no ciphertext, and objects that do not exist, are refused; no secret stays in the token."""
    object_id, _ = await pair_or_skip(token, KeySpec.ML_KEM_768, ENCAPSULATE)
    for wrong in (b"", bytes(1087), bytes(1089)):
        with pytest.raises(TokenError):
            await token.decapsulate(object_id, wrong)
    with pytest.raises(NoSuchObject):
        await token.encapsulate(new_id())
    with pytest.raises(NoSuchObject):
        await token.decapsulate(new_id(), bytes(1088))
    with pytest.raises(TokenError):
        await token.sign(object_id, SigningAlgorithm.ML_DSA_SHAKE_256, b"m", is_digest=False)
    await token.check()


async def test_ml_kem_while_the_key_is_destroyed(token: Pkcs11Token) -> None:
    """Each call succeeds, or says that there is no such object."""
    object_id, _ = await pair_or_skip(token, KeySpec.ML_KEM_768, ENCAPSULATE)
    secret, ciphertext = await token.encapsulate(object_id)
    calls = [asyncio.create_task(token.decapsulate(object_id, ciphertext)) for _ in range(20)]
    destruction = asyncio.create_task(token.destroy(object_id))
    calls += [asyncio.create_task(token.decapsulate(object_id, ciphertext)) for _ in range(20)]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert result == secret or isinstance(result, NoSuchObject)
    await destruction
    with pytest.raises(NoSuchObject):
        await token.encapsulate(object_id)
