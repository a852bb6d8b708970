"""The token's answers are those of the published algorithms: fixed vectors, and `cryptography` at random."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator

import pytest
from pkcs11 import Attribute, KeyType, ObjectClass

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.return_codes import CkrError
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain.material import Algorithm
from kmsd.ports import NotAuthentic
from tests.support.shim import Shim
from tests.support.software_cryptography import ROLES, software_open, software_seal
from tests.support.tokens import TokenPlace


def import_known(token: Pkcs11Token, algorithm: Algorithm, value: bytes) -> bytes:
    """A session object whose value the test knows, found by its id like any other."""
    if algorithm not in token.capabilities.algorithms:
        pytest.skip(f"the token does not offer {algorithm.name}")
    connection = token._link.require().connection
    object_id = secrets.token_bytes(16)
    template = session_key(KeyType.AES, 32, ROLES[algorithm])
    del template[Attribute.VALUE_LEN]
    try:
        connection.raw.create(connection.keeper.handle, {**template, Attribute.VALUE: value, Attribute.ID: object_id})
    except CkrError as error:
        pytest.skip(f"the token takes no known keys: {error}")
    return object_id


# C2SP, XAES-256-GCM, test vectors.
VECTORS = [
    (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
    (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
]
NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.mark.parametrize(("key", "aad", "expected"), VECTORS)
def test_the_software_oracle_gives_the_published_vectors(key: bytes, aad: bytes, expected: str) -> None:
    """The oracle below is the published algorithm."""
    sealed = software_seal(key, Algorithm.XAES_256_GCM, NONCE, b"XAES-256-GCM", aad)
    assert sealed.hex() == NONCE.hex() + expected


async def test_the_token_opens_the_published_vector(token: Pkcs11Token) -> None:
    """C2SP's second vector (the first has no associated data, on which SoftHSM 2.6.1 crashes)."""
    key, aad, expected = VECTORS[1]
    object_id = import_known(token, Algorithm.XAES_256_GCM, key)
    opened = await token.decrypt(object_id, Algorithm.XAES_256_GCM, NONCE + bytes.fromhex(expected), aad)
    assert opened == b"XAES-256-GCM"


async def test_the_token_derives_the_published_key(token: Pkcs11Token) -> None:
    """The message key of C2SP's first vector seals as the vector's does, associated data aside."""
    object_id = import_known(token, Algorithm.XAES_256_GCM, VECTORS[0][0])
    sealed = software_seal(VECTORS[0][0], Algorithm.XAES_256_GCM, NONCE, b"XAES-256-GCM", b"not empty")
    assert await token.decrypt(object_id, Algorithm.XAES_256_GCM, sealed, b"not empty") == b"XAES-256-GCM"


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda a: a.name)
async def test_token_and_software_open_each_other(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """Random keys, nonces, texts and associated data, both ways; a changed bit is refused."""
    chance = random.Random(algorithm)  # noqa: S311 (the same cases each time)
    for size in [0, 1, 15, 16, 17, 31, 32, 255, 1024, 4096, *(chance.randrange(4097) for _ in range(20))]:
        value, nonce = chance.randbytes(32), chance.randbytes(algorithm.nonce_length)
        plaintext, aad = chance.randbytes(size), chance.randbytes(chance.randrange(1, 300))
        object_id = import_known(token, algorithm, value)
        sealed = await token.encrypt(object_id, algorithm, plaintext, aad)
        assert software_open(value, algorithm, sealed, aad) == plaintext
        foreign = software_seal(value, algorithm, nonce, plaintext, aad)
        assert await token.decrypt(object_id, algorithm, foreign, aad) == plaintext
        spot = chance.randrange(len(foreign))
        changed = foreign[:spot] + bytes([foreign[spot] ^ 1 << chance.randrange(8)]) + foreign[spot + 1 :]
        with pytest.raises(NotAuthentic):
            await token.decrypt(object_id, algorithm, changed, aad)
        token.invalidate(object_id)


async def test_the_derived_key_stays_in_the_token(token: Pkcs11Token) -> None:
    """It is a session object that does not show its value."""
    object_id = import_known(token, Algorithm.XAES_256_GCM, b"\x07" * 32)
    await token.encrypt(object_id, Algorithm.XAES_256_GCM, b"text", b"aad")
    epoch = token._link.require()
    key = epoch.derived._sealing[object_id]
    kinds = (Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.TOKEN, Attribute.VALUE, Attribute.CLASS)
    shown = epoch.connection.raw.attributes(epoch.connection.keeper.handle, key.handle, kinds)
    secret_key = bytes([ObjectClass.SECRET_KEY, *[0] * 7])
    assert shown == {
        Attribute.SENSITIVE: b"\x01",
        Attribute.EXTRACTABLE: b"\x00",
        Attribute.TOKEN: b"\x00",
        Attribute.CLASS: secret_key,
    }


@pytest.fixture
async def own_iv_token(shim_place: TokenPlace, shim: Shim) -> AsyncIterator[Pkcs11Token]:
    """A token that makes 12-byte GCM nonces itself, as AWS CloudHSM does."""
    shim.own_iv()
    async with shim_place.open() as opened:
        yield opened


@pytest.mark.parametrize("algorithm", [Algorithm.XAES_256_GCM, Algorithm.AES_256_GCM], ids=lambda a: a.name)
async def test_the_nonce_is_what_the_token_returns(own_iv_token: Pkcs11Token, shim: Shim, algorithm: Algorithm) -> None:
    """Where the token writes its own nonce over the caller's, that one stands in the sealed text."""
    assert own_iv_token.capabilities.algorithms == {Algorithm.XAES_256_GCM, Algorithm.AES_256_GCM}
    assert own_iv_token.capabilities.opens == frozenset(Algorithm)
    assert shim.null_ivs == 0
    value = secrets.token_bytes(32)
    object_id = import_known(own_iv_token, algorithm, value)
    texts = [await own_iv_token.encrypt(object_id, algorithm, b"text", b"aad") for _ in range(50)]
    begins_at = 12 if algorithm is Algorithm.XAES_256_GCM else 0
    assert {text[begins_at] for text in texts} == {0xF1}
    assert len({text[: algorithm.nonce_length] for text in texts}) == 50
    for text in texts:
        assert software_open(value, algorithm, text, b"aad") == b"text"
        assert await own_iv_token.decrypt(object_id, algorithm, text, b"aad") == b"text"
