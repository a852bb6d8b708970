"""Use of customers' keys by the logs service: find, authorise, check the state, record.

This is the second path of requests to a key (`kmsd.pipeline` has the table). The service acts as the principal
`logs.REGION.amazonaws.com`. The key's policy must allow it for the encryption context `aws:logs:arn`, the key must be
enabled, and each use or refusal leaves an audit record.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import msgspec

from kmsd.authz.circumstances import Circumstances
from kmsd.authz.condition_keys import ABOUT_THE_TIME, mentions
from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed, AuthorizationRequest, Denied
from kmsd.custody import resource_facts
from kmsd.domain.arn import ArnScope, parse_key_name
from kmsd.domain.encryption_context import EncryptionContext
from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import KeyState, Usable
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.errors import AccessDeniedException, InvalidParameterException, ServiceError
from kmsd.ports import Reader

MAX_DECISIONS = 1_024
CONTEXT = "aws:logs:arn"
_WORDS: Mapping[KeyState, str] = {
    KeyState.DISABLED: "is disabled",
    KeyState.PENDING_DELETION: "is pending deletion",
    KeyState.PENDING_IMPORT: "has no key material",
    KeyState.UNAVAILABLE: "is unavailable",
}


class KeyAssociation(NamedTuple):
    """Owner of data keys: a log group, or the query results of an account."""

    owner: bytes
    """The group's id; for results, the account."""
    account: str
    arn: str
    """Value of `aws:logs:arn` in the encryption context."""
    kms_key: str | None
    """ARN of the associated key; None: the daemon's own key."""

    @property
    def context(self) -> EncryptionContext:
        """Return the encryption context of the data keys."""
        return {CONTEXT: self.arn}


class KeyUse(msgspec.Struct, frozen=True):
    """Use of a customer's key by the service, successful or refused; for the audit trail."""

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
    """Writer of the audit record of a key use; the record is durable on return."""

    async def __call__(self, use: KeyUse) -> None:
        """Raises `AuditUnavailable`; the key use must then have no effect."""
        ...


class ServiceKeyAccess:
    """The checks before each use of a customer's key. All methods must be called from one event loop."""

    def __init__(self, arns: ArnScope, record: UseRecorder) -> None:
        self._region = arns.region
        self._principal = f"logs.{arns.region}.amazonaws.com"
        self._key_name = lru_cache(MAX_DECISIONS)(partial(parse_key_name, caller_account="", arns=arns, aliases=False))
        self._record = record
        self._decisions: dict[Hashable, Allowed | Denied] = {}
        """Cached policy decisions, keyed by all their inputs: an entry is never stale. The oldest is evicted first."""

    async def usable(
        self, reader: Reader, subject: KeyAssociation, action: str, now: datetime
    ) -> tuple[Key | None, Allowed | None]:
        """Return the associated key if its policy and state allow `action` now; None if no key is associated.

        Raises AccessDeniedException, whose record is durable, and `AuditUnavailable`.
        """
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
                if not Usable.ENABLED.allows(state):
                    error = AccessDeniedException(_not_now(key.arn, state, action))
        if error is None:
            return key, decision
        await self._record_refusal(subject, key, action, now, error)
        raise error

    async def permitted_association(
        self, reader: Reader, subject: KeyAssociation, now: datetime
    ) -> tuple[Key, Mapping[str, Allowed]]:
        """Return the key to be associated, and the decision that allows each action.

        Raises InvalidParameterException for a key that is unknown or not enabled. Raises AccessDeniedException if its
        policy does not allow the service both actions.
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
                # Same answer as for an existing key: do not reveal which keys another account has.
                raise AccessDeniedException(_not_yours(subject), detail="the key does not exist")
            raise InvalidParameterException("The specified KMS Key Id could not be found.")
        decisions: dict[str, Allowed] = {}
        described = await self._authorised(reader, subject, found, "DescribeKey", now)
        if isinstance(described, Allowed):
            # Recorded but not required: AWS's own example policy depends on an encryption context, which DescribeKey
            # does not have.
            await self.record("DescribeKey", subject, found, now, described)
        for action in ("GenerateDataKey", "Decrypt"):
            decision = await self._authorised(reader, subject, found, action, now)
            if isinstance(decision, Denied):
                error = AccessDeniedException(_not_yours(subject), detail=decision.reason)
                await self._record_refusal(subject, found, action, now, error)
                raise error
            decisions[action] = decision
        state = found.state_at(now)
        if not Usable.ENABLED.allows(state):
            raise InvalidParameterException(f"The specified KMS key {name} {_WORDS[state]}.")
        if found.spec is not KeySpec.SYMMETRIC_DEFAULT:
            raise InvalidParameterException(f"The specified KMS key {name} is not a symmetric encryption key.")
        return found, decisions

    async def record(
        self, action: str, subject: KeyAssociation, key: Key, now: datetime, decision: Allowed | None
    ) -> None:
        """Record that the service used a key. Raises `AuditUnavailable`; the use must then have no effect."""
        await self._record(KeyUse(action, self._caller(subject), subject, key.arn, key, now, decision))

    async def _find(self, reader: Reader, kms_key: str) -> Key | None:
        """Return the key of an ARN. Raises InvalidArnException or NotFoundException if it is no ARN of a key here."""
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
        inputs = (key.policy, key.arn, key.origin, action, subject.arn, subject.account, aliases, tuple(tags.items()))
        cached = None if grants else self._decisions.get(inputs)
        if cached is not None:
            return cached
        circumstances = Circumstances(
            now=now,
            region=self._region,
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
            self._decisions[inputs] = decision
        return decision

    def _caller(self, subject: KeyAssociation) -> Caller:
        return _service(self._principal, subject.account)

    async def _record_refusal(
        self, subject: KeyAssociation, key: Key | None, action: str, now: datetime, error: ServiceError
    ) -> None:
        arn = subject.kms_key or ""
        await self._record(KeyUse(action, self._caller(subject), subject, arn, key, now, error=error))


@lru_cache(maxsize=MAX_DECISIONS)
def _service(principal: str, account: str) -> Caller:
    """Return the service principal that acts for an account."""
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
