"""Domain keys: the ceremony that makes them, the proof that the token enforces them, and their binding keys."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.binding_key import CMAC, make_binding_key, open_binding_key
from kmsd.adapters.pkcs11.ceremony import Ceremony, ceremony, create_domain_keys, prove_domain_key
from kmsd.adapters.pkcs11.cryptoki_types import Value
from kmsd.adapters.pkcs11.domain_key_profile import draft_template, lasting_template
from kmsd.adapters.pkcs11.domain_key_proof import prove_enforcement
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.domain.material import Algorithm
from kmsd.ports import CustodyNotEnforced, PinRefused, TokenError
from tests.support.shim import Function, Shim
from tests.support.softhsm_files import token_object
from tests.support.token_domain_keys import as_user, is_on_disk, make_domain_key, make_domain_keys, make_unenforced
from tests.support.tokens import TokenPlace, available, nss

A = Attribute
ID = bytes(range(16))


@pytest.fixture
def nss_place(tmp_path: Path) -> Iterator[TokenPlace]:
    """A fresh NSS key database."""
    if "nss" not in available():
        pytest.skip("NSS is not installed")
    with nss(tmp_path) as place:
        yield place


async def test_ceremony(softhsm_place: TokenPlace) -> None:
    """Makes as many domain keys as asked for, which the token reports as well-formed beside other objects."""
    made = make_domain_keys(softhsm_place, 3)
    async with softhsm_place.open() as token:
        await token.generate_key(bytes(16), Algorithm.AES_256_GCM)
        reports = {one.object_id: one for one in await token.list_objects()}
        assert reports.keys() == {bytes(16), *(one.domain_key_id for one in made)}
        assert {(one.kind, one.problem, one.imported) for one in reports.values()} == {("secret", "", False)}
        shown = await token.attributes(made[0].domain_key_id)
    wanted = ("TRUSTED", "WRAP_WITH_TRUSTED", "SENSITIVE", "PRIVATE", "EXTRACTABLE", "MODIFIABLE", "WRAP", "DECRYPT")
    assert [shown[f"CKA_{name}"] for name in wanted] == [True, True, True, True, False, False, True, False]


async def test_the_daemon_works_beside_it(softhsm_place: TokenPlace) -> None:
    """A ceremony ends all of its login: the process opens the token afterwards, and another ceremony follows."""
    make_domain_key(softhsm_place)
    async with softhsm_place.open() as token:
        await token.generate_key(ID, Algorithm.AES_256_GCM)
    make_domain_key(softhsm_place)
    async with softhsm_place.open() as token:
        assert len(await token.list_objects()) == 3


def objects(here: Ceremony) -> list[int]:
    """All objects that the session sees."""
    return sorted(here.raw.find(here.session, {}))


def known(value: bytes, **changes: Any) -> dict[int, Value]:
    """The template of a domain key's session object with this value."""
    template: dict[int, Value] = {A.CLASS: int(ObjectClass.SECRET_KEY), A.KEY_TYPE: int(KeyType.AES), A.VALUE: value}
    template |= draft_template()
    del template[A.VALUE_LEN]
    return template | {A[name]: given for name, given in changes.items()}


def test_nothing_in_clear_on_disk(softhsm_place: TokenPlace) -> None:
    """At no step of the ceremony has a file of the token the value; a public token object's is found."""
    value = secrets.token_bytes(32)
    with ceremony(softhsm_place.settings()) as here:
        here.login_security_officer(softhsm_place.so_pin)
        draft = here.raw.create(here.session, known(value))
        assert not is_on_disk(softhsm_place, value)
        here.lock_in({ID: draft}, here.with_binding_key)
        assert not is_on_disk(softhsm_place, value)
    assert not is_on_disk(softhsm_place, value)
    with ceremony(softhsm_place.settings()) as here:
        here.login_security_officer(softhsm_place.so_pin)
        here.raw.create(here.session, known(value, TOKEN=True))
        assert is_on_disk(softhsm_place, value)


def test_wrong_pin_of_the_security_officer(shim_place: TokenPlace, shim: Shim) -> None:
    """Is offered once, and nothing is made."""
    for pin in (b"wrong-pin", b""):
        shim.reset()
        with pytest.raises(PinRefused, match=r"security officer's PIN .* not offered again"):
            create_domain_keys(shim_place.settings(), pin, 1)
        assert shim.calls(Function.LOGIN) == 1
    with as_user(shim_place) as here:
        assert objects(here) == []


def test_wrong_pin_of_the_user(shim_place: TokenPlace, shim: Shim, tmp_path: Path) -> None:
    """Is offered once, recorded, and never again; nothing is made."""
    settings = shim_place.settings(pin=b"wrong-pin", refused_pin=tmp_path / "refused")
    with pytest.raises(PinRefused, match="CKR_PIN_INCORRECT"):
        create_domain_keys(settings, shim_place.so_pin, 1)
    assert shim.calls(Function.LOGIN) == 2
    with pytest.raises(PinRefused, match="refused this PIN"):
        create_domain_keys(settings, shim_place.so_pin, 1)
    assert shim.calls(Function.LOGIN) == 2
    create_domain_keys(shim_place.settings(refused_pin=tmp_path / "refused"), shim_place.so_pin, 1)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("function", [Function.COPY_OBJECT, Function.GET_ATTRIBUTE_VALUE, Function.WRAP_KEY])
def test_a_ceremony_that_fails_leaves_nothing(shim_place: TokenPlace, shim: Shim, function: Function) -> None:
    """Also if the call did what it was asked before it failed."""
    shim.fail(function, Ckr.DEVICE_MEMORY, times=1)
    with pytest.raises(TokenError, match="DEVICE_MEMORY"):
        create_domain_keys(shim_place.settings(), shim_place.so_pin, 2)
    shim.reset()
    with as_user(shim_place) as here:
        assert objects(here) == []


def test_the_proof_leaves_nothing(softhsm_place: TokenPlace) -> None:
    """No object is more than before, and an object that another session made is untouched."""
    made = make_domain_key(softhsm_place)
    prove_domain_key(softhsm_place.settings(), made.domain_key_id, made.binding_key)
    with as_user(softhsm_place) as here:
        before = objects(here)
        prove_enforcement(here.raw, here.session, here.find(made.domain_key_id))
        assert objects(here) == before
        assert len(before) == 1


@contextmanager
def lacking(
    place: TokenPlace, draft: Mapping[Attribute, Value], lasting: Mapping[Attribute, Value]
) -> Iterator[tuple[Ceremony, int]]:
    """A domain key whose ceremony was held with other attributes."""
    with ceremony(place.settings()) as here:
        here.login_security_officer(place.so_pin)
        handle = here.raw.generate(here.session, int(Mechanism.AES_KEY_GEN), {**draft_template(), **draft})
        here.raw.administration.logout(here.session)
        here.login_user()
        template = {**lasting_template(ID, "kmsd"), **lasting}
        # CKA_MODIFIABLE last.
        template[A.MODIFIABLE] = template.pop(A.MODIFIABLE)
        yield here, here.raw.copy(here.session, handle, template)


@pytest.mark.parametrize(
    ("draft", "lasting", "names"),
    [
        ({A.UNWRAP_TEMPLATE: {}}, {}, ["unwrapped without CKA_SENSITIVE", "unwrapped as a readable key"]),
        ({A.UNWRAP_TEMPLATE: {A.SENSITIVE: True}}, {}, ["unwrapped without CKA_WRAP_WITH_TRUSTED"]),
        (
            {A.UNWRAP_TEMPLATE: {A.SENSITIVE: True, A.WRAP_WITH_TRUSTED: True, A.PRIVATE: True}},
            {},
            ["unwrapped as a token object"],
        ),
        ({A.DECRYPT: True}, {}, ["CKA_DECRYPT is not False"]),
        ({A.ALLOWED_MECHANISMS: (int(Mechanism.AES_KEY_WRAP), int(Mechanism.AES_GCM))}, {}, ["ALLOWED_MECHANISMS"]),
        ({A.WRAP_WITH_TRUSTED: False}, {}, ["CKA_WRAP_WITH_TRUSTED is not True"]),
        ({}, {A.EXTRACTABLE: True}, ["CKA_EXTRACTABLE is not False", "wrapped under itself"]),
        ({}, {A.MODIFIABLE: True}, ["copy of the domain key can be given other roles", "can be modified"]),
        ({A.TRUSTED: False}, {}, ["CKA_TRUSTED is not True", "cannot be wrapped"]),
    ],
)
def test_a_domain_key_that_lacks_something(
    softhsm_place: TokenPlace, draft: dict[Attribute, Value], lasting: dict[Attribute, Value], names: list[str]
) -> None:
    """The proof names what the token would let happen, and leaves nothing, not even a token object."""
    with lacking(softhsm_place, draft, lasting) as (here, domain_key):
        before = objects(here)
        with pytest.raises(CustodyNotEnforced) as caught:
            prove_enforcement(here.raw, here.session, domain_key)
        assert [name for name in names if name not in str(caught.value)] == [], caught.value
        assert objects(here) == before


def test_nss_is_refused(nss_place: TokenPlace) -> None:
    """It takes and shows the attributes, and enforces none: the proof says so, and leaves nothing."""
    with as_user(nss_place) as here:
        domain_key = make_unenforced(here, ID)
        before = objects(here)
        with pytest.raises(CustodyNotEnforced) as caught:
            prove_enforcement(here.raw, here.session, domain_key)
        assert objects(here) == before
    for name in (
        "wrapped under an untrusted AES key",
        "unwrapped as a readable key",
        "unwrapped in pieces",
        "CKM_EXTRACT_KEY_FROM_KEY copies a piece",
        "with CKA_SENSITIVE twice",
        "generates a key with CKA_TRUSTED",
    ):
        assert name in str(caught.value)


def test_nss_holds_no_ceremony(nss_place: TokenPlace) -> None:
    """It has no security officer."""
    with pytest.raises(TokenError, match="no security officer"):
        create_domain_keys(nss_place.settings(), b"12345678", 1)


def test_a_proof_that_cannot_be_asked(shim_place: TokenPlace, shim: Shim) -> None:
    """An error that is no answer of the token is no refusal: it is raised, whichever call fails with it."""
    made = make_domain_key(shim_place)
    with as_user(shim_place) as here:
        domain_key = here.find(made.domain_key_id)
        for function in (Function.WRAP_KEY, Function.UNWRAP_KEY, Function.COPY_OBJECT, Function.ENCRYPT_INIT):
            shim.fail(function, Ckr.DEVICE_ERROR)
            with pytest.raises(CkrError, match="CKR_DEVICE_ERROR"):
                prove_enforcement(here.raw, here.session, domain_key)
            shim.reset()
        prove_enforcement(here.raw, here.session, domain_key)


def test_binding_key(softhsm_place: TokenPlace) -> None:
    """Opens to the same key each time, as a session object that computes CMACs alone; nothing of it is left."""
    first, other = make_domain_keys(softhsm_place, 2)
    assert len(first.binding_key) == 32
    assert first.binding_key != other.binding_key
    with as_user(softhsm_place) as here:
        raw, session, domain_key = here.raw, here.session, here.find(first.domain_key_id)
        before = objects(here)
        keys = [open_binding_key(raw, session, domain_key, first.binding_key) for _ in range(2)]
        macs = {raw.sign(session, key, CMAC, b"text") for key in keys}
        assert len(macs) == 1
        fresh = open_binding_key(raw, session, domain_key, make_binding_key(raw, session, domain_key))
        assert raw.sign(session, fresh, CMAC, b"text") not in macs
        with pytest.raises(CkrError, match="NOT_PERMITTED"):
            raw.administration.encrypt(session, fresh, int(Mechanism.AES_ECB), bytes(16))
        for key in (*keys, fresh):
            raw.destroy(session, key)
        assert objects(here) == before
        with pytest.raises(CkrError):
            open_binding_key(raw, session, here.find(other.domain_key_id), first.binding_key)


def test_binding_key_of_another_length(softhsm_place: TokenPlace) -> None:
    """Is refused before the token is asked: wrapped AES-256 material cannot take its place."""
    made = make_domain_key(softhsm_place)
    for length in (0, 24, 31, 33, 40):
        with pytest.raises(TokenError, match="has 32 bytes"):
            prove_domain_key(softhsm_place.settings(), made.domain_key_id, bytes(length))
    with pytest.raises(TokenError, match="GENERAL_ERROR"):
        prove_domain_key(softhsm_place.settings(), made.domain_key_id, bytes(32))
    with pytest.raises(TokenError, match="no objects with the id"):
        prove_domain_key(softhsm_place.settings(), ID, made.binding_key)


async def test_a_ceremony_cannot_lose_the_token(softhsm_place: TokenPlace) -> None:
    """Each login of SoftHSM2 rewrites the file that opens all objects. The ceremony's are covered by its copy, too."""
    make_domain_key(softhsm_place)
    token_object(softhsm_place).write_bytes(b"")
    make_domain_key(softhsm_place)
    async with softhsm_place.open() as token:
        assert len(await token.list_objects()) == 2
