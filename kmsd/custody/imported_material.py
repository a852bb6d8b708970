"""Imported material: brought in and proven by the token, adopted by a key, lost again, and known when it returns.

The fingerprint is an AES-CMAC under the material that the token computes over a constant and the key's id: it tells
whether material is the same, tells nothing else of it, and differs between two keys with the same material. It stays
when the material goes. So does the material id: the object that is made anew has the same CKA_ID, and old blobs open.
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
"""Seconds. A blob is refused a whole number of them after its unwrapping began."""
OTHER = "The key material is not the key material that was imported into this key before."


class ProvenMaterial(msgspec.Struct, frozen=True):
    """Material that was proven, and what there is of it in the token."""

    imported: ImportedMaterial
    made: bool = False
    """Whether an object was made for it; else the key had it already."""
    recreate: Callable[[], Awaitable[None]] | None = None
    """Makes the object that the token has lost; `adopt` calls it, so that nobody else makes it as well."""


def fingerprint_mark(key_id: str) -> bytes:
    """What the token computes the fingerprint of. Longer than a block, unlike what XAES-256-GCM derives keys from."""
    return _MARK + UUID(key_id).bytes


# --- bringing in ------------------------------------------------------------------------------------


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
    """Have the token unwrap and prove `blob`, and make its object if the key has none.

    `created` is told of an object before it can exist; `adopt` promises it. Raises InvalidCiphertextException,
    IncorrectKeyMaterialException, InvalidImportTokenException, each counted against the wrapping key; `StoreConflict`
    while another import into the key is under way.
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
        # A missing object's row stays as it is: only what was proven to be the same is made under its id.
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
    """Make a missing object, and none beside it that another attempt has left."""
    await main.destroy(known.material_id)
    await main.unwrap_key(wrapped, mark, expected=known.fingerprint, into=(known.material_id, known.algorithm))


async def _proven(
    store: Store, tokens: Tokens, wrapping_key: WrappingKey, given: Wrapped, *, mark: bytes, expected: bytes | None
) -> tuple[Wrapped, bytes]:
    """What the main token unwraps, and the fingerprint of what is in it. Raises as `import_material`."""
    begun = perf_counter()
    try:
        wrapped = await _forwarded(tokens, wrapping_key, given)
        return wrapped, await tokens.main.unwrap_key(wrapped, mark, expected=expected)
    except (UnwrapFailed, InvalidLength, MaterialMismatch) as exc:
        try:
            await import_parameters.count_failure(store, tokens, wrapping_key)
        finally:
            await _quantize_latency(begun)
        raise refusal(exc, given.algorithm) from exc
    except NoSuchObject as exc:
        raise InvalidImportTokenException(detail=str(exc)) from exc


async def _quantize_latency(begun: float) -> None:
    """Wait for the next beat: what the token did cannot be read off the time of the answer.

    Decoys make the work the same, but a module may still take 20 us longer over one kind of bad padding than over
    another, and an HSM more.
    """
    await sleep(REFUSAL_QUANTUM_SECONDS - (perf_counter() - begun) % REFUSAL_QUANTUM_SECONDS)


async def _forwarded(tokens: Tokens, wrapping_key: WrappingKey, wrapped: Wrapped) -> Wrapped:
    """`wrapped` as the main token can unwrap it."""
    if wrapping_key.token is TokenName.MAIN:
        return wrapped
    transport_key = await tokens.main.transport_key()
    return await tokens[wrapping_key.token].rewrap_for(wrapped, transport_key)


def refusal(
    exc: UnwrapFailed | InvalidLength | MaterialMismatch, algorithm: WrappingAlgorithm
) -> InvalidCiphertextException | IncorrectKeyMaterialException:
    """What the client is told.

    "IncorrectKeyMaterialException: the provided key material is invalid or is not the same key material that was
    previously imported"; "InvalidCiphertextException: the specified ciphertext has been corrupted or is otherwise
    invalid" (reference, ImportKeyMaterial). A wrong length of what a blob without integrity seems to hold is told from
    bad padding in no way.
    """
    if isinstance(exc, MaterialMismatch):
        return IncorrectKeyMaterialException(OTHER)
    if isinstance(exc, InvalidLength) and algorithm.has_integrity:
        return IncorrectKeyMaterialException("The key material of a symmetric key must have 256 bits.")
    return InvalidCiphertextException(detail=str(exc) if algorithm.has_integrity else "not unwrapped")


async def _rerecord_intent(store: Store, tokens: Tokens, object_id: bytes, key_id: str, now: datetime) -> None:
    """The intent to make an object of an id that there was before. What is left of that is certain to be gone first."""
    found = await (await store.read()).token_object(object_id)
    main = tokens.main
    if found is not None and found.status is MaterialStatus.DESTROYING:
        await token_objects.destroy(store, main, object_id)
    elif found is not None and found.status is MaterialStatus.CREATING and found.owner_is_dead:
        await token_objects.roll_back(store, main, object_id)
    elif found is not None:
        raise StoreConflict(f"another import into this key is under way ({found.status})")
    await token_objects.record_intent(store, f"{token_objects.IMPORTED}{key_id}", now, object_id=object_id)


# --- adopting and losing ----------------------------------------------------------------------------


async def make_current(
    transaction: Transaction,
    key: Key,
    arrival: ProvenMaterial,
    now: datetime,
    *,
    valid_to: datetime | None,
    description: str | None,
) -> Key:
    """Make proven material the key's, in the transaction that answers for it. The key as it then is.

    Raises `StoreConflict` if the key has changed meanwhile.
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
    """The key as it would be if the job had run at the instant at which its material expired."""
    if key.valid_to is not None and now >= key.valid_to and key.state is not KeyState.PENDING_IMPORT:
        return key.after(Transition.LOSE_MATERIAL)
    return key


async def delete(transaction: Transaction, key: Key) -> bytes | None:
    """Take its material from a key. The object is then marked for destruction: `token_objects.destroy` follows."""
    material = key.current_material
    if material is None:
        return None
    await transaction.set_object_status(material.material_id, material.status, MaterialStatus.DESTROYING)
    await transaction.delete_material(material.material_id)
    emptied = replace(key.after(Transition.LOSE_MATERIAL), current_material=None, valid_to=None, expiration_model=None)
    await transaction.update_key(key, emptied)
    return material.material_id
