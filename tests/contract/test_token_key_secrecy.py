"""No call into the module returns the value of a private or secret key, of any kind, in any use."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, EncryptionAlgorithm, KeySpec, KeyUsage, SigningAlgorithm
from tests.support import call_recorder as recorder
from tests.support.call_recorder import Recorder
from tests.support.key_kinds import kinds, mac_of, new_id, oaep, pair_of, point_of
from tests.support.private_values import (
    Reveals,
    reveals_mac_key,
    reveals_ml_key,
    reveals_rsa,
    reveals_scalar,
    reveals_seed,
)
from tests.support.shim import compiler
from tests.support.tokens import PLACES, TokenPlace, available


def test_the_search_finds_what_is_there() -> None:
    """A buffer with the value among other bytes is recognised, one without it is not."""
    private_rsa = rsa.generate_private_key(65537, 2048)
    numbers = private_rsa.private_numbers()
    scalar = ec.generate_private_key(ec.SECP256R1())
    seed = ed25519.Ed25519PrivateKey.generate()
    search, other = (
        reveals_rsa(private_rsa.public_key()),
        reveals_rsa(rsa.generate_private_key(65537, 2048).public_key()),
    )
    for number, length, around in ((numbers.p, 128, b"abc"), (numbers.dmq1, 128, b""), (numbers.d, 256, b"")):
        for order in ("big", "little"):
            buffer = around + number.to_bytes(length, order) + around
            assert search(buffer)
            assert not other(buffer)
    assert reveals_scalar(scalar.public_key())(b"abc" + scalar.private_numbers().private_value.to_bytes(32, "big"))
    assert not reveals_scalar(scalar.public_key())(bytes(range(64)))
    assert reveals_seed(seed.public_key())(seed.private_bytes_raw() + b"d")
    assert not reveals_seed(seed.public_key())(bytes(range(64)))
    for ml_key, length in ((mldsa.MLDSA44PrivateKey.generate(), 32), (mlkem.MLKEM768PrivateKey.generate(), 64)):
        search = reveals_ml_key(ml_key.public_key())
        assert search(b"a" + ml_key.private_bytes_raw())
        assert not search(bytes(length))
    mac = hmac.digest(b"k" * 32, b"m", "SHA256")
    assert reveals_mac_key(KeySpec.HMAC_256, mac)(b"a" + b"k" * 32)
    assert not reveals_mac_key(KeySpec.HMAC_256, mac)(bytes(64))


@pytest.fixture(params=[kind for kind in available() if kind != "named"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TokenPlace, Recorder]]:
    """A token whose module writes down every buffer that it returns."""
    if compiler() is None:
        pytest.skip("the recorder needs a C compiler")
    with PLACES[request.param](tmp_path) as place:
        found = Recorder(tmp_path, place.module)
        yield replace(place, module=found.path), found


ALIKE = (
    *(KeySpec.ECC_NIST_P384, KeySpec.ECC_NIST_P521, KeySpec.RSA_3072, KeySpec.RSA_4096),
    *(KeySpec.ML_DSA_65, KeySpec.ML_DSA_87, KeySpec.ML_KEM_512, KeySpec.ML_KEM_1024),
)
"""Specs whose keys are made and used by the same code as those of another length."""


async def test_no_call_returns_a_private_value(recorded: tuple[TokenPlace, Recorder]) -> None:
    """Through generation, use, listing and destruction of each kind, and the self-tests."""
    place, found = recorded
    searched: list[str] = []
    async with place.open() as token:
        offers = await token.key_offers()
        for spec, usage in kinds():
            if spec in ALIKE or not offers[spec, usage].algorithms:
                continue
            before = len(list(found.returned()))
            reveals = await use(token, spec, usage)
            buffers = {data for _, data in list(found.returned())[before:]}
            assert len(buffers) > 5
            assert [data for data in buffers if reveals(data)] == [], f"{spec} {usage}"
            searched.append(f"{spec} {usage}")
    assert len(searched) >= 8
    # What the recorder must have seen, or it sees nothing.
    returned = list(found.returned())
    assert {recorder.DECRYPT, recorder.SIGN, recorder.GET_ATTRIBUTE_VALUE} <= {function for function, _ in returned}
    assert (recorder.DECRYPT, b"plaintext of a client") in returned
    # Secrets of key agreements are results for clients.
    assert found.origins_of_values() <= {recorder.DERIVE_KEY}
    if "ML_KEM_768 ENCAPSULATE_DECAPSULATE" in searched:
        assert {recorder.ENCAPSULATE_KEY, recorder.DECAPSULATE_KEY} <= {function for function, _ in returned}


async def use(token: Pkcs11Token, spec: KeySpec, usage: KeyUsage) -> Reveals:
    """Make a key, have the token do all with it, and destroy it. Return the search for its value."""
    if spec in HMAC_BITS:
        object_id = new_id()
        await token.generate_mac_key(object_id, spec)
        mac = await token.mac(object_id, mac_of(spec), b"m")
        await token.attributes(object_id)
        await token.list_objects()
        await token.destroy(object_id)
        return reveals_mac_key(spec, mac)
    object_id, public = await pair_of(token, spec, usage)
    key = load_der_public_key(public)
    if usage is KeyUsage.SIGN_VERIFY:
        for name in (await token.key_offers())[spec, usage].algorithms:
            await token.sign(object_id, SigningAlgorithm(name), b"m", is_digest=False)
    elif usage is KeyUsage.ENCRYPT_DECRYPT and isinstance(key, rsa.RSAPublicKey):
        algorithm = EncryptionAlgorithm(ALGORITHMS[spec][usage][0])
        await token.decrypt_rsa(object_id, algorithm, key.encrypt(b"plaintext of a client", oaep(algorithm)))
    elif usage is KeyUsage.ENCAPSULATE_DECAPSULATE:
        secret, ciphertext = await token.encapsulate(object_id)
        assert await token.decapsulate(object_id, ciphertext) == secret
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        await token.agree(object_id, point_of(ec.generate_private_key(key.curve).public_key()))
    assert await token.public_key(object_id) == public
    await token.attributes(object_id)
    await token.list_objects()
    await token.destroy(object_id)
    if isinstance(key, mldsa.MLDSA44PublicKey | mlkem.MLKEM768PublicKey):
        return reveals_ml_key(key)
    if isinstance(key, rsa.RSAPublicKey):
        return reveals_rsa(key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return reveals_scalar(key)
    assert isinstance(key, ed25519.Ed25519PublicKey)
    assert public.endswith(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return reveals_seed(key)
