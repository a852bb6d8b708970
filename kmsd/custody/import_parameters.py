"""Wrapping keys and import tokens: what GetParametersForImport hands out, how long it is good, and when it ends.

An import token is a sealed statement: which wrapping key, for which key, by which algorithm, until when. Nobody keeps
it; what is kept is the wrapping key, and it ends 24 hours after it was given out, or with the twentieth failed import.
RSA keys take long to make, so kinds that are asked for are kept in stock (`kmsd.jobs.wrapping_keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from kmsd.custody import token_objects
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain.key_import import MAX_FAILURES, MAX_OUTSTANDING, PARAMETERS_LIFE, WrappingAlgorithm, WrappingKey
from kmsd.domain.material import MaterialStatus, TokenName
from kmsd.errors import (
    ExpiredImportTokenException,
    InvalidImportTokenException,
    LimitExceededException,
    UnsupportedOperationException,
)
from kmsd.ports import NotAuthentic, Reader, Store, StoreConflict, StoreError, TokenError, Tokens, Transaction

"""The daemon's tokens; the main one is always there."""
_PURPOSE = "import-token"
_VERSION = 1
_ALGORITHMS: Mapping[int, WrappingAlgorithm] = {
    1: WrappingAlgorithm.RSAES_PKCS1_V1_5,
    2: WrappingAlgorithm.RSAES_OAEP_SHA_1,
    3: WrappingAlgorithm.RSAES_OAEP_SHA_256,
    4: WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1,
    5: WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256,
}
"""Numbers in import tokens: append only."""
_NUMBERS = {algorithm: number for number, algorithm in _ALGORITHMS.items()}
_MICROSECOND = 1_000_000


class ImportParameters(msgspec.Struct, frozen=True):
    """What GetParametersForImport hands out."""

    public_key: bytes
    import_token: bytes
    expires_at: datetime


class ImportTokenPayload(msgspec.Struct, frozen=True):
    """What an import token says."""

    wrapping_key: bytes
    key_id: str
    algorithm: WrappingAlgorithm
    expires_at: datetime


async def offered(tokens: Tokens) -> Mapping[WrappingAlgorithm, TokenName]:
    """Where each algorithm is unwrapped: in the main token if it can, else in the import token, which passes it on."""
    main, helper = await tokens.main.import_capabilities(), tokens.imports
    passed_on = (await helper.import_capabilities()).passes_on if helper is not None and main.receives else frozenset()
    return {
        algorithm: TokenName.MAIN if algorithm in main.imports else TokenName.IMPORT
        for algorithm in WrappingAlgorithm
        if algorithm in main.imports or algorithm in passed_on
    }


async def check_algorithm(algorithm: str, tokens: Tokens, refused: frozenset[WrappingAlgorithm]) -> WrappingAlgorithm:
    """The algorithm of this name. Raises UnsupportedOperationException where it is unknown, refused or lacking."""
    if algorithm not in _NUMBERS:
        raise UnsupportedOperationException(f"The wrapping algorithm {algorithm} is not supported.")
    known = WrappingAlgorithm(algorithm)
    if known in refused:
        raise UnsupportedOperationException(f"The configuration refuses the wrapping algorithm {algorithm}.")
    if known not in await offered(tokens):
        raise UnsupportedOperationException(f"The token does not offer what the wrapping algorithm {algorithm} needs.")
    return known


# --- giving out -------------------------------------------------------------------------------------


async def issue(
    store: Store,
    tokens: Tokens,
    sealer: ServiceSealer,
    *,
    key_id: str,
    algorithm: WrappingAlgorithm,
    bits: int,
    now: datetime,
) -> ImportParameters:
    """A wrapping key of this length and its import token, for one key, from `now` on."""
    # To the second, as the API tells it: what is said there must hold to the microsecond.
    expires_at = (now + PARAMETERS_LIFE).replace(microsecond=0)
    name = (await offered(tokens))[algorithm]
    given = await _from_pool(store, name, key_id=key_id, bits=bits, now=now, expires_at=expires_at)
    if given is None:
        given = await create_wrapping_key(store, tokens, name, bits, now, key_id=key_id, expires_at=expires_at)
    content = (
        bytes((_VERSION, _NUMBERS[algorithm]))
        + given.object_id
        + UUID(key_id).bytes
        + (int(expires_at.timestamp()) * _MICROSECOND).to_bytes(8, "big")
    )
    return ImportParameters(given.public_key, await sealer.encrypt(_PURPOSE, "", content), expires_at)


async def _from_pool(
    store: Store, name: TokenName, *, key_id: str, bits: int, now: datetime, expires_at: datetime
) -> WrappingKey | None:
    """The oldest of the kind, given out. Raises LimitExceededException for a key that has too many already."""
    async with store.write() as transaction:
        known = await transaction.wrapping_keys()
        good = [key for key in known if key.key_id == key_id and key.expires_at is not None and now < key.expires_at]
        if len(good) >= MAX_OUTSTANDING:
            raise LimitExceededException(f"The key has {MAX_OUTSTANDING} import tokens, which is the limit.")
        for key in known:
            if key.key_id is None and (key.token, key.bits) == (name, bits):
                await transaction.assign_wrapping_key(key.object_id, key_id, expires_at)
                return key
    return None


async def create_wrapping_key(
    store: Store,
    tokens: Tokens,
    name: TokenName,
    bits: int,
    now: datetime,
    *,
    key_id: str | None = None,
    expires_at: datetime | None = None,
) -> WrappingKey:
    """A new wrapping key: in stock, or given out at once."""
    token = tokens[name]
    object_id = await token_objects.record_intent(store, f"import:RSA_{bits}", now, token=name)
    try:
        public_key = await token.generate_wrapping_key(object_id, bits)
        made = WrappingKey(object_id, name, bits, public_key, now, key_id, expires_at)
        async with store.write() as transaction:
            await token_objects.mark_ready(transaction, object_id)
            await transaction.insert_wrapping_key(made)
    except (StoreError, TokenError):
        # The first error is the one to tell; an intent that cannot be taken back now is settled by reconcile.
        with suppress(StoreError, TokenError):
            await token_objects.roll_back(store, token, object_id)
        raise
    return made


# --- taking back ------------------------------------------------------------------------------------


async def open_token(sealer: ServiceSealer, import_token: bytes, key_id: str, now: datetime) -> ImportTokenPayload:
    """What an import token says. Raises InvalidImportTokenException, ExpiredImportTokenException."""
    try:
        content = await sealer.decrypt(_PURPOSE, "", import_token)
    except NotAuthentic as exc:
        raise InvalidImportTokenException(detail="not an import token of this daemon") from exc
    claim = ImportTokenPayload(
        wrapping_key=content[2:18],
        key_id=str(UUID(bytes=content[18:34])),
        algorithm=_ALGORITHMS[content[1]],
        expires_at=datetime.fromtimestamp(int.from_bytes(content[34:42], "big") / _MICROSECOND, UTC),
    )
    if claim.key_id != key_id:
        raise InvalidImportTokenException(detail="an import token of another key")
    refuse_expired(claim, now)
    return claim


def refuse_expired(claim: ImportTokenPayload, now: datetime) -> None:
    """Raises ExpiredImportTokenException from the instant on at which the parameters end."""
    if now >= claim.expires_at:
        raise ExpiredImportTokenException


async def wrapping_key_of(reader: Reader, claim: ImportTokenPayload) -> WrappingKey:
    """The wrapping key that an import token speaks of. Raises InvalidImportTokenException if it is no more."""
    found = await reader.wrapping_key(claim.wrapping_key)
    if found is None or found.failures >= MAX_FAILURES:
        raise InvalidImportTokenException(detail="the wrapping key was destroyed after too many failed imports")
    return found


async def count_failure(store: Store, tokens: Tokens, wrapping_key: WrappingKey) -> None:
    """Note a failed import; the last one that is allowed ends the wrapping key.

    Raises InvalidImportTokenException for a failure beyond that, of calls that run at the same time: what it was about
    is not told.
    """
    async with store.write() as transaction:
        try:
            failures = await transaction.count_import_failure(wrapping_key.object_id)
        except StoreConflict as exc:
            raise InvalidImportTokenException(detail="the wrapping key was destroyed meanwhile") from exc
        if failures >= MAX_FAILURES:
            await mark_destroying(transaction, wrapping_key.object_id)
    if failures >= MAX_FAILURES:
        await token_objects.destroy(store, tokens[wrapping_key.token], wrapping_key.object_id)


async def mark_destroying(transaction: Transaction, object_id: bytes) -> None:
    """End a wrapping key: nobody can use it from the commit on. Then `token_objects.destroy`."""
    known = await transaction.token_object(object_id)
    await transaction.delete_wrapping_key(object_id)
    # Also one that the token lost (`missing`): then there is only the row to end.
    status = MaterialStatus.READY if known is None else known.status
    await transaction.set_object_status(object_id, status, MaterialStatus.DESTROYING)
