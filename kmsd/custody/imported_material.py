"""Imported key material: unwrapped and verified by the token, attached to a key, deleted, and recognised on reimport.

The fingerprint is an AES-CMAC under the material, computed by the token over a constant and the key id. It shows if
material is the same, reveals nothing else, and differs between two keys with the same material. Fingerprint and
material id outlive the deletion of the material. A reimported object gets the same CKA_ID, so old blobs decrypt again.
"""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from time import perf_counter
from uuid import UUID

import msgspec
from msgspec.structs import replace

from kmsd.custody import import_parameters, token_objects
from kmsd.domain.key import ExpirationModel, Key
from kmsd.domain.key_import import ImportedMaterial, WrappingAlgorithm, WrappingKey
from kmsd.domain.key_state import KeyState, Transition
from kmsd.domain.material import Material, MaterialStatus, TokenName
from kmsd.errors import (
    IncorrectKeyMaterialException,
    InvalidCiphertextException,
    InvalidImportTokenException,
)
from kmsd.ports import (
    InvalidLength,
    MaterialMismatch,
    NoSuchObject,
    Store,
    StoreConflict,
    Token,
    Tokens,
    Transaction,
    UnwrapFailed,
    Wrapped,
)

_MARK = b"kmsd imported material 1"
REFUSAL_QUANTUM_SECONDS = 0.1
"""Seconds. A blob is refused at a multiple of this time after its unwrapping started."""
OTHER = "The key material is not the key material that was imported into this key before."


class ProvenMaterial(msgspec.Struct, frozen=True):
    """Material that the token has verified, and the state of its object in the token."""

    imported: ImportedMaterial
    made: bool = False
    """True if an object was created for it. Otherwise the key had one already."""
    recreate: Callable[[], Awaitable[None]] | None = None
    """Creates the object that the token has lost. `make_current` calls it in its transaction, so that it runs once."""


def fingerprint_mark(key_id: str) -> bytes:
    """Return the message for the fingerprint's CMAC: longer than a block, unlike XAES-256-GCM's derivation input."""
    return _MARK + UUID(key_id).bytes


# --- importing --------------------------------------------------------------------------------------


async def import_material(
    store: Store,
    tokens: Tokens,
    key: Key,
    *,
    wrapping_key: WrappingKey,
    algorithm: WrappingAlgorithm,
    blob: bytes,
    now: datetime,
    created: list[bytes],
) -> ProvenMaterial:
    """Let the token unwrap and verify `blob`, and create its object if the key has none.

    The id of an object is appended to `created` before it can exist; `make_current` attaches it to the key. Raises
    InvalidCiphertextException and IncorrectKeyMaterialException, both counted against the wrapping key;
    InvalidImportTokenException if the wrapping key is gone; `StoreConflict` during another import into the key.
    """
    main, mark = tokens.main, fingerprint_mark(key.key_id)
    known = await (await store.read()).imported_material(key.key_id)
    expected = None if known is None else known.fingerprint
    given = Wrapped(blob, algorithm, wrapping_key.object_id)
    wrapped, fingerprint = await _proven(store, tokens, wrapping_key, given, mark=mark, expected=expected)
    present = key.current_material
    if present is not None and known is not None:
        if present.status is MaterialStatus.READY:
            return ProvenMaterial(known)
        # The row of a missing object stays: only material that was verified to be the same is created under its id.
        created.append(known.material_id)
        return ProvenMaterial(known, recreate=partial(_recreate, main, wrapped, mark, known))
    if known is None:
        object_id = await token_objects.record_intent(store, f"{token_objects.IMPORTED}{key.key_id}", now)
        known = ImportedMaterial(object_id, token_objects.algorithm_for(main), fingerprint)
    else:
        await _rerecord_intent(store, tokens, known.material_id, key.key_id, now)
    created.append(known.material_id)
    await main.unwrap_key(wrapped, mark, expected=fingerprint, into=(known.material_id, known.algorithm))
    return ProvenMaterial(known, made=True)


async def _recreate(main: Token, wrapped: Wrapped, mark: bytes, known: ImportedMaterial) -> None:
    """Create a missing object, after destroying one that an earlier attempt may have left."""
    await main.destroy(known.material_id)
    await main.unwrap_key(wrapped, mark, expected=known.fingerprint, into=(known.material_id, known.algorithm))


async def _proven(
    store: Store, tokens: Tokens, wrapping_key: WrappingKey, given: Wrapped, *, mark: bytes, expected: bytes | None
) -> tuple[Wrapped, bytes]:
    """Return the blob for the main token, and the fingerprint of the material in it. Raises like `import_material`."""
    started = perf_counter()
    try:
        wrapped = await _forwarded(tokens, wrapping_key, given)
        return wrapped, await tokens.main.unwrap_key(wrapped, mark, expected=expected)
    except (UnwrapFailed, InvalidLength, MaterialMismatch) as exc:
        try:
            await import_parameters.count_failure(store, tokens, wrapping_key)
        finally:
            await _quantize_latency(started)
        raise refusal(exc, given.algorithm) from exc
    except NoSuchObject as exc:
        raise InvalidImportTokenException(detail=str(exc)) from exc


async def _quantize_latency(started: float) -> None:
    """Wait for the next multiple of the quantum, so that the time of the response does not reveal the token's work.

    Decoys equalise the work, but a module may still take 20 us longer over one kind of bad padding than over another,
    and an HSM more.
    """
    await sleep(REFUSAL_QUANTUM_SECONDS - (perf_counter() - started) % REFUSAL_QUANTUM_SECONDS)


async def _forwarded(tokens: Tokens, wrapping_key: WrappingKey, wrapped: Wrapped) -> Wrapped:
    """Return `wrapped` in a form that the main token can unwrap."""
    if wrapping_key.token is TokenName.MAIN:
        return wrapped
    transport_key = await tokens.main.transport_key()
    return await tokens[wrapping_key.token].rewrap_for(wrapped, transport_key)


def refusal(
    exc: UnwrapFailed | InvalidLength | MaterialMismatch, algorithm: WrappingAlgorithm
) -> InvalidCiphertextException | IncorrectKeyMaterialException:
    """Return the error for the client.

    "IncorrectKeyMaterialException: the provided key material is invalid or is not the same key material that was
    previously imported"; "InvalidCiphertextException: the specified ciphertext has been corrupted or is otherwise
    invalid" (reference, ImportKeyMaterial). Without integrity protection, a wrong length and bad padding give the same
    error.
    """
    if isinstance(exc, MaterialMismatch):
        return IncorrectKeyMaterialException(OTHER)
    if isinstance(exc, InvalidLength) and algorithm.has_integrity:
        return IncorrectKeyMaterialException("The key material of a symmetric key must have 256 bits.")
    return InvalidCiphertextException(detail=str(exc) if algorithm.has_integrity else "not unwrapped")


async def _rerecord_intent(store: Store, tokens: Tokens, object_id: bytes, key_id: str, now: datetime) -> None:
    """Record the intent to create an object with an id that was in use before, once its remains are destroyed."""
    found = await (await store.read()).token_object(object_id)
    main = tokens.main
    if found is not None and found.status is MaterialStatus.DESTROYING:
        await token_objects.destroy(store, main, object_id)
    elif found is not None and found.status is MaterialStatus.CREATING and found.owner_is_dead:
        await token_objects.roll_back(store, main, object_id)
    elif found is not None:
        raise StoreConflict(f"another import into this key is under way ({found.status})")
    await token_objects.record_intent(store, f"{token_objects.IMPORTED}{key_id}", now, object_id=object_id)


# --- attaching and deleting -------------------------------------------------------------------------


async def make_current(
    transaction: Transaction,
    key: Key,
    arrival: ProvenMaterial,
    now: datetime,
    *,
    valid_to: datetime | None,
    description: str | None,
) -> Key:
    """Make verified material the key's current material, and return the changed key.

    Raises `StoreConflict` if the key has changed in the meantime.
    """
    imported, present = arrival.imported, key.current_material
    material = present or Material(imported.material_id, imported.algorithm, MaterialStatus.READY, now)
    if material.material_id != imported.material_id:
        raise StoreConflict("other material was imported meanwhile")
    if arrival.made and present is None:
        await token_objects.mark_ready(transaction, imported.material_id)
        await transaction.insert_material(key.key_id, material)
    elif arrival.recreate is not None and present is not None:
        await transaction.set_object_status(imported.material_id, MaterialStatus.MISSING, MaterialStatus.READY)
        await arrival.recreate()
    elif present is None or present.status is not MaterialStatus.READY:
        raise StoreConflict("the material is no longer there")
    if description is not None:
        imported = replace(imported, description=description)
    await transaction.put_imported_material(key.key_id, imported)
    changed = replace(
        _without_expired(key, now).after(Transition.IMPORT_MATERIAL),
        current_material=material,
        valid_to=valid_to,
        expiration_model=ExpirationModel.DOES_NOT_EXPIRE if valid_to is None else ExpirationModel.EXPIRES,
    )
    await transaction.update_key(key, changed)
    return changed


def _without_expired(key: Key, now: datetime) -> Key:
    """Return the key as if the expiry job had run at the instant at which its material expired."""
    if key.valid_to is not None and now >= key.valid_to and key.state is not KeyState.PENDING_IMPORT:
        return key.after(Transition.LOSE_MATERIAL)
    return key


async def delete(transaction: Transaction, key: Key) -> bytes | None:
    """Delete the material of a key and return its id, or None if it has none.

    The object is marked `destroying`; the caller then calls `token_objects.destroy`.
    """
    material = key.current_material
    if material is None:
        return None
    await transaction.set_object_status(material.material_id, material.status, MaterialStatus.DESTROYING)
    await transaction.delete_material(material.material_id)
    emptied = replace(key.after(Transition.LOSE_MATERIAL), current_material=None, valid_to=None, expiration_model=None)
    await transaction.update_key(key, emptied)
    return material.material_id
