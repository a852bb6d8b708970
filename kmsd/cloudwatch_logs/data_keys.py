"""Data keys of the Logs side: made in the token's generator, wrapped under the customer's key or the daemon's own.

This is the only way by which the Logs side reaches a customer's key, and it goes as any caller does: as the
principal `logs.REGION.amazonaws.com`, allowed by the key's policy for the encryption context
`aws:logs:arn`, in a state in which the key works, with a record. A data key is no key of the API; it is the
daemon's own, and bulk text is sealed with it within the process.

The rule for its end. Whether the key may be used is asked of the store for *every* request, so from the
moment in which DisableKey, a change of the key's policy or AssociateKmsKey has been acknowledged no data key
is used against it. The data key itself seals at most `MAX_BYTES`, for at most `HOLD_SECONDS`, and is
dropped from memory then at the latest; also when its key is found unusable. (Python cannot overwrite
memory; what is dropped is free to be reused.)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmsd.authz.circumstances import Circumstances
from kmsd.authz.condition_keys import ABOUT_THE_TIME, mentions
from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed, AuthorizationRequest, Denied
from kmsd.cloudwatch_logs.events import LogEvent
from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.cloudwatch_logs.ports import SegmentDamaged
from kmsd.custody import encryption, resource_facts
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.arn import ArnScope, parse_key_name
from kmsd.domain.encryption_context import EncryptionContext
from kmsd.domain.key import Key
from kmsd.domain.key_state import KeyState
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.errors import AccessDeniedException, InvalidCiphertextException, InvalidParameterException, ServiceError
from kmsd.ports import NotAuthentic, Reader, Token

SERVICE_KEY = "logs"
"""Purpose of the daemon's own key, for groups without an association."""
MAX_BYTES = 67_108_864
"""Bytes of events that one data key seals."""
HOLD_SECONDS = 10.0
"""How long a data key stays in memory."""
MAX_CACHED = 4_096
"""Data keys that a process holds for opening; the oldest goes first."""
MAX_DECISIONS = 1_024
KEY_BYTES = 32
CONTEXT = "aws:logs:arn"
_PURPOSE = "log-data-key"
_WORDS: Mapping[KeyState, str] = {
    KeyState.DISABLED: "is disabled",
    KeyState.PENDING_DELETION: "is pending deletion",
    KeyState.PENDING_IMPORT: "has no key material",
    KeyState.UNAVAILABLE: "is unavailable",
}


class KeyAssociation(NamedTuple):
    """What data keys are made for: a log group, or the query results of an account."""

    owner: bytes
    """The group's id; for results, the account."""
    account: str
    arn: str
    """The value of the encryption context."""
    kms_key: str | None
    """ARN of the associated key; None: the daemon's own."""

    @property
    def context(self) -> EncryptionContext:
        """The encryption context."""
        return {CONTEXT: self.arn}


class KeyUse(msgspec.Struct, frozen=True):
    """One use of a customer's key by the service, or the attempt; for the audit trail."""

    action: str
    """`GenerateDataKey`, `Decrypt`, `DescribeKey`."""
    caller: Caller
    subject: KeyAssociation
    key_arn: str
    key: Key | None
    now: datetime
    decision: Allowed | None = None
    error: ServiceError | None = None


class UseRecorder(Protocol):
    """Writes the record of a use; durable on return."""

    async def __call__(self, use: KeyUse) -> None:
        """Raises `AuditUnavailable`: then the use must have no effect."""
        ...


class DataKey(msgspec.Struct, eq=False, weakref=True):
    """A data key in memory."""

    wrapped: WrappedKey
    cipher: AESGCM
    made_at: float
    """Of the monotonic clock."""
    sealed: int = 0
    """Bytes so far."""
    opened: dict[tuple[bytes, Frame], list[LogEvent]] = {}
    """What was opened with it a moment ago, by group and frame: it ends with the key (`opened_frames`)."""
    opened_bytes: int = 0

    def is_for(self, subject: KeyAssociation, size: int, now: float) -> bool:
        """Whether it may seal `size` bytes more for `subject`."""
        fits = self.sealed + size <= MAX_BYTES and now - self.made_at < HOLD_SECONDS
        return fits and self.wrapped.kms_key == (subject.kms_key or "") and self.wrapped.context_arn == subject.arn


class DataKeys:
    """The data keys of one process. All methods belong to one event loop."""

    def __init__(self, token: Token, arns: ArnScope, record: UseRecorder) -> None:
        self._token = token
        self._place = arns
        self._principal = f"logs.{arns.region}.amazonaws.com"
        self._key_name = lru_cache(MAX_DECISIONS)(partial(parse_key_name, caller_account="", arns=arns, aliases=False))
        self._record = record
        self._sealing: dict[bytes, DataKey] = {}
        self._opening: dict[bytes, DataKey] = {}
        self._generating: dict[bytes, asyncio.Lock] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._decisions: dict[Hashable, Allowed | Denied] = {}
        """What a key's policy says, by all that it is said of: an entry is never wrong, and the oldest ends first."""

    @property
    def cached(self) -> int:
        """Data keys in memory."""
        return len({*self._opening, *(key.wrapped.data_key_id for key in self._sealing.values())})

    async def encryption_key(self, reader: Reader, subject: KeyAssociation, size: int, now: datetime) -> DataKey:
        """A data key for `size` bytes of `subject`. Raises AccessDeniedException, and the token's errors."""
        key, decision = await self._usable(reader, subject, "GenerateDataKey", now)
        held = self._sealing.get(subject.owner)
        if held is None or not held.is_for(subject, size, time.monotonic()):
            # One at a time: others who need one too find it when it is their turn.
            async with self._generating.setdefault(subject.owner, asyncio.Lock()):
                held = self._sealing.get(subject.owner)
                if held is None or not held.is_for(subject, size, time.monotonic()):
                    held = await self._generate(reader, subject, key, decision, now)
                    self._sealing[subject.owner] = held
                    self._cache(held)
        held.sealed += size
        return held

    async def decryption_key(
        self, reader: Reader, subject: KeyAssociation, wrapped: WrappedKey, now: datetime
    ) -> DataKey:
        """The data key that sealed something, of a group or account `subject`, whichever key that is associated now.

        Raises AccessDeniedException if its key cannot be used now (or ever again), `SegmentDamaged` if it is not what
        was stored, and the token's errors.
        """
        subject = KeyAssociation(subject.owner, subject.account, wrapped.context_arn, wrapped.kms_key or None)
        key, decision = await self._usable(reader, subject, "Decrypt", now)
        held = self._opening.get(wrapped.data_key_id)
        if held is not None and held.wrapped == wrapped and time.monotonic() - held.made_at < HOLD_SECONDS:
            return held
        plaintext = await self._unwrap(reader, subject, key, wrapped)
        if key is not None:
            await self._record(KeyUse("Decrypt", self._caller(subject), subject, key.arn, key, now, decision))
        opened = DataKey(wrapped, AESGCM(plaintext), time.monotonic())
        self._cache(opened)
        return opened

    async def validate_association(self, reader: Reader, subject: KeyAssociation, now: datetime) -> Key:
        """Prove that `subject` can work with the key that it is to be associated with: wrap a data key, unwrap it.

        Raises InvalidParameterException for a key that is unknown or not enabled, AccessDeniedException if its policy
        does not allow the service both.
        """
        # AssociateKmsKey: "If you attempt to associate a KMS key with a log group but the KMS key does not exist or the
        # KMS key is disabled, you receive an InvalidParameterException error."
        name = subject.kms_key or ""
        try:
            found = await self._find(reader, name)
        except ServiceError as exc:
            raise InvalidParameterException("The specified KMS Key Id is not valid: it must be a key's ARN.") from exc
        if found is None or not found.exists_at(now):
            if self._key_name(name).account != subject.account:
                # As for a key that is there: whether another account has a key is not told.
                raise AccessDeniedException(_not_yours(subject), detail="the key does not exist")
            raise InvalidParameterException("The specified KMS Key Id could not be found.")
        caller, decisions = self._caller(subject), {}
        described = await self._authorised(reader, subject, found, "DescribeKey", now)
        if isinstance(described, Allowed):
            # Not demanded: AWS's own example makes it depend on an encryption context, which DescribeKey has not.
            await self._record(KeyUse("DescribeKey", caller, subject, name, found, now, described))
        for action in ("GenerateDataKey", "Decrypt"):
            decision = await self._authorised(reader, subject, found, action, now)
            if isinstance(decision, Denied):
                error = AccessDeniedException(_not_yours(subject), detail=decision.reason)
                await self._record_refusal(subject, found, action, now, error)
                raise error
            decisions[action] = decision
        state = found.state_at(now)
        if state is not KeyState.ENABLED:
            raise InvalidParameterException(f"The specified KMS key {name} {_WORDS[state]}.")
        made = await self._generate(reader, subject, found, decisions["GenerateDataKey"], now)
        await self._unwrap(reader, subject, found, made.wrapped)
        await self._record(KeyUse("Decrypt", caller, subject, name, found, now, decisions["Decrypt"]))
        return found

    # --- the customer's key -------------------------------------------------------------------------

    async def _usable(
        self, reader: Reader, subject: KeyAssociation, action: str, now: datetime
    ) -> tuple[Key | None, Allowed | None]:
        """The associated key, if its policy and state allow `action` at this moment. None: there is no association."""
        if subject.kms_key is None:
            return None, None
        key = await self._find(reader, subject.kms_key)
        error: AccessDeniedException | None = None
        decision: Allowed | None = None
        if key is None or not key.exists_at(now):
            error = AccessDeniedException(_gone(subject.kms_key, action))
        else:
            decided = await self._authorised(reader, subject, key, action, now)
            if isinstance(decided, Denied):
                what = f"its policy does not allow {self._principal} kms:{action} for {subject.arn}"
                error = AccessDeniedException(f"The KMS key {key.arn} cannot be used: {what}.", detail=decided.reason)
            else:
                decision, state = decided, key.state_at(now)
                if state is not KeyState.ENABLED:
                    error = AccessDeniedException(_not_now(key.arn, state, action))
        if error is None:
            return key, decision
        self._invalidate(subject.kms_key)
        await self._record_refusal(subject, key, action, now, error)
        raise error

    async def _find(self, reader: Reader, kms_key: str) -> Key | None:
        """The key of an ARN. Raises InvalidArnException, NotFoundException for what is no key's ARN of this place."""
        if not kms_key.startswith("arn:"):
            raise InvalidParameterException("The specified KMS Key Id is not valid: it must be a key's ARN.")
        name = self._key_name(kms_key)
        key = await reader.key(name.key_id)
        return key if key is not None and key.account == name.account else None

    async def _authorised(
        self, reader: Reader, subject: KeyAssociation, key: Key, action: str, now: datetime
    ) -> Allowed | Denied:
        caller = self._caller(subject)
        grants = await reader.grants_to(key.key_id, (caller.arn,))
        aliases, tags = await resource_facts.of_key(reader, key, (key.policy,), now)
        asked = (key.policy, key.arn, key.origin, action, subject.arn, subject.account, aliases, tuple(tags.items()))
        known = None if grants else self._decisions.get(asked)
        if known is not None:
            return known
        circumstances = Circumstances(
            now=now,
            region=self._place.region,
            is_secure=True,
            # "the ARN of the resource making a service-to-service request" (IAM User Guide, aws:SourceArn).
            source_arn=subject.arn,
            key=key,
            aliases=aliases,
            tags=tags,
        )
        decision = authorize(
            AuthorizationRequest(
                caller=caller,
                action=f"kms:{action}",
                resource=key.arn,
                resource_account=key.account,
                resource_policy=key.policy,
                grants=grants,
                encryption_context={} if action == "DescribeKey" else subject.context,
                circumstances=circumstances,
            )
        )
        if not grants and not mentions(key.policy, *ABOUT_THE_TIME):
            if len(self._decisions) >= MAX_DECISIONS:
                del self._decisions[next(iter(self._decisions))]
            self._decisions[asked] = decision
        return decision

    def _caller(self, subject: KeyAssociation) -> Caller:
        return _service(self._principal, subject.account)

    async def _record_refusal(
        self, subject: KeyAssociation, key: Key | None, action: str, now: datetime, error: ServiceError
    ) -> None:
        arn = subject.kms_key or ""
        await self._record(KeyUse(action, self._caller(subject), subject, arn, key, now, error=error))

    # --- data keys ----------------------------------------------------------------------------------

    async def _generate(
        self, reader: Reader, subject: KeyAssociation, key: Key | None, decision: Allowed | None, now: datetime
    ) -> DataKey:
        plaintext = await self._token.random(KEY_BYTES)
        if key is None:
            sealer = await ServiceSealer.of(reader, self._token, SERVICE_KEY)
            blob = await sealer.encrypt(_PURPOSE, subject.arn, plaintext)
        else:
            blob = await encryption.encrypt(self._token, key, now, plaintext, subject.context)
            caller = self._caller(subject)
            await self._record(KeyUse("GenerateDataKey", caller, subject, key.arn, key, now, decision))
        wrapped = WrappedKey(secrets.token_bytes(16), subject.kms_key or "", subject.arn, blob)
        return DataKey(wrapped, AESGCM(plaintext), time.monotonic())

    async def _unwrap(self, reader: Reader, subject: KeyAssociation, key: Key | None, wrapped: WrappedKey) -> bytes:
        try:
            if key is None:
                sealer = await ServiceSealer.of(reader, self._token, SERVICE_KEY)
                return await sealer.decrypt(_PURPOSE, subject.arn, wrapped.blob)
            opened = await encryption.decrypt(self._token, key, blobs.parse(wrapped.blob), subject.context)
        except (NotAuthentic, InvalidCiphertextException, blobs.MalformedBlob) as exc:
            raise SegmentDamaged(f"data key {wrapped.data_key_id.hex()}") from exc
        return opened.plaintext

    def _cache(self, key: DataKey) -> None:
        if len(self._opening) >= MAX_CACHED:
            del self._opening[next(iter(self._opening))]
        self._opening[key.wrapped.data_key_id] = key
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._evict)

    def _evict(self) -> None:
        """Drop what is past its time; look again when the next one is."""
        self._sweep = None
        now = time.monotonic()
        for owner in [owner for owner, key in self._sealing.items() if now - key.made_at >= HOLD_SECONDS]:
            del self._sealing[owner]
        for held in [held for held, key in self._opening.items() if now - key.made_at >= HOLD_SECONDS]:
            del self._opening[held]
        for owner in [
            owner for owner, lock in self._generating.items() if owner not in self._sealing and not lock.locked()
        ]:
            del self._generating[owner]
        oldest = min((key.made_at for key in (*self._opening.values(), *self._sealing.values())), default=None)
        if oldest is not None:
            due = max(0.0, oldest + HOLD_SECONDS - now)
            self._sweep = asyncio.get_running_loop().call_later(due, self._evict)

    def _invalidate(self, kms_key: str) -> None:
        """Drop every data key under a key that cannot be used."""
        for owner in [owner for owner, key in self._sealing.items() if key.wrapped.kms_key == kms_key]:
            del self._sealing[owner]
        for held in [held for held, key in self._opening.items() if key.wrapped.kms_key == kms_key]:
            del self._opening[held]

    def close(self) -> None:
        """Drop everything."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._sealing.clear()
        self._opening.clear()


@lru_cache(maxsize=MAX_DECISIONS)
def _service(principal: str, account: str) -> Caller:
    """The service that acts for an account."""
    return Caller(PrincipalType.SERVICE, principal, account, principal)


def _not_yours(subject: KeyAssociation) -> str:
    return f"The specified KMS key does not exist or is not allowed to be used with Arn '{subject.arn}'"


def _gone(kms_key: str, action: str) -> str:
    if action == "Decrypt":
        what = "what was sealed under it cannot be read any more, by anybody, ever"
        return f"The KMS key {kms_key} has been deleted: {what}."
    return f"The KMS key {kms_key} has been deleted: associate another key, or none, before anything can be stored."


def _not_now(kms_key: str, state: KeyState, action: str) -> str:
    what = "what was sealed under it cannot be read" if action == "Decrypt" else "nothing can be stored under it"
    return f"The KMS key {kms_key} {_WORDS[state]}: {what} until the key is enabled again."
