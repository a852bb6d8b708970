"""Every kind of key: what the token offers, the attributes of its objects, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.key_pairs import CURVES, KEY_PAIRS, MAC_KEYS, session_pair
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import MechanismMissing, TokenError, TokenUnavailable
from tests.support.key_kinds import Kind, kinds, new_id, pair_of
from tests.support.polling import until_async
from tests.support.shim import Function, Shim
from tests.support.tokens import TokenPlace, softhsm

SIGN = KeyUsage.SIGN_VERIFY
ROLES = {
    KeyUsage.SIGN_VERIFY: "CKA_SIGN",
    KeyUsage.GENERATE_VERIFY_MAC: "CKA_SIGN",
    KeyUsage.ENCRYPT_DECRYPT: "CKA_DECRYPT",
    KeyUsage.KEY_AGREEMENT: "CKA_DERIVE",
    KeyUsage.ENCAPSULATE_DECAPSULATE: "CKA_DECAPSULATE",
}
A = Attribute
Attributes = dict[int, Any]
PUBLIC_ROLES = (A.ENCRYPT, A.VERIFY, A.VERIFY_RECOVER, A.WRAP, A.DERIVE)
LACKING = {
    "softhsm": {KeySpec.ML_DSA_44, KeySpec.ML_KEM_768, KeySpec.SM2},
    "nss": {KeySpec.ECC_SECG_P256K1, KeySpec.SM2},
}
"""Specs that no version of these tokens offers, or none that the tests make."""


async def make(token: Pkcs11Token, spec: KeySpec, usage: KeyUsage) -> bytes:
    """A key of any kind."""
    object_id = new_id()
    if spec in HMAC_BITS:
        await token.generate_mac_key(object_id, spec)
    else:
        await token.generate_key_pair(object_id, spec, usage)
    return object_id


async def test_every_algorithm_works_or_has_a_reason(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """There is an entry for each spec and usage, in AWS's order; a kind without algorithms cannot be generated."""
    offers = await token.key_offers()
    assert list(offers) == list(kinds())
    for (spec, usage), offer in offers.items():
        known = ALGORITHMS[spec][usage]
        assert offer.algorithms == tuple(name for name in known if name not in offer.lacking)
        assert set(offer.algorithms) | set(offer.lacking) == set(known)
        assert all("CKM_" in reason or "PKCS#11" in reason for reason in offer.lacking.values())
        if not offer.algorithms:
            with pytest.raises(MechanismMissing, match=r"CKM_|SM2"):
                await make(token, spec, usage)
    missing = {spec for (spec, _), offer in offers.items() if not offer.algorithms}
    assert LACKING.get(token_place.kind, set()) <= missing
    assert await token.list_objects() == []


async def test_the_tests_run_once(token: Pkcs11Token) -> None:
    """However many calls wait for them."""
    first, *others = await asyncio.gather(*(token.key_offers() for _ in range(20)))
    assert all(other is first for other in others)
    assert token.counters.calls["test_keys"].calls == 1
    assert {"ECDSA_SHA_256", "HMAC_SHA_256"} <= set(token.counters.pace)


async def test_an_absent_token_lacks_nothing(shim_place: TokenPlace, shim: Shim) -> None:
    """A token that goes away during the tests is unavailable; they run again when it is back."""
    async with shim_place.open() as token:
        shim.gone(Ckr.DEVICE_REMOVED)
        with pytest.raises(TokenUnavailable):
            await token.key_offers()
        shim.reset()
        await until_async(lambda: token._link.login is not None)
        assert (await token.key_offers())[KeySpec.RSA_2048, SIGN].algorithms


async def test_a_wrong_answer_is_no_offer(shim_place: TokenPlace, shim: Shim) -> None:
    """What the token lists and does not do is lacking, each algorithm by itself."""
    async with shim_place.open() as token:
        shim.fail(Function.DERIVE_KEY, Ckr.FUNCTION_FAILED)
        offers = await token.key_offers()
        shim.reset()
    agreement = offers[KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT]
    assert agreement.algorithms == ()
    assert "CKM_ECDH1_DERIVE fails (C_DeriveKey: CKR_FUNCTION_FAILED)" in agreement.lacking["ECDH"]
    assert offers[KeySpec.ECC_NIST_P256, SIGN].algorithms == ("ECDSA_SHA_256",)


async def test_tokens_without_mechanisms(tmp_path: Any) -> None:
    """Keys of the kinds that need them cannot be made, the others can; the reason names the mechanism."""
    without = ["CKM_RSA_PKCS_PSS", "CKM_ECDH1_DERIVE", "CKM_SHA384_HMAC", "CKM_SHA256_RSA_PKCS", "CKM_EDDSA"]
    with softhsm(tmp_path, without=without) as place:
        async with place.open() as token:
            offers = await token.key_offers()
            rsa = offers[KeySpec.RSA_2048, SIGN]
            assert [name for name in rsa.algorithms if "PSS" in name] == []
            # The process hashes the message where CKM_SHA256_RSA_PKCS is missing.
            assert "RSASSA_PKCS1_V1_5_SHA_256" in rsa.algorithms
            assert "CKM_RSA_PKCS_PSS" in rsa.lacking["RSASSA_PSS_SHA_256"]
            pair, _ = await pair_of(token, KeySpec.RSA_2048, SIGN)
            assert await token.sign(pair, SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256, b"m", is_digest=False)
            with pytest.raises(MechanismMissing, match="CKM_RSA_PKCS_PSS"):
                await token.sign(pair, SigningAlgorithm.RSASSA_PSS_SHA_256, b"m", is_digest=False)
            refused: list[tuple[Kind, str]] = [
                ((KeySpec.ECC_NIST_P384, KeyUsage.KEY_AGREEMENT), "CKM_ECDH1_DERIVE"),
                ((KeySpec.HMAC_384, KeyUsage.GENERATE_VERIFY_MAC), "CKM_SHA384_HMAC"),
                ((KeySpec.ECC_NIST_EDWARDS25519, SIGN), "CKM_EDDSA"),
            ]
            for kind, mechanism in refused:
                assert offers[kind].algorithms == ()
                with pytest.raises(MechanismMissing, match=mechanism):
                    await make(token, *kind)
            await make(token, KeySpec.ECC_NIST_P384, SIGN)
            await make(token, KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)


async def test_keys_are_guarded_and_have_one_role(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """Never to leave the token, never to be changed, of use for its usage alone; and the listing finds no fault."""
    offers = await token.key_offers()
    made = {}
    for kind in kinds():
        if offers[kind].algorithms and kind[0] not in (KeySpec.RSA_3072, KeySpec.RSA_4096):
            object_id = made[kind] = await make(token, *kind)
            check_guards(await token.attributes(object_id), kind, narrow=token_place.kind == "softhsm")
            if kind[0] not in HMAC_BITS:
                check_public_half(token, object_id, kind[1])
    reports = await token.list_objects()
    assert {report.problem for report in reports} == {""}
    for (spec, _), object_id in made.items():
        expected = ["secret"] if spec in HMAC_BITS else ["private", "public"]
        assert sorted(report.kind for report in reports if report.object_id == object_id) == expected
    assert len(made) > 10


def check_guards(shown: Mapping[str, Any], kind: Kind, *, narrow: bool) -> None:
    """The secret or private object has just the attributes of its role."""
    true = {
        "CKA_TOKEN",
        "CKA_PRIVATE",
        "CKA_SENSITIVE",
        "CKA_ALWAYS_SENSITIVE",
        "CKA_NEVER_EXTRACTABLE",
        ROLES[kind[1]],
    }
    roles = {
        f"CKA_{role}" for role in ("DECRYPT", "SIGN", "SIGN_RECOVER", "UNWRAP", "DERIVE", "ENCRYPT", "VERIFY", "WRAP")
    }
    false = ({"CKA_EXTRACTABLE", "CKA_MODIFIABLE", "CKA_COPYABLE"} | roles) - true
    assert {name: shown[name] for name in true} == dict.fromkeys(true, True), kind
    assert {name for name in false if shown.get(name) and not _copied(kind, name)} == set(), kind
    assert {"CKA_EXTRACTABLE", "CKA_MODIFIABLE", "CKA_SIGN", "CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE"} <= set(shown)
    assert "CKA_VALUE" not in shown
    if narrow:
        assert len(shown["CKA_ALLOWED_MECHANISMS"]) in range(8, 8 * 9, 8)


def _copied(kind: Kind, name: str) -> bool:
    """RSA pairs are copies, which the token must be able to make."""
    return name == "CKA_COPYABLE" and kind[0].startswith("RSA")


def check_public_half(token: Pkcs11Token, object_id: bytes, usage: KeyUsage) -> None:
    """It has the other half of the usage, or none for key agreement."""
    login = token._link.require()
    entry = login.objects.known(object_id)
    assert entry is not None
    shown = login.connection.raw.attributes(login.connection.keeper.handle, entry.public, PUBLIC_ROLES)
    granted = {kind for kind, value in shown.items() if value == b"\1"}
    theirs: Mapping[KeyUsage, set[Attribute]] = {
        KeyUsage.SIGN_VERIFY: {A.VERIFY},
        KeyUsage.ENCRYPT_DECRYPT: {A.ENCRYPT},
    }
    assert granted == theirs.get(usage, set())


# --- Objects that are not as they should be ---------------------------------------------------------


def create_pair(token: Pkcs11Token, kind: Kind, *, private: Attributes, public: Attributes) -> bytes:
    """A pair of token objects with attributes of the test's choice, else as the adapter makes it."""
    connection = token._link.require().connection
    object_id, pair = new_id(), KEY_PAIRS[kind]
    names: Attributes = {A.ID: object_id, A.LABEL: b"kmsd", A.TOKEN: True}
    theirs, mine = session_pair(pair)
    with connection.module.catalogue(5):
        connection.run(
            lambda session: connection.raw.generate_pair(
                session.handle, pair.generation, theirs | names | public, mine | names | private
            )
        )
    return object_id


async def problems_of(token: Pkcs11Token, object_id: bytes) -> dict[str, str]:
    """What the listing says of the objects of an id, by kind."""
    return {found.kind: found.problem for found in await token.list_objects() if found.object_id == object_id}


P256_SIGN = (KeySpec.ECC_NIST_P256, SIGN)
ONCE: Attributes = {A.COPYABLE: False}


async def test_the_audit_key_of_an_earlier_release(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """Its list of mechanisms has CKM_ECDSA alone. It has no fault, and signs digests."""
    narrow: Attributes = {A.ALLOWED_MECHANISMS: (int(Mechanism.ECDSA),)} if token_place.kind == "softhsm" else {}
    once: Attributes = ONCE if token_place.kind == "softhsm" else {}
    object_id = create_pair(token, P256_SIGN, private=narrow | once, public=once)
    assert await problems_of(token, object_id) == {"private": "", "public": ""}
    assert await token.sign(object_id, SigningAlgorithm.ECDSA_SHA_256, bytes(32), is_digest=True)
    assert "test_keys" not in token.counters.calls
    assert await token.sign(object_id, SigningAlgorithm.ECDSA_SHA_256, b"message", is_digest=False)


async def test_damaged_pairs_are_reported(softhsm_place: TokenPlace) -> None:
    """A second role, a foreign mechanism, changeable attributes, a curve and a length of no spec."""
    async with softhsm_place.open() as token:

        def damaged(private: Attributes, public: Attributes, kind: Kind = P256_SIGN) -> bytes:
            return create_pair(token, kind, private=ONCE | private, public=ONCE | public)

        both = damaged({A.DERIVE: True}, {})
        assert await problems_of(token, both) == {"private": "its roles are those of no template", "public": ""}
        wide = damaged({A.ALLOWED_MECHANISMS: (int(Mechanism.ECDSA), int(Mechanism.ECDH1_DERIVE))}, {})
        assert "CKA_ALLOWED_MECHANISMS is not" in (await problems_of(token, wide))["private"]
        loose = damaged({A.MODIFIABLE: True}, {})
        assert "CKA_MODIFIABLE is not False" in (await problems_of(token, loose))["private"]
        curve = damaged({}, {A.EC_PARAMS: bytes.fromhex("06052b81040021")})
        assert all("CKA_EC_PARAMS is not" in problem for problem in (await problems_of(token, curve)).values())
        short = damaged({}, {A.MODULUS_BITS: 1024}, (KeySpec.RSA_2048, SIGN))
        assert all("CKA_MODULUS_BITS is not" in problem for problem in (await problems_of(token, short)).values())


async def test_damaged_mac_keys_are_reported(softhsm_place: TokenPlace) -> None:
    """A length of no spec, the mechanism of another spec, a readable value."""
    async with softhsm_place.open() as token:
        connection = token._link.require().connection
        role = MAC_KEYS[KeySpec.HMAC_256]
        changed: list[tuple[Attributes, str]] = [
            ({A.VALUE_LEN: 20}, "CKA_VALUE_LEN is not"),
            ({A.ALLOWED_MECHANISMS: (int(Mechanism.SHA512_HMAC),)}, "CKA_ALLOWED_MECHANISMS is not"),
            ({A.SENSITIVE: False}, "CKA_SENSITIVE is not True"),
            ({A.VERIFY: True}, "its roles are those of no template"),
        ]
        for changes, problem in changed:
            object_id = new_id()
            names: Attributes = {A.VALUE_LEN: 32, A.ID: object_id, A.LABEL: b"kmsd"}
            template = {int(kind): value for kind, value in role.template.items()} | names | changes
            generate = int(Mechanism.GENERIC_SECRET_KEY_GEN)
            connection.raw.generate(connection.keeper.handle, generate, template)
            assert problem in (await problems_of(token, object_id))["secret"]


@pytest.mark.parametrize("kind", [P256_SIGN, (KeySpec.RSA_2048, SIGN)], ids=" ".join)
async def test_a_pair_that_falls_short_is_destroyed(shim_place: TokenPlace, shim: Shim, kind: Kind) -> None:
    """The token shows EXTRACTABLE on what it made: TokenError, and nothing is left; nor of a MAC key."""
    async with shim_place.open() as token:
        await token.key_offers()
        shim.lie()
        with pytest.raises(TokenError, match="CKA_EXTRACTABLE is not False"):
            await token.generate_key_pair(new_id(), *kind)
        with pytest.raises(TokenError, match="CKA_EXTRACTABLE is not False"):
            await token.generate_mac_key(new_id(), KeySpec.HMAC_256)
        shim.reset()
        assert await token.list_objects() == []


async def test_object_ids_are_sixteen_bytes(token: Pkcs11Token) -> None:
    """Anything else is refused before it comes near a template."""
    with pytest.raises(ValueError, match="16 bytes"):
        await token.generate_key_pair(bytes(15), *P256_SIGN)
    with pytest.raises(ValueError, match="16 bytes"):
        await token.generate_mac_key(bytes(17), KeySpec.HMAC_256)


async def test_keys_outlive_the_login(token_place: TokenPlace) -> None:
    """Public keys and MACs are the same after the token was closed and opened again."""
    async with token_place.open() as token:
        pair, public = await pair_of(token, KeySpec.ECC_NIST_P384, SIGN)
        secret = await make(token, KeySpec.HMAC_512, KeyUsage.GENERATE_VERIFY_MAC)
    async with token_place.open() as token:
        assert await token.public_key(pair) == public
        found = await token.attributes(secret)
        assert (found["CKA_VALUE_LEN"], found["CKA_CLASS"]) == (64, int(ObjectClass.SECRET_KEY))
        assert found["CKA_KEY_TYPE"] == int(KeyType.GENERIC_SECRET)
        assert CURVES[KeySpec.ECC_NIST_P384] == (await token.attributes(pair))["CKA_EC_PARAMS"]
