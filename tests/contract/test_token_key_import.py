"""Imports of RSA, ECC and HMAC material at the port: what comes in is proven, and what does not fit leaves nothing."""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.key_spec import HMAC_BITS, KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import MaterialMismatch, MechanismMissing, TokenError, UnsuitableMaterial, UnwrapFailed, Wrapped
from tests.support import call_recorder as recorder
from tests.support.call_recorder import Recorder
from tests.support.imported_kinds import CURVES, IMPORTABLE, material_of, pair_of, pkcs8, spki_of
from tests.support.key_import import wrap
from tests.support.key_kinds import Kind, mac_of, new_id, oaep, point_of, verify
from tests.support.private_values import Reveals, reveals_mac_key, reveals_rsa, reveals_scalar
from tests.support.shim import Function, Shim, compiler
from tests.support.tokens import TokenPlace, available, nss, softhsm

MARK = b"a mark"
HYBRID = WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1
RSA, P256, HMAC = KeySpec.RSA_2048, KeySpec.ECC_NIST_P256, KeySpec.HMAC_224
KINDS: tuple[Kind, ...] = (
    (RSA, KeyUsage.SIGN_VERIFY),
    (RSA, KeyUsage.ENCRYPT_DECRYPT),
    (P256, KeyUsage.SIGN_VERIFY),
    (P256, KeyUsage.KEY_AGREEMENT),
    (KeySpec.ECC_NIST_P521, KeyUsage.KEY_AGREEMENT),
    (HMAC, KeyUsage.GENERATE_VERIFY_MAC),
)


class Arrivals:
    """A token with a wrapping key, and blobs for it."""

    def __init__(self, token: Pkcs11Token, wrapping_key: bytes, public: bytes) -> None:
        self.token, self.wrapping_key, self.public = token, wrapping_key, public

    @classmethod
    async def at(cls, token: Pkcs11Token) -> Arrivals:
        """With a fresh wrapping key."""
        object_id = new_id()
        return cls(token, object_id, await token.generate_wrapping_key(object_id, 2048))

    def blob(self, material: bytes, algorithm: WrappingAlgorithm = HYBRID) -> Wrapped:
        """As it comes from a client."""
        return Wrapped(wrap(material, algorithm, self.public), algorithm, self.wrapping_key)

    async def objects(self) -> set[bytes]:
        """Ids of all but the wrapping key; each must be as its role has it."""
        reports = await self.token.list_objects()
        assert [one for one in reports if one.problem] == []
        return {one.object_id for one in reports} - {self.wrapping_key}


@pytest.fixture
async def arrivals(token: Pkcs11Token) -> Arrivals:
    """A wrapping key in a token of each kind."""
    return await Arrivals.at(token)


@pytest.fixture
async def softhsm_arrivals(softhsm_place: TokenPlace) -> AsyncIterator[Arrivals]:
    """The same in SoftHSM."""
    async with softhsm_place.open() as token:
        yield await Arrivals.at(token)


async def test_capabilities_are_what_works(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """NSS gives private keys other roles than it was told, but passes all material on. SoftHSM is the reverse."""
    found = await token.import_capabilities()
    if token_place.kind == "softhsm":
        assert found.specs == set(IMPORTABLE)
        assert found.passes_on_specs < set(IMPORTABLE)
    if token_place.kind == "nss":
        assert found.specs == set(HMAC_BITS)
        assert found.passes_on_specs == set(IMPORTABLE)


@pytest.mark.parametrize("kind", KINDS)
async def test_material_comes_in(arrivals: Arrivals, kind: Kind) -> None:
    """The proof is the same in both steps; the object does what the software key does, and nothing else is left."""
    token, (spec, _) = arrivals.token, kind
    wrapped = arrivals.blob(material_of(spec))
    if spec not in (await token.import_capabilities()).specs:
        with pytest.raises(MechanismMissing):
            await token.import_key(wrapped, kind, MARK)
        return
    proof = await token.import_key(wrapped, kind, MARK)
    assert await arrivals.objects() == set()
    object_id = new_id()
    again = await token.import_key(
        arrivals.blob(material_of(spec)), kind, MARK, expected=proof.fingerprint, into=object_id
    )
    assert again == proof
    assert proof.public_key == (b"" if spec in HMAC_BITS else spki_of(spec))
    assert {one.kind for one in await token.list_objects() if one.imported} == {
        "secret" if spec in HMAC_BITS else "private"
    }
    await use(token, object_id, kind)
    await token.destroy(object_id)
    assert await arrivals.objects() == set()
    other = await token.import_key(wrapped, kind, b"another mark")
    assert other.fingerprint != proof.fingerprint


async def use(token: Pkcs11Token, object_id: bytes, kind: Kind) -> None:
    """Use a key, and compare with the software key."""
    spec, usage = kind
    if usage is KeyUsage.GENERATE_VERIFY_MAC:
        name = mac_of(spec).removeprefix("HMAC_").replace("_", "")
        assert await token.mac(object_id, mac_of(spec), b"m") == hmac.digest(material_of(spec), b"m", name)
        return
    assert await token.public_key(object_id) == spki_of(spec)
    offer = (await token.key_offers())[kind].algorithms
    if usage is KeyUsage.SIGN_VERIFY:
        algorithm = SigningAlgorithm(offer[0])
        signature = await token.sign(object_id, algorithm, b"m", is_digest=False)
        verify(spki_of(spec), algorithm, b"m", signature, digest=False)
    elif usage is KeyUsage.ENCRYPT_DECRYPT:
        public = load_der_public_key(spki_of(spec))
        assert isinstance(public, rsa.RSAPublicKey)
        blob = public.encrypt(b"secret", oaep(offer[0]))
        assert await token.decrypt_rsa(object_id, offer[0], blob) == b"secret"  # type: ignore[arg-type]
    else:
        peer, own = ec.generate_private_key(CURVES[spec]), pair_of(spec)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        agreed = await token.agree(object_id, point_of(peer.public_key()))
        assert agreed == peer.exchange(ec.ECDH(), own.public_key())


@pytest.mark.parametrize("kind", KINDS)
async def test_what_does_not_fit_leaves_nothing(softhsm_arrivals: Arrivals, kind: Kind) -> None:
    """Another fingerprint, another kind, a changed blob."""
    arrivals, object_id = softhsm_arrivals, new_id()
    right = arrivals.blob(material_of(kind[0]))
    for wrapped, error in (
        (right, MaterialMismatch),
        (arrivals.blob(material_of(RSA if kind[0] is not RSA else P256)), UnsuitableMaterial),
        (replace_blob(right, right.blob[:-1] + bytes([right.blob[-1] ^ 1])), UnwrapFailed),
    ):
        with pytest.raises(error):
            await arrivals.token.import_key(wrapped, kind, MARK, expected=bytes(32), into=object_id)
        assert await arrivals.objects() == set()


def replace_blob(wrapped: Wrapped, blob: bytes) -> Wrapped:
    """The same with another blob."""
    return Wrapped(blob, wrapped.algorithm, wrapped.wrapping_key)


async def test_an_rsa_key_that_contradicts_itself(softhsm_arrivals: Arrivals) -> None:
    """Modulus of one key, exponents of another: no signature proves it."""
    mine, other = (rsa.generate_private_key(65537, 2048).private_numbers() for _ in range(2))
    mixed = rsa.RSAPrivateNumbers(
        mine.p, mine.q, other.d, other.dmp1, other.dmq1, mine.iqmp, mine.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    with pytest.raises(UnsuitableMaterial):
        await softhsm_arrivals.token.import_key(softhsm_arrivals.blob(pkcs8(mixed)), (RSA, KeyUsage.SIGN_VERIFY), MARK)


def without_public_key(scalar: bytes) -> bytes:
    """PKCS #8 of a P-256 key as RFC 5915 permits it."""
    return bytes.fromhex("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420") + scalar


async def test_the_public_key_comes_from_the_private_one(softhsm_arrivals: Arrivals) -> None:
    """PKCS #8 may have none, or that of another key, which is not believed."""
    own, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    point = point_of(other.public_key())
    lying = pkcs8(own).replace(point_of(own.public_key()), point)
    assert point in lying
    bare = without_public_key(own.private_numbers().private_value.to_bytes(32, "big"))
    expected = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for material in (bare, lying):
        found = await softhsm_arrivals.token.import_key(
            softhsm_arrivals.blob(material), (P256, KeyUsage.KEY_AGREEMENT), MARK
        )
        assert found.public_key == expected


async def test_a_number_that_is_no_private_key(softhsm_arrivals: Arrivals) -> None:
    """Zero: its public key is no point."""
    blob = softhsm_arrivals.blob(without_public_key(bytes(32)))
    with pytest.raises(UnsuitableMaterial):
        await softhsm_arrivals.token.import_key(blob, (P256, KeyUsage.SIGN_VERIFY), MARK)


@pytest.mark.parametrize("spec", IMPORTABLE)
async def test_from_token_to_token(tmp_path: Path, spec: KeySpec) -> None:
    """NSS unwraps by RSAES-OAEP with SHA-256, and wraps for SoftHSM's transport key; blobs that are none it refuses."""
    algorithm = WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256
    kind = spec, KeyUsage.GENERATE_VERIFY_MAC if spec in HMAC_BITS else KeyUsage.SIGN_VERIFY
    if "nss" not in available():
        pytest.skip("NSS is not installed")
    with nss(tmp_path / "nss") as helper_place, softhsm(tmp_path / "main") as main_place:
        async with helper_place.open() as helper, main_place.open() as main:
            arrivals, transport_key = await Arrivals.at(helper), await main.transport_key()
            given = arrivals.blob(material_of(spec), algorithm)
            passed_on = await helper.rewrap_for(given, transport_key, spec)
            proof = await main.import_key(passed_on, kind, MARK)
            assert proof.public_key == (b"" if spec in HMAC_BITS else spki_of(spec))
            changed = replace_blob(given, given.blob[:-1] + bytes([given.blob[-1] ^ 1]))
            with pytest.raises(UnwrapFailed):
                await helper.rewrap_for(changed, transport_key, spec)
            assert await arrivals.objects() == set()


@pytest.mark.parametrize("function", [Function.CREATE_OBJECT, Function.GET_ATTRIBUTE_VALUE, Function.DERIVE_KEY])
async def test_a_token_that_fails_half_way(shim: Shim, shim_place: TokenPlace, function: Function) -> None:
    """No half of a pair is left, whatever fails; afterwards the same id is taken."""
    kind, object_id = (P256, KeyUsage.SIGN_VERIFY), new_id()
    async with shim_place.open() as token:
        arrivals = await Arrivals.at(token)
        wrapped = arrivals.blob(material_of(P256))
        await token.import_key(wrapped, kind, MARK)
        shim.fail(function, int(Ckr.DEVICE_MEMORY), times=1)
        with pytest.raises(TokenError):
            await token.import_key(wrapped, kind, MARK, into=object_id)
        shim.reset()
        assert await arrivals.objects() == set()
        await token.import_key(wrapped, kind, MARK, into=object_id)
        await use(token, object_id, kind)


async def test_an_object_that_can_be_had_out_is_not_kept(shim: Shim, shim_place: TokenPlace) -> None:
    """A token that shows CKA_EXTRACTABLE True, as if it ignored the template."""
    async with shim_place.open() as token:
        arrivals = await Arrivals.at(token)
        await token.import_capabilities()
        for kind in KINDS:
            wrapped = arrivals.blob(material_of(kind[0]))
            shim.lie()
            with pytest.raises(TokenError, match="CKA_EXTRACTABLE"):
                await token.import_key(wrapped, kind, MARK, into=new_id())
            shim.reset()
            assert await arrivals.objects() == set()


def search_for(spec: KeySpec, material: bytes) -> Reveals:
    """Whether a buffer has the private value."""
    if spec in HMAC_BITS:
        return reveals_mac_key(spec, hmac.digest(material, b"m", mac_of(spec).removeprefix("HMAC_").replace("_", "")))
    public = load_der_public_key(spki_of(spec))
    return reveals_rsa(public) if isinstance(public, rsa.RSAPublicKey) else reveals_scalar(public)  # type: ignore[arg-type]


@pytest.mark.parametrize("token_place", [kind for kind in available() if kind != "named"], indirect=True)
async def test_no_call_returns_the_material(token_place: TokenPlace, tmp_path: Path) -> None:
    """Through self-tests, proof, storage, use, rewrapping and refusals of each kind."""
    if compiler() is None:
        pytest.skip("the recorder needs a C compiler")
    found = Recorder(tmp_path, token_place.module)
    async with replace(token_place, module=found.path).open() as token:
        arrivals = await Arrivals.at(token)
        capabilities = await token.import_capabilities()
        for kind in KINDS:
            spec, before = kind[0], len(list(found.returned()))
            object_id, wrapped = new_id(), arrivals.blob(material_of(spec))
            if spec in capabilities.specs:
                await token.import_key(wrapped, kind, MARK, into=object_id)
                await use(token, object_id, kind)
                with pytest.raises(UnsuitableMaterial):
                    await token.import_key(arrivals.blob(os.urandom(33)), kind, MARK)
            if spec in capabilities.passes_on_specs:
                await token.rewrap_for(wrapped, await token.transport_key(), spec)
            buffers = {data for _, data in list(found.returned())[before:]}
            reveals = search_for(spec, material_of(spec))
            assert [data for data in buffers if reveals(data)] == [], f"{kind}"
    functions = {function for function, _ in found.returned()}
    assert {recorder.SIGN, recorder.GET_ATTRIBUTE_VALUE} <= functions
