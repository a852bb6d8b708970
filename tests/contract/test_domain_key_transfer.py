"""Transfer of domain keys between two tokens, and with software in the place of either."""

from __future__ import annotations

import secrets
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from msgspec.structs import replace
from pkcs11 import Attribute

from kmsd.adapters.pkcs11.ceremony import create_domain_keys, prove_domain_key
from kmsd.adapters.pkcs11.domain_key_transfer import receiver, send_domain_keys
from kmsd.custody.domain_key_transfer import Copies, SentDomainKey, Transfer, checked_text, new_transfer
from kmsd.ports import PinRefused, TokenError, UnwrapFailed
from tests.support.shim import Function, Shim
from tests.support.software_transfer import mac, opened, sealed, sent, software_key, transfer_of
from tests.support.token_domain_keys import as_user, is_on_disk, make_domain_key
from tests.support.tokens import TokenPlace, another_softhsm


async def test_between_two_tokens(softhsm_place: TokenPlace) -> None:
    """Both tokens hold the same domain keys, locked and proven; what one wraps the other opens."""
    there = another_softhsm(softhsm_place, "there")
    with receiver(there.settings(), there.so_pin) as receiving:
        transfer = send_domain_keys(softhsm_place.settings(), softhsm_place.so_pin, 3, [receiving.public_key])
        accepted = receiving.accept(transfer)
    assert [(one.domain_key_id, one.binding_key) for one in accepted] == [
        (one.domain_key_id, one.binding_key) for one in transfer.domain_keys
    ]
    for place in (softhsm_place, there):
        for one in accepted:
            prove_domain_key(place.settings(), one.domain_key_id, one.binding_key)
        async with place.open() as token:
            assert {(one.object_id, one.kind, one.problem) for one in await token.list_objects()} == {
                (one.domain_key_id, "secret", "") for one in accepted
            }
            shown = await token.attributes(accepted[0].domain_key_id)
        assert shown["CKA_LOCAL"] is (place is softhsm_place)
    with as_user(softhsm_place) as here:
        macs = [here.binding_mac(here.find(one.domain_key_id), one.binding_key, b"text") for one in accepted]
    with as_user(there) as here:
        assert [here.binding_mac(here.find(one.domain_key_id), one.binding_key, b"text") for one in accepted] == macs


def test_for_several_recipients(softhsm_place: TokenPlace) -> None:
    """Each opens the same domain keys, and nothing else; no file of the sending token has a value in clear."""
    recipients = [software_key() for _ in range(2)]
    transfer = send_domain_keys(
        softhsm_place.settings(), softhsm_place.so_pin, 2, [public_key for _, public_key in recipients]
    )
    values = [
        [opened(private, wrapped) for _, wrapped in transfer.wrapped_for(public_key)]
        for private, public_key in recipients
    ]
    assert values[0] == values[1]
    assert len(set(values[0])) == 2
    for value, one in zip(values[0], transfer.domain_keys, strict=True):
        assert len(value) == 32
        assert mac(aes_key_unwrap(value, one.binding_key), checked_text(one.domain_key_id)) == one.check
        assert not is_on_disk(softhsm_place, value)
    assert transfer.wrapped_for(software_key()[1]) == []


def test_nothing_in_clear_on_the_receiving_disk(softhsm_place: TokenPlace) -> None:
    """No file of the token has a value of the transfer, not even on the way."""
    values = [secrets.token_bytes(32) for _ in range(2)]
    with receiver(softhsm_place.settings(), softhsm_place.so_pin) as receiving:
        accepted = receiving.accept(transfer_of(receiving.public_key, values))
        assert not any(is_on_disk(softhsm_place, value) for value in values)
    assert len(accepted) == 2
    assert not any(is_on_disk(softhsm_place, value) for value in values)


def exchanged(transfer: Transfer) -> Transfer:
    """The copies of two domain keys in the other order."""
    (copies,) = transfer.copies
    return replace(transfer, copies=(replace(copies, wrapped=copies.wrapped[::-1]),))


def tampered(transfer: Transfer, at: int) -> Transfer:
    """One byte of the second domain key changed."""
    (copies,) = transfer.copies
    first, second = copies.wrapped
    changed = bytearray(second)
    changed[at] ^= 1
    return replace(transfer, copies=(replace(copies, wrapped=(first, bytes(changed))),))


def shortened(transfer: Transfer) -> Transfer:
    """The second domain key without its last byte."""
    (copies,) = transfer.copies
    return replace(transfer, copies=(replace(copies, wrapped=(copies.wrapped[0], copies.wrapped[1][:-1])),))


def foreign(transfer: Transfer) -> Transfer:
    """The second domain key's binding key is another one."""
    first, second = transfer.domain_keys
    other = sent(secrets.token_bytes(32), second.domain_key_id)
    return replace(transfer, domain_keys=(first, replace(other, domain_key_id=second.domain_key_id)))


@pytest.mark.parametrize(
    "change",
    [exchanged, lambda one: tampered(one, 10), lambda one: tampered(one, 400), shortened, foreign],
    ids=["exchanged", "AES key", "domain key", "shortened", "binding key"],
)
def test_a_transfer_that_is_not_right(softhsm_place: TokenPlace, change: object) -> None:
    """Is refused as a whole: the token holds nothing afterwards."""
    assert callable(change)
    with receiver(softhsm_place.settings(), softhsm_place.so_pin) as receiving:
        transfer = transfer_of(receiving.public_key, [secrets.token_bytes(32) for _ in range(2)])
        with pytest.raises(TokenError):
            receiving.accept(change(transfer))
    with as_user(softhsm_place) as here:
        assert here.raw.find(here.session, {}) == []


@pytest.mark.parametrize("length", [16, 24, 31])
def test_a_shorter_domain_key(softhsm_place: TokenPlace, length: int) -> None:
    """Is refused, and not locked in."""
    with receiver(softhsm_place.settings(), softhsm_place.so_pin) as receiving:
        value = secrets.token_bytes(length)
        key_id, wrapped = secrets.token_bytes(16), sealed(receiving.public_key, value)
        copies = Copies(sha256(receiving.public_key).digest(), (wrapped,))
        binding_key = SentDomainKey(key_id, bytes(32), bytes(16))
        with pytest.raises(TokenError):
            receiving.accept(new_transfer("software", [binding_key], [copies]))
    with as_user(softhsm_place) as here:
        assert here.raw.find(here.session, {}) == []


def test_an_id_that_the_token_has(softhsm_place: TokenPlace) -> None:
    """Is refused, and the object that has it is untouched."""
    made = make_domain_key(softhsm_place)
    with receiver(softhsm_place.settings(), softhsm_place.so_pin) as receiving:
        value = secrets.token_bytes(32)
        copies = Copies(sha256(receiving.public_key).digest(), (sealed(receiving.public_key, value),))
        with pytest.raises(TokenError, match="has an object with the id"):
            receiving.accept(new_transfer("software", [sent(value, made.domain_key_id)], [copies]))
    prove_domain_key(softhsm_place.settings(), made.domain_key_id, made.binding_key)


def test_for_another_token(softhsm_place: TokenPlace) -> None:
    """Cannot be unwrapped: the private key was another session's."""
    with receiver(softhsm_place.settings(), softhsm_place.so_pin) as receiving:
        before = receiving.public_key
    with receiver(softhsm_place.settings(), softhsm_place.so_pin) as receiving:
        transfer = transfer_of(before, [secrets.token_bytes(32)])
        stolen = replace(transfer.copies[0], recipient=sha256(receiving.public_key).digest())
        with pytest.raises(UnwrapFailed):
            receiving.accept(replace(transfer, copies=(stolen,)))


def test_pins_are_offered_once(shim_place: TokenPlace, shim: Shim, tmp_path: Path) -> None:
    """Of the security officer and of the user, by both sides."""
    _, public_key = software_key()
    shim.reset()
    with pytest.raises(PinRefused, match="security officer"):
        send_domain_keys(shim_place.settings(), b"wrong-pin", 1, [public_key])
    assert shim.calls(Function.LOGIN) == 1
    with pytest.raises(PinRefused, match="security officer"), receiver(shim_place.settings(), b"wrong-pin"):
        raise AssertionError
    assert shim.calls(Function.LOGIN) == 2
    settings = shim_place.settings(pin=b"wrong-user-pin", refused_pin=tmp_path / "refused")
    with receiver(settings, shim_place.so_pin) as receiving, pytest.raises(PinRefused, match="CKR_PIN_INCORRECT"):
        receiving.accept(transfer_of(receiving.public_key, [secrets.token_bytes(32)]))
    with pytest.raises(PinRefused, match="refused this PIN"):
        send_domain_keys(settings, shim_place.so_pin, 1, [public_key])
    assert shim.calls(Function.LOGIN) == 4


def test_a_locked_domain_key_cannot_be_sent(softhsm_place: TokenPlace) -> None:
    """Neither the user nor the security officer can wrap it for a recipient: only new ones are transferred."""
    create_domain_keys(softhsm_place.settings(), softhsm_place.so_pin, 1)
    with as_user(softhsm_place) as here:
        (handle,) = here.raw.find(here.session, {Attribute.TRUSTED: True})
        shown = here.raw.attributes(here.session, handle, (Attribute.EXTRACTABLE, Attribute.VALUE))
        assert shown == {Attribute.EXTRACTABLE: b"\0"}
