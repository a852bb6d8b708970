"""Wrapping keys and import tokens: the response of GetParametersForImport.

An import token is a sealed statement of wrapping key, key, algorithm and expiry. The daemon does not store it. It
stores the wrapping key, which is destroyed 24 hours after it was issued, or after the twentieth failed import. RSA keys
are slow to generate, so `kmsd.jobs.wrapping_keys` keeps a pool of the lengths in demand.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from kmsd.custody import token_objects, wrapped_material
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain.key import Key
from kmsd.domain.key_import import (
    MAX_FAILURES,
    MAX_OUTSTANDING,
    PARAMETERS_LIFE,
    TRANSPORT_OF_KEYS,
    WrappingAlgorithm,
    WrappingKey,
)
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.material import MaterialStatus, TokenName, wrapping_key_identity
from kmsd.errors import (
    ExpiredImportTokenException,
    InvalidImportTokenException,
    LimitExceededException,
    UnsupportedOperationException,
)
from kmsd.ports import (
    ImportCapabilities,
    NotAuthentic,
    Reader,
    Store,
    StoreConflict,
    StoreError,
    Token,
    TokenError,
    Tokens,
    Transaction,
)

_PURPOSE = "import-token"
_VERSION = 1
_ALGORITHMS: Mapping[int, WrappingAlgorithm] = {
    1: WrappingAlgorithm.RSAES_PKCS1_V1_5,
    2: WrappingAlgorithm.RSAES_OAEP_SHA_1,
    3: WrappingAlgorithm.RSAES_OAEP_SHA_256,
    4: WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1,
    5: WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256,
}
"""Algorithm numbers in import tokens: append only."""
_NUMBERS = {algorithm: number for number, algorithm in _ALGORITHMS.items()}
_MICROSECOND = 1_000_000


class ImportParameters(msgspec.Struct, frozen=True):
    """The parameters that GetParametersForImport returns."""

    public_key: bytes
    import_token: bytes
    expires_at: datetime


class ImportTokenPayload(msgspec.Struct, frozen=True):
    """The content of an import token."""

    wrapping_key: bytes
    key_id: str
    algorithm: WrappingAlgorithm
    expires_at: datetime


async def offered(tokens: Tokens, spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT) -> Mapping[WrappingAlgorithm, TokenName]:
    """Return the available algorithms for keys of a spec, each with the token that unwraps it.

    That is the main token if it has the mechanisms, else the import token, which rewraps the material for the main one.
    """
    main = await tokens.main.import_capabilities()
    if spec is not KeySpec.SYMMETRIC_DEFAULT and spec not in main.specs:
        return {}
    passed_on = await _passed_on(main, tokens.imports, spec)
    return {
        algorithm: TokenName.MAIN if algorithm in main.imports else TokenName.IMPORT
        for algorithm in WrappingAlgorithm
        if algorithm in main.imports or algorithm in passed_on
    }


async def _passed_on(main: ImportCapabilities, helper: Token | None, spec: KeySpec) -> frozenset[WrappingAlgorithm]:
    """Return the algorithms of material of a spec that the import token rewraps for the main token."""
    is_symmetric = spec is KeySpec.SYMMETRIC_DEFAULT
    if helper is None or not (main.receives if is_symmetric else TRANSPORT_OF_KEYS in main.imports):
        return frozenset()
    found = await helper.import_capabilities()
    return found.passes_on if is_symmetric or spec in found.passes_on_specs else frozenset()


async def check_algorithm(
    algorithm: str, tokens: Tokens, refused: frozenset[WrappingAlgorithm], spec: KeySpec
) -> WrappingAlgorithm:
    """Return the algorithm of this name.

    Raises UnsupportedOperationException if it is unknown, refused by configuration, or not offered by a token for keys
    of this spec.
    """
    if algorithm not in _NUMBERS:
        raise UnsupportedOperationException(f"The wrapping algorithm {algorithm} is not supported.")
    known = WrappingAlgorithm(algorithm)
    if known in refused:
        raise UnsupportedOperationException(f"The configuration refuses the wrapping algorithm {algorithm}.")
    if known not in await offered(tokens, spec):
        raise UnsupportedOperationException(f"The token does not offer what the wrapping algorithm {algorithm} needs.")
    return known


# --- issuing ----------------------------------------------------------------------------------------


async def issue(
    store: Store,
    tokens: Tokens,
    sealer: ServiceSealer,
    key: Key,
    *,
    algorithm: WrappingAlgorithm,
    bits: int,
    now: datetime,
) -> ImportParameters:
    """Issue a wrapping key of this length and its import token for one key, valid from `now`."""
    # The API states the expiry in whole seconds, and it must hold to the microsecond.
    expires_at = (now + PARAMETERS_LIFE).replace(microsecond=0)
    key_id, name = key.key_id, (await offered(tokens, key.spec))[algorithm]
    is_wrapped = await wrapped_material.domain_key_for_own(await store.read(), tokens, name) is not None
    wrapping_key = await _from_pool(
        store, name, key_id=key_id, bits=bits, now=now, expires_at=expires_at, is_wrapped=is_wrapped
    )
    if wrapping_key is None:
        wrapping_key = await create_wrapping_key(store, tokens, name, bits, now, key_id=key_id, expires_at=expires_at)
    content = (
        bytes((_VERSION, _NUMBERS[algorithm]))
        + wrapping_key.object_id
        + UUID(key_id).bytes
        + (int(expires_at.timestamp()) * _MICROSECOND).to_bytes(8, "big")
    )
    return ImportParameters(wrapping_key.public_key, await sealer.encrypt(_PURPOSE, "", content), expires_at)


async def _from_pool(
    store: Store, name: TokenName, *, key_id: str, bits: int, now: datetime, expires_at: datetime, is_wrapped: bool
) -> WrappingKey | None:
    """Assign the oldest pooled key of this token, length and custody; None if there is none.

    Raises LimitExceededException if the key has `MAX_OUTSTANDING` valid import tokens.
    """
    async with store.write() as transaction:
        known = await transaction.wrapping_keys()
        valid = [key for key in known if key.key_id == key_id and key.expires_at is not None and now < key.expires_at]
        if len(valid) >= MAX_OUTSTANDING:
            raise LimitExceededException(f"The key has {MAX_OUTSTANDING} import tokens, which is the limit.")
        for key in known:
            if key.key_id is None and (key.token, key.bits, key.wrapped is not None) == (name, bits, is_wrapped):
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
    """Create a wrapping key, in the pool or (with `key_id` and `expires_at`) assigned to a key at once."""
    token = tokens[name]
    domain_key = await wrapped_material.domain_key_for_own(await store.read(), tokens, name)
    if domain_key is not None:
        object_id = secrets.token_bytes(16)
        wrapped = await token.custody.generate(wrapping_key_identity(object_id, bits), domain_key)
        made = WrappingKey(object_id, name, bits, wrapped.public_key, now, key_id, expires_at, wrapped=wrapped)
        async with store.write() as transaction:
            await token_objects.insert_wrapped(transaction, object_id, f"import:RSA_{bits}", now, name)
            await transaction.insert_wrapping_key(made)
        return made
    object_id = await token_objects.record_intent(store, f"import:RSA_{bits}", now, token=name)
    try:
        public_key = await token.generate_wrapping_key(object_id, bits)
        wrapping_key = WrappingKey(object_id, name, bits, public_key, now, key_id, expires_at)
        async with store.write() as transaction:
            await token_objects.mark_ready(transaction, object_id)
            await transaction.insert_wrapping_key(wrapping_key)
    except (StoreError, TokenError):
        # Report the first error. If the intent cannot be rolled back now, reconcile does so later.
        with suppress(StoreError, TokenError):
            await token_objects.roll_back(store, token, object_id)
        raise
    return wrapping_key


# --- redeeming --------------------------------------------------------------------------------------


async def open_token(sealer: ServiceSealer, import_token: bytes, key_id: str, now: datetime) -> ImportTokenPayload:
    """Decrypt and check an import token. Raises InvalidImportTokenException, ExpiredImportTokenException."""
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
    """Check that the parameters have not expired. Raises ExpiredImportTokenException from `expires_at` on."""
    if now >= claim.expires_at:
        raise ExpiredImportTokenException


async def wrapping_key_of(reader: Reader, claim: ImportTokenPayload) -> WrappingKey:
    """Return the wrapping key of an import token. Raises InvalidImportTokenException if it no longer exists."""
    found = await reader.wrapping_key(claim.wrapping_key)
    if found is None or found.failures >= MAX_FAILURES:
        raise InvalidImportTokenException(detail="the wrapping key was destroyed after too many failed imports")
    return found


async def count_failure(store: Store, tokens: Tokens, wrapping_key: WrappingKey) -> None:
    """Count a failed import, and destroy the wrapping key with failure number `MAX_FAILURES`.

    Raises InvalidImportTokenException if a concurrent call has destroyed the key: the client then does not learn the
    reason of its failure.
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
    """Invalidate a wrapping key: it cannot be used after the commit. The caller then calls `token_objects.destroy`."""
    known = await transaction.token_object(object_id)
    await transaction.delete_wrapping_key(object_id)
    # The object may be `missing` from the token; then only its row is left to delete.
    status = MaterialStatus.READY if known is None else known.status
    await transaction.set_object_status(object_id, status, MaterialStatus.DESTROYING)
    if known is not None and known.is_wrapped:
        await transaction.delete_token_object(object_id, MaterialStatus.DESTROYING)
