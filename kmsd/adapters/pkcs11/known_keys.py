"""Test keys with published values, as session objects."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11.import_self_tests import wrapped_in_software, wrapping_key_of_test
from kmsd.adapters.pkcs11.key_import import import_session
from kmsd.adapters.pkcs11.return_codes import CkrError
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.adapters.pkcs11.wrap_mechanisms import TRANSPORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.session_pool import SessionPool

log = structlog.get_logger(__name__)


class KnownKeys:
    """Keys with published values in one session."""

    def __init__(self, session: ImportSession) -> None:
        self._session = session
        self._wrapping_key: tuple[int, RSAPublicKey] | None = None

    def create(self, value: bytes, *roles: Attribute) -> int:
        """Return the handle of an AES key with this value. Raises `CkrError` if the token takes it in neither way.

        HSMs refuse keys in the clear (Thales Luna: "do not allow secret keys to be imported in plaintext"). Such a
        token unwraps the value, which is encrypted in software under an RSA pair of the token.
        """
        template = session_key(KeyType.AES, len(value), roles)
        # "CKA_VALUE_LEN … must not be specified when creating an object by C_CreateObject" (PKCS#11 v2.40, table 8).
        del template[Attribute.VALUE_LEN]
        session = self._session
        try:
            return session.kept(session.raw.create(session.session.handle, {**template, Attribute.VALUE: value}))
        except CkrError as error:
            log.info("token_refuses_known_keys", reason=str(error))
            handle = self._unwrapped(value, template)
            if handle is None:
                raise
            return handle

    def _unwrapped(self, value: bytes, template: dict[int, Value]) -> int | None:
        session = self._session
        key, public = self._wrapping_key = self._wrapping_key or wrapping_key_of_test(session)
        blob = wrapped_in_software(value, TRANSPORT, public)
        return session.unwrap(session.wrapped_value(key, TRANSPORT, blob), template)


@contextmanager
def known_keys(connection: SessionPool) -> Iterator[KnownKeys]:
    """Open a session for test keys; on exit destroy them and close it."""
    with import_session(connection, None) as session:
        yield KnownKeys(session)
