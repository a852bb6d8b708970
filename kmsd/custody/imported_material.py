"""Imported key material: unwrapped and verified by the token, attached to a key, deleted, and recognised on reimport.

The fingerprint is an AES-CMAC or HMAC under the material, computed by the token over a constant and the key id; for a
pair it is a hash of them and the public key. It shows if material is the same, reveals nothing else, and differs
between two keys with the same material. Fingerprint and material id outlive the deletion of the material. A reimported
object gets the same CKA_ID, so old blobs decrypt again.

The first material of a key is its current one. Later ones are pending until RotateKeyOnDemand makes them current; then
they belong to the key for good. A key works while the token holds all of those: if one is deleted or has expired, the
key is pending import. RSA, ECC and HMAC keys have one material only.
"""

from __future__ import annotations

import secrets
from asyncio import sleep
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from hmac import compare_digest
from time import perf_counter

import msgspec
from msgspec.structs import replace

from kmsd.custody import import_parameters, key_material, token_objects, wrapped_material
from kmsd.custody.incoming_material import IncomingMaterial, forwarded
from kmsd.domain.key import ExpirationModel, Key
from kmsd.domain.key_import import ImportedMaterial, KeyMaterialState, WrappingAlgorithm, WrappingKey
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import KeyState, Transition
from kmsd.domain.material import (
    Algorithm,
    Material,
    MaterialStatus,
    TokenName,
    WrappedMaterial,
    key_material_id,
)
from kmsd.errors import (
    IncorrectKeyMaterialException,
    InvalidCiphertextException,
    InvalidImportTokenException,
    KMSInvalidStateException,
)
from kmsd.ports import (
    ImportedKey,
    InvalidLength,
    MaterialMismatch,
    NoSuchObject,
    Store,
    StoreConflict,
    Tokens,
    Transaction,
    UnsuitableMaterial,
    UnwrapFailed,
    Wrapped,
)

REFUSAL_QUANTUM_SECONDS = 0.1
"""Seconds. A blob is refused at a multiple of this time after its unwrapping started."""
OTHER = "The key material is not the key material that was imported into this key before."
KNOWN = "The key material is associated with this key already."


class Expected(msgspec.Struct, frozen=True):
    """The material that a request to import may bring."""

    known: Sequence[ImportedMaterial]
    """The records of the key."""
    is_new: bool
    """True if it must be other material than the key has."""
    material_id: bytes | None = None
    """The id that the request names."""

    @property
    def state_of_new(self) -> KeyMaterialState:
        """The state that new material gets: the key's first is its current one at once."""
        return KeyMaterialState.PENDING_ROTATION if self.known else KeyMaterialState.CURRENT

    def match(self, fingerprint: bytes) -> ImportedMaterial | None:
        """Return the record of this material; None for new material. Raises `MaterialMismatch`."""
        found = next((one for one in self.known if compare_digest(one.fingerprint, fingerprint)), None)
        if self.is_new and found is not None and found.is_permanent:
            raise MaterialMismatch(KNOWN)
        if not self.is_new and (found is None or self.material_id not in (None, found.material_id)):
            raise MaterialMismatch(OTHER)
        return found


class ProvenMaterial(msgspec.Struct, frozen=True):
    """Material that the token has verified, and the state of its object in the token."""

    imported: ImportedMaterial
    is_new: bool = False
    """True if the key had no record of it."""
    made: bool = False
    """True if an object was created for it. Otherwise the key had one already."""
    recreate: Callable[[ImportedMaterial], Awaitable[None]] | None = None
    """Creates the object that the token has lost. `attach` calls it in its transaction, so that it runs once."""
    public_key: bytes = b""
    """Public half of a pair, DER SubjectPublicKeyInfo."""
    wrapped: WrappedMaterial | None = None
    """The material itself, if it was wrapped. It becomes part of the key with its row."""


def current(records: Sequence[ImportedMaterial]) -> ImportedMaterial | None:
    """Return the record of the current material, even if it is deleted; None before the first import."""
    return next((one for one in records if one.state is KeyMaterialState.CURRENT), None)


def pending(records: Sequence[ImportedMaterial]) -> ImportedMaterial | None:
    """Return the record of the material that is pending rotation, even if it is deleted."""
    return next((one for one in records if not one.is_permanent), None)


def named(records: Sequence[ImportedMaterial], name: str) -> ImportedMaterial | None:
    """Return the record with this KeyMaterialId."""
    return next((one for one in records if key_material_id(one.material_id) == name), None)


def is_imported(record: ImportedMaterial, materials: Mapping[bytes, Material], now: datetime) -> bool:
    """True if the key holds this material at `now`. `materials` are those of the key."""
    return record.material_id in materials and not record.is_expired(now)


# --- importing --------------------------------------------------------------------------------------


async def import_material(
    store: Store,
    tokens: Tokens,
    key: Key,
    expected: Expected,
    *,
    wrapping_key: WrappingKey,
    algorithm: WrappingAlgorithm,
    blob: bytes,
    now: datetime,
    created: list[bytes],
) -> ProvenMaterial:
    """Let the token unwrap and verify `blob`, and create its object if the key has none.

    The id of an object is appended to `created` before it can exist; `attach` adds it to the key. Raises
    InvalidCiphertextException and IncorrectKeyMaterialException, both counted against the wrapping key;
    InvalidImportTokenException if the wrapping key is gone; `StoreConflict` during another import into the key.
    """
    given = Wrapped(blob, algorithm, wrapping_key.reference)
    incoming, proof, known = await _proven(store, tokens, wrapping_key, given, key=key, expected=expected)
    present = None if known is None else key.materials.get(known.material_id)
    if present is not None and known is not None:
        if present.status is MaterialStatus.READY:
            return ProvenMaterial(known, public_key=proof.public_key)
        if present.wrapped is None:
            # The row of a missing object stays: only material that was verified to be the same is created under its id.
            created.append(known.material_id)
            return ProvenMaterial(known, recreate=incoming.recreate, public_key=proof.public_key)
    imported = known
    if imported is None:
        state, used = expected.state_of_new, _algorithm_of(key, tokens)
        imported = ImportedMaterial(secrets.token_bytes(16), used, proof.fingerprint, now, state)
    else:
        await _clear_remains(store, tokens, imported.material_id)
    arrival = ProvenMaterial(imported, is_new=known is None, made=True, public_key=proof.public_key)
    domain_key = await wrapped_material.domain_key_for(await store.read(), tokens, TokenName.MAIN, key.spec, key.usage)
    if domain_key is None:
        await _create_object(store, key, incoming, imported, now=now, created=created)
        return arrival
    return replace(arrival, wrapped=await incoming.wrap(imported, domain_key))


async def _create_object(
    store: Store,
    key: Key,
    incoming: IncomingMaterial,
    imported: ImportedMaterial,
    *,
    now: datetime,
    created: list[bytes],
) -> None:
    owner = f"{token_objects.IMPORTED}{key.key_id}"
    await token_objects.record_intent(store, owner, now, object_id=imported.material_id)
    created.append(imported.material_id)
    await incoming.create(imported)


def _algorithm_of(key: Key, tokens: Tokens) -> Algorithm | None:
    return token_objects.algorithm_for(tokens.main) if key.spec is KeySpec.SYMMETRIC_DEFAULT else None


async def _proven(
    store: Store, tokens: Tokens, wrapping_key: WrappingKey, given: Wrapped, *, key: Key, expected: Expected
) -> tuple[IncomingMaterial, ImportedKey, ImportedMaterial | None]:
    """Return the material for the main token, its fingerprint, and its record. Raises as `import_material`."""
    started = perf_counter()
    try:
        incoming = await forwarded(tokens, wrapping_key, key, given)
        proof = await incoming.prove()
        return incoming, proof, expected.match(proof.fingerprint)
    except (UnwrapFailed, InvalidLength, UnsuitableMaterial, MaterialMismatch) as exc:
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


def refusal(
    exc: UnwrapFailed | InvalidLength | UnsuitableMaterial | MaterialMismatch, algorithm: WrappingAlgorithm
) -> InvalidCiphertextException | IncorrectKeyMaterialException:
    """Return the error for the client.

    "IncorrectKeyMaterialException: the provided key material is invalid or is not the same key material that was
    previously imported"; "InvalidCiphertextException: the specified ciphertext has been corrupted or is otherwise
    invalid" (reference, ImportKeyMaterial). Without integrity protection, a wrong length and bad padding give the same
    error.
    """
    if isinstance(exc, MaterialMismatch) or (isinstance(exc, UnsuitableMaterial) and algorithm.has_integrity):
        return IncorrectKeyMaterialException(str(exc))
    if isinstance(exc, InvalidLength) and algorithm.has_integrity:
        return IncorrectKeyMaterialException("The key material of a symmetric key must have 256 bits.")
    return InvalidCiphertextException(detail=str(exc) if algorithm.has_integrity else "not unwrapped")


async def _clear_remains(store: Store, tokens: Tokens, object_id: bytes) -> None:
    """Destroy what is left of material that the key had before. Raises `StoreConflict` during another import."""
    found = await (await store.read()).token_object(object_id)
    main = tokens.main
    if found is not None and found.status is MaterialStatus.DESTROYING:
        await token_objects.destroy(store, main, object_id)
    elif found is not None and found.status is MaterialStatus.CREATING and found.owner_is_dead:
        await token_objects.roll_back(store, main, object_id)
    elif found is not None and not found.is_wrapped:
        raise StoreConflict(f"another import into this key is under way ({found.status})")


# --- attaching, rotating and deleting ---------------------------------------------------------------


async def attach(
    transaction: Transaction,
    key: Key,
    arrival: ProvenMaterial,
    now: datetime,
    *,
    valid_to: datetime | None,
    description: str | None,
) -> bytes | None:
    """Give verified material to the key, and set its expiry; it replaces pending material that is deleted or expired.

    Return the id of an object that was marked `destroying` for that; the caller then calls `token_objects.destroy`.
    Raises `StoreConflict` if the key has changed in the meantime.
    """
    destroying = None
    if arrival.is_new:
        destroying, stored = await _make_room(transaction, key, now), arrival.imported
    else:
        stored = await _record_of(transaction, key, arrival.imported.material_id)
    material = await _attach_object(transaction, key, arrival, now)
    if description is not None:
        stored = replace(stored, description=description)
    await transaction.put_imported_material(key.key_id, replace(stored, valid_to=valid_to))
    materials = {**key.materials, material.material_id: material}
    if destroying is not None:
        del materials[destroying]
    await _settle(transaction, key, materials, now)
    return destroying


async def _attach_object(transaction: Transaction, key: Key, arrival: ProvenMaterial, now: datetime) -> Material:
    """Add the object that was created to the key, unless the key has one. Raises `StoreConflict`."""
    imported = arrival.imported
    present = key.materials.get(imported.material_id)
    material = present or Material(
        imported.material_id,
        imported.algorithm,
        MaterialStatus.READY,
        now,
        public_key=arrival.public_key,
        wrapped=arrival.wrapped,
    )
    if arrival.made and present is None:
        owner = f"{token_objects.IMPORTED}{key.key_id}"
        await key_material.add(transaction, key.key_id, material, owner=owner)
    elif arrival.wrapped is not None and present is not None and present.wrapped is not None:
        # Under another domain key than the one that is missing.
        await transaction.replace_wrapped(present.wrapped, arrival.wrapped, now)
        material = replace(material, status=MaterialStatus.READY, wrapped=arrival.wrapped)
    elif arrival.recreate is not None and present is not None:
        await transaction.set_object_status(imported.material_id, MaterialStatus.MISSING, MaterialStatus.READY)
        await arrival.recreate(imported)
        material = replace(material, status=MaterialStatus.READY)
    elif present is None or present.status is not MaterialStatus.READY:
        raise StoreConflict("the material is no longer there")
    return material


async def _record_of(transaction: Transaction, key: Key, material_id: bytes) -> ImportedMaterial:
    """Return a record as the transaction has it. Raises `StoreConflict` if other material has replaced it."""
    for record in await transaction.imported_materials(key.key_id):
        if record.material_id == material_id:
            return record
    raise StoreConflict("other material was imported meanwhile")


async def _make_room(transaction: Transaction, key: Key, now: datetime) -> bytes | None:
    """Remove pending material that is deleted or has expired. Return the id of its object, if it still has one.

    Raises `StoreConflict` if the key has other pending material, or if that has not expired by another node's clock:
    nothing is destroyed earlier than every node's clock allows.
    """
    earlier = pending(await transaction.imported_materials(key.key_id))
    if earlier is None:
        return None
    if is_imported(earlier, key.materials, now):
        raise StoreConflict("other material was imported meanwhile")
    others = await transaction.trusted_by_others()
    if others is not None and is_imported(earlier, key.materials, others):
        raise StoreConflict("by the clock of another node, the pending material has not expired yet")
    destroying = await _remove_object(transaction, key, earlier.material_id, now)
    await transaction.delete_imported_material(earlier.material_id)
    return destroying


async def rotate(transaction: Transaction, key: Key, now: datetime) -> None:
    """Make the pending material current. Raises KMSInvalidStateException if there is none (`next_current`)."""
    records = await transaction.imported_materials(key.key_id)
    following, present = next_current(key, records, now), current(records)
    if present is not None:
        await transaction.put_imported_material(key.key_id, replace(present, state=KeyMaterialState.NON_CURRENT))
    rotated = replace(following, state=KeyMaterialState.CURRENT, rotated_at=now)
    await transaction.put_imported_material(key.key_id, rotated)
    await _settle(transaction, key, key.materials, now)


def next_current(key: Key, records: Sequence[ImportedMaterial], now: datetime) -> ImportedMaterial:
    """Return the pending material. Raises KMSInvalidStateException if there is none, or the token does not hold it."""
    record = pending(records)
    material = None if record is None else key.materials.get(record.material_id)
    if record is None or record.is_expired(now) or material is None or material.status is not MaterialStatus.READY:
        raise KMSInvalidStateException(f"No available key material pending rotation for the key: {key.arn}.")
    return record


async def delete(transaction: Transaction, key: Key, record: ImportedMaterial, now: datetime) -> bytes | None:
    """Delete a material of a key and return its id, or None if the key does not hold it.

    The object is marked `destroying`; the caller then calls `token_objects.destroy`.
    """
    destroying = await _remove_object(transaction, key, record.material_id, now)
    if destroying is None:
        return None
    await transaction.put_imported_material(key.key_id, replace(record, valid_to=None))
    if record.is_permanent:
        others = {name: one for name, one in key.materials.items() if name != destroying}
        await _settle(transaction, key, others, now)
    return destroying


async def _remove_object(transaction: Transaction, key: Key, material_id: bytes, now: datetime) -> bytes | None:
    """Mark an object of the key `destroying` and return its id; None if the key does not have it."""
    material = key.materials.get(material_id)
    if material is None:
        return None
    await token_objects.mark_destroying(transaction, material)
    await transaction.delete_material(material_id)
    await token_objects.delete_wrapped(transaction, material, now)
    return material_id


async def _settle(transaction: Transaction, key: Key, materials: Mapping[bytes, Material], now: datetime) -> None:
    """Store current material, expiry and state of a key, as they follow from its records and `materials`."""
    records = [one for one in await transaction.imported_materials(key.key_id) if one.is_permanent]
    present = current(records)
    if present is None or not all(is_imported(one, materials, now) for one in records):
        lost = key.after(Transition.LOSE_MATERIAL)
        changed = replace(lost, current_material=None, valid_to=None, expiration_model=None)
    else:
        ends = [one.valid_to for one in records if one.valid_to is not None]
        changed = replace(
            _without_expired(key, now).after(Transition.IMPORT_MATERIAL),
            current_material=materials[present.material_id],
            valid_to=min(ends, default=None),
            expiration_model=ExpirationModel.EXPIRES if ends else ExpirationModel.DOES_NOT_EXPIRE,
        )
    await transaction.update_key(key, changed)


def _without_expired(key: Key, now: datetime) -> Key:
    """Return the key as if the expiry job had run at the instant at which its material expired."""
    if key.valid_to is not None and now >= key.valid_to and key.state is not KeyState.PENDING_IMPORT:
        return key.after(Transition.LOSE_MATERIAL)
    return key
