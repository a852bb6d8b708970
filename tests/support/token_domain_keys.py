"""Domain keys in tokens of tests. No token of the module may be open in the process meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pkcs11 import Attribute, Mechanism

from kmsd.adapters.pkcs11 import ceremony
from kmsd.adapters.pkcs11.ceremony import Ceremony, NewDomainKey
from kmsd.adapters.pkcs11.domain_key_profile import draft_template, lasting_template
from tests.support.tokens import TokenPlace

UNKNOWN_TO_NSS = (Attribute.UNWRAP_TEMPLATE, Attribute.WRAP_TEMPLATE, Attribute.ALLOWED_MECHANISMS)
"""NSS 3.87 makes no token object with them."""


def make_domain_key(place: TokenPlace) -> NewDomainKey:
    """A domain key and its binding key, by a ceremony in a SoftHSM2 token."""
    return make_domain_keys(place, 1)[0]


def make_domain_keys(place: TokenPlace, count: int) -> tuple[NewDomainKey, ...]:
    """So many of them."""
    return ceremony.create_domain_keys(place.settings(), place.so_pin, count).domain_keys


@contextmanager
def as_user(place: TokenPlace) -> Iterator[Ceremony]:
    """A session of the user, with the module's own calls."""
    with ceremony.ceremony(place.settings()) as here:
        here.login_user()
        yield here


def make_unenforced(here: Ceremony, domain_key_id: bytes, label: str = "kmsd") -> int:
    """The handle of an object in NSS with all attributes of a domain key that it takes: it enforces none."""
    template = {**draft_template(), **lasting_template(domain_key_id, label)}
    for kind in UNKNOWN_TO_NSS:
        del template[kind]
    return here.raw.generate(here.session, int(Mechanism.AES_KEY_GEN), template)


def is_on_disk(place: TokenPlace, value: bytes) -> bool:
    """True if a file of a SoftHSM2 token has the value."""
    assert place.objects is not None
    return any(value in path.read_bytes() for path in place.objects.rglob("*") if path.is_file())
