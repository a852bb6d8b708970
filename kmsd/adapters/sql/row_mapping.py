"""Conversion of rows to domain objects and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from kmsd.domain.alias import Alias
from kmsd.domain.grant import Grant
from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User
from kmsd.domain.key import ExpirationModel, Key, Origin
from kmsd.domain.key_import import ImportedMaterial, KeyMaterialState, WrappingKey
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import (
    AT,
    Algorithm,
    Material,
    MaterialIdentity,
    MaterialStatus,
    RotationType,
    TokenName,
    WrappedMaterial,
    service_identity,
    wrapping_key_identity,
)
from kmsd.domain.trusted_time import ClockSample, Uptime
from kmsd.ports import KindOfMaterial, ServiceKey, TokenObject

Row = tuple[Any, ...]
KeyKind = tuple[str, KeySpec, KeyUsage, Origin]
"""Key id, and what the key is."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OBJECT, WRAPPED = "object", "wrapped"
"""Values of `token_object.custody`."""

KEY_COLUMNS = (
    "key_id, account, arn, description, origin, state, policy, created_at, current_material, deletion_at, "
    "pending_window_days, valid_to, expiration_model, rotation_period_days, next_rotation_at, spec, usage, algorithms"
)
GRANT_COLUMNS = (
    "grant_id, key_id, name, grantee_principal, retiring_principal, operations, context_equals, context_subset, "
    "issuing_account, issuing_principal, created_at"
)
OBJECT_COLUMNS = "object_id, owner, status, created_at, token, maker, custody"
ALIAS_COLUMNS = "account, name, key_id, created_at, updated_at"
MATERIAL_COLUMNS = (
    "material.material_id, material.algorithm, status, material.created_at, rotation_type, token_object.token, "
    "public_key"
)
STATUS = 2
"""Place of `status` in MATERIAL_COLUMNS."""
WRAPPED_COLUMNS = "wrapped_material.domain_key_id, binding_key, mechanism, content, mac, missing"
IMPORTED_COLUMNS = "material_id, algorithm, fingerprint, imported_at, state, description, valid_to, rotated_at"


def prefixed(table: str, columns: str) -> str:
    """Return a list of columns with the name of their table before each."""
    return ", ".join(f"{table}.{column.strip()}" for column in columns.split(","))


def micros(instant: datetime | None) -> int | None:
    """Convert to microseconds since 1970, exactly."""
    return None if instant is None else (instant - EPOCH) // timedelta(microseconds=1)


def instant(number: int) -> datetime:
    """Convert microseconds since 1970 to a time."""
    return EPOCH + timedelta(microseconds=number)


def maybe_instant(number: int | None) -> datetime | None:
    """Convert like `instant`, for columns that may be NULL."""
    return None if number is None else instant(number)


def clock_reading(row: Row) -> ClockSample:
    """Convert a row (trusted_at, boot, uptime_micros, taken_on_micros)."""
    return ClockSample(instant(row[0]), Uptime(row[1], row[2] / 1e6), timedelta(microseconds=row[3]))


def named_here(name: str, hsm: str) -> str:
    """Return the name of a token or a service key, as the database has it, for a node that uses this HSM.

    Names of its own HSM lose their ending, and names of other HSMs end in `@` and their HSM's name.
    """
    name, _, owner = name.partition(AT)
    return name if owner == hsm else f"{name}{AT}{owner}"


def token_here(name: str, hsm: str, *, is_wrapped: bool) -> TokenName:
    """Return the name of a token for a node that uses this HSM. Wrapped material is of no HSM: all have its name."""
    return TokenName(name if is_wrapped else named_here(name, hsm))


def named_in_database(name: str, hsm: str, *, is_wrapped: bool = False) -> str:
    """Return the name for the database of a token or a service key that is in this HSM, or wrapped."""
    return f"{name}{AT}{hsm}" if hsm and not is_wrapped else str(name)


def key(row: Row, material_rows: Iterable[Row], hsm: str) -> Key:
    """Convert a row of KEY_COLUMNS and, for each material, a row as `material` expects it."""
    kind = row[0], KeySpec(row[15]), KeyUsage(row[16]), Origin(row[4])
    materials = {found[0]: material(found, kind, hsm) for found in material_rows}
    return Key(
        key_id=row[0],
        # Most keys of a process share one account and one policy.
        account=sys.intern(row[1]),
        arn=row[2],
        description=row[3],
        origin=kind[3],
        state=KeyState(row[5]),
        policy=sys.intern(row[6]),
        created_at=instant(row[7]),
        current_material=None if row[8] is None else materials.get(row[8]),
        materials=materials,
        deletion_at=maybe_instant(row[9]),
        pending_window_days=row[10],
        valid_to=maybe_instant(row[11]),
        expiration_model=None if row[12] is None else ExpirationModel(row[12]),
        rotation_period_days=row[13],
        next_rotation_at=maybe_instant(row[14]),
        spec=kind[1],
        usage=kind[2],
        algorithms=tuple(map(sys.intern, row[17].split())),
    )


def key_values(new: Key) -> tuple[Any, ...]:
    """Return the values of KEY_COLUMNS."""
    return (
        new.key_id,
        new.account,
        new.arn,
        new.description,
        new.origin.value,
        new.state.value,
        new.policy,
        micros(new.created_at),
        None if new.current_material is None else new.current_material.material_id,
        micros(new.deletion_at),
        new.pending_window_days,
        micros(new.valid_to),
        None if new.expiration_model is None else new.expiration_model.value,
        new.rotation_period_days,
        micros(new.next_rotation_at),
        new.spec.value,
        new.usage.value,
        " ".join(new.algorithms),
    )


def material(row: Row, kind: KeyKind, hsm: str) -> Material:
    """Convert a row of MATERIAL_COLUMNS and WRAPPED_COLUMNS; the latter are NULL for an object."""
    wrapped = None
    if row[7] is not None:
        wrapped = wrapped_material(row[7:], identity(kind, material_id=row[0], algorithm=row[1]), row[6])
    # One row says that a domain key is missing. It counts for all material under it.
    is_missing = bool(row[12])
    return Material(
        material_id=row[0],
        algorithm=Algorithm(row[1]) if row[1] else None,
        status=MaterialStatus.MISSING if is_missing else MaterialStatus(row[2]),
        created_at=instant(row[3]),
        rotation_type=None if row[4] is None else RotationType(row[4]),
        token=token_here(row[5], hsm, is_wrapped=wrapped is not None),
        public_key=row[6],
        wrapped=wrapped,
    )


def identity(kind: KeyKind, *, material_id: bytes, algorithm: int) -> MaterialIdentity:
    """Return what wrapped material of a key is bound to."""
    key_id, spec, usage, origin = kind
    used = Algorithm(algorithm) if algorithm else None
    return MaterialIdentity(key_id, material_id, spec, usage, used, origin is Origin.EXTERNAL)


def wrapped_material(row: Row, bound_to: MaterialIdentity, public_key: bytes) -> WrappedMaterial:
    """Convert a row of WRAPPED_COLUMNS."""
    return WrappedMaterial(bound_to, row[0], row[1], row[2], row[3], row[4], public_key)


def alias(row: Row) -> Alias:
    """Convert a row of ALIAS_COLUMNS."""
    return Alias(account=row[0], name=row[1], key_id=row[2], created_at=instant(row[3]), updated_at=instant(row[4]))


def grant(row: Row) -> Grant:
    """Convert a row of GRANT_COLUMNS."""
    return Grant(
        grant_id=row[0],
        key_id=row[1],
        name=row[2],
        grantee_principal=row[3],
        retiring_principal=row[4],
        operations=tuple(json.loads(row[5])),
        encryption_context_equals=None if row[6] is None else json.loads(row[6]),
        encryption_context_subset=None if row[7] is None else json.loads(row[7]),
        issuing_account=row[8],
        issuing_principal=row[9],
        created_at=instant(row[10]),
    )


def grant_values(new: Grant) -> tuple[Any, ...]:
    """Return the values of GRANT_COLUMNS."""
    equals, subset = new.encryption_context_equals, new.encryption_context_subset
    return (
        new.grant_id,
        new.key_id,
        new.name,
        new.grantee_principal,
        new.retiring_principal,
        json.dumps(new.operations),
        None if equals is None else json.dumps(dict(equals), ensure_ascii=False),
        None if subset is None else json.dumps(dict(subset), ensure_ascii=False),
        new.issuing_account,
        new.issuing_principal,
        micros(new.created_at),
    )


def user(row: Row) -> User:
    """Convert a row (account, name, user_id, arn, created_at, policies, tags)."""
    return User(
        account=row[0],
        name=row[1],
        user_id=row[2],
        arn=row[3],
        created_at=instant(row[4]),
        policies=_texts(row[5]),
        tags=_texts(row[6]),
    )


def role(row: Row) -> Role:
    """Convert a row (account, name, role_id, arn, trust_policy, max_session_seconds, created_at, policies, tags)."""
    return Role(
        account=row[0],
        name=row[1],
        role_id=row[2],
        arn=row[3],
        trust_policy=row[4],
        max_session_seconds=row[5],
        created_at=instant(row[6]),
        policies=_texts(row[7]),
        tags=_texts(row[8]),
    )


def _texts(found: str | None) -> dict[str, str]:
    """Convert a JSON object of texts; NULL stands for an empty one."""
    return {} if found is None else dict(sorted(json.loads(found).items()))


def access_key(row: Row, owner: User) -> AccessKey:
    """Convert a row (access_key_id, sealed_secret, status, created_at, …)."""
    return AccessKey(
        access_key_id=row[0],
        user=owner,
        sealed_secret=row[1],
        status=AccessKeyStatus(row[2]),
        created_at=instant(row[3]),
    )


def token_object(row: Row, hsm: str, *, orphaned: bool) -> TokenObject:
    """Convert a row of OBJECT_COLUMNS."""
    is_wrapped = row[6] == WRAPPED
    return TokenObject(
        object_id=row[0],
        owner=row[1],
        status=MaterialStatus(row[2]),
        created_at=instant(row[3]),
        token=token_here(row[4], hsm, is_wrapped=is_wrapped),
        owner_is_dead=orphaned,
        is_wrapped=is_wrapped,
    )


def wrapping_key(row: Row, hsm: str) -> WrappingKey:
    """Convert a row (object_id, token, bits, public_key, created_at, key_id, expires_at, failures, WRAPPED_COLUMNS)."""
    wrapped = None
    if row[8] is not None:
        wrapped = wrapped_material(row[8:], wrapping_key_identity(row[0], row[2]), row[3])
    return WrappingKey(
        object_id=row[0],
        token=token_here(row[1], hsm, is_wrapped=wrapped is not None),
        bits=row[2],
        public_key=row[3],
        created_at=instant(row[4]),
        key_id=row[5],
        expires_at=maybe_instant(row[6]),
        failures=row[7],
        wrapped=wrapped,
    )


def imported_material(row: Row) -> ImportedMaterial:
    """Convert a row of IMPORTED_COLUMNS."""
    return ImportedMaterial(
        material_id=row[0],
        algorithm=None if row[1] is None else Algorithm(row[1]),
        fingerprint=row[2],
        imported_at=instant(row[3]),
        state=KeyMaterialState(row[4]),
        description=row[5],
        valid_to=maybe_instant(row[6]),
        rotated_at=maybe_instant(row[7]),
    )


def imported_values(new: ImportedMaterial) -> tuple[Any, ...]:
    """Return the values of IMPORTED_COLUMNS."""
    return (
        new.material_id,
        new.algorithm,
        new.fingerprint,
        micros(new.imported_at),
        new.state.value,
        new.description,
        micros(new.valid_to),
        micros(new.rotated_at),
    )


def service_key(row: Row, hsm: str) -> ServiceKey:
    """Convert a row (purpose, object_id, algorithm, public_key) and WRAPPED_COLUMNS, which are NULL for an object."""
    algorithm = None if row[2] is None else Algorithm(row[2])
    if row[4] is None or algorithm is None:
        return ServiceKey(named_here(row[0], hsm), row[1], algorithm, public_key=row[3])
    identity = service_identity(row[0], row[1], algorithm)
    return ServiceKey(row[0], row[1], algorithm, wrapped_material(row[4:], identity, b""))


def kind_of_material(row: Row) -> KindOfMaterial:
    """Convert a row (spec, usage, algorithm, …)."""
    return KindOfMaterial(KeySpec(row[0]), KeyUsage(row[1]), Algorithm(row[2]) if row[2] else None)


def maker_of(holder: str) -> int | None:
    """Return the byte of the liveness lock of a lease's holder; None in rows of earlier releases."""
    place = holder.rpartition(" ")[2]
    return int(place) if place.isdecimal() and place != holder else None
