"""Declaration of operations. Everything else about an operation is derived from its declaration.

Target header, wire names, validation, lookup of keys, authorised actions and refusals by key state follow from it. So
do the contents of the audit record, read or write, and the section in docs/operations.md. A handler runs after all
checks have passed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import UNSET

from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed, AuthorizationRequest, Decision
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain.arn import ArnScope
from kmsd.domain.ciphertext_blob import Blob
from kmsd.domain.encryption_context import EncryptionContext
from kmsd.domain.key import Key
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import Usable
from kmsd.domain.principal import Caller
from kmsd.domain.quotas import Quotas
from kmsd.errors import DependencyTimeoutException, KMSInternalException, ServiceError
from kmsd.ports import Reader, Store, Token, Tokens, Transaction

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
ResponseT = TypeVar("ResponseT", bound=msgspec.Struct | None)


def _unchanged(error: ServiceError, _: Exception | None = None) -> ServiceError:
    return error


class Service(msgspec.Struct, frozen=True, eq=False):
    """An AWS service that the daemon offers."""

    scope: str
    """The service name in the credential scope, and the prefix of its actions."""
    target_prefix: str
    """Prefix of X-Amz-Target; empty for a service with form-encoded requests."""
    event_source: str
    """The name in audit records."""
    translate_error: Callable[[ServiceError, Exception | None], ServiceError] = _unchanged
    """Translates an error of the core to the service's own error. The exception is the cause of the error, if any."""
    common_errors: tuple[type[ServiceError], ...] = (DependencyTimeoutException, KMSInternalException)
    """Errors that every operation may return."""


KMS = Service("kms", "TrentService.", "kms.amazonaws.com")
STS = Service("sts", "", "sts.amazonaws.com")


class Kind(Enum):
    """Kind of operation. Request quotas, audit records and errors depend on it."""

    CRYPTOGRAPHIC = "cryptographic"
    """Uses key material or the token's random numbers."""
    MANAGEMENT = "management"


# --- Resources of a call ----------------------------------------------------------------------------


class Access(msgspec.Struct, frozen=True):
    """A resource that an operation accesses. Each subclass finds its own targets and checks them."""

    asks_permission: ClassVar[bool] = True
    """True if admission authorises the targets."""
    has_own_rule: ClassVar[bool] = False
    """True if `decide` uses more than policies and grants. Its decisions are not cached."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Errors that `find` and `check` may raise, for docs/operations.md."""
        return ()

    @property
    def states(self) -> Usable | None:
        """Key states in which the operation works; None if it accesses no key."""
        return None

    def words(self) -> str:
        """Describe the resource, for docs/operations.md."""
        return "no resource"

    def decide(self, auth_request: AuthorizationRequest, target: Target) -> tuple[AuthorizationRequest, Decision]:
        """Decide by policies and grants. Return the final authorization request and the decision."""
        del target
        return auth_request, authorize(auth_request)

    def action_of(self, operation: Operation[Any, Any]) -> str:
        """Return the action that authorises this access in an operation."""
        action = getattr(self, "action", None)
        return operation.action if action is None else f"{operation.service.scope}:{action}"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return the targets: one, none if an optional member is absent, or several. Raises `ServiceError`."""
        raise NotImplementedError

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Check that an authorised target is in a state in which the operation works. Raises `ServiceError`."""


class Target(msgspec.Struct):
    """A resource found by an `Access`; `admit` adds the decision. (A struct for speed: every call creates some.)"""

    arn: str
    key: Key | None = None
    blob: Blob | None = None
    alias: str = ""
    """The alias in the request that names the key (`kms:RequestAlias`)."""
    named: str = ""
    """The ARN in the request of another account's key or alias. A refusal shows nothing else."""
    by_blob: bool = False
    """True if only the blob names the key."""
    absent: bool = False
    """True if `key` is a placeholder for a key that does not exist. Admission refuses it and removes `key`."""
    decision: Allowed | None = None
    """The decision, with the statement or grant that allows the access."""
    authorization_request: AuthorizationRequest | None = None
    """The request of that decision; None if the decision was cached (`kmsd.operations.admission`)."""
    resource: object | None = None
    """The resource, if it is not a key."""
    resource_tags: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    """Reads the tags of a resource that is not a key, for policies."""


# --- A call -----------------------------------------------------------------------------------------


class ClientInfo(msgspec.Struct, frozen=True):
    """Origin of a request."""

    address: str
    """IP address; empty for a Unix socket."""
    user_agent: str
    tls_version: str | None
    """`TLSv1.3`; None for plain HTTP."""
    cipher: str | None = None
    host: str = ""
    """The Host header."""
    via_service: str = ""
    """`logs.us-east-1.amazonaws.com` if a service of the daemon acts for the caller (`kms:ViaService`)."""


class Dependencies(msgspec.Struct):
    """Dependencies shared by all calls of a process."""

    arns: ArnScope
    quotas: Quotas
    store: Store
    tokens: Tokens
    refused_wrapping: frozenset[WrappingAlgorithm] = frozenset()
    """Wrapping algorithms that the configuration refuses."""
    services: Mapping[type, object] = {}
    """Dependencies of services other than KMS and STS, by type."""


class Call(msgspec.Struct, eq=False):
    """A call: caller, time, and the targets found for it."""

    dependencies: Dependencies
    caller: Caller
    source: ClientInfo
    request_id: str
    now: datetime
    reader: Reader
    """Snapshot of the store; within a writing operation, the transaction."""
    tokens: Tokens
    """All tokens."""
    key: Key = UNSET  # type: ignore[assignment]  # what asks it for anything then raises AttributeError
    """Key of the first target. Set by admission, if the target has one."""
    targets: list[Target] = []
    prepared: Any = None
    """Result of the operation's `prepare`."""
    created: list[bytes] = []
    """Token objects that `prepare` created under an intent. They are rolled back unless the transaction commits."""
    after_commit: list[Callable[[], Awaitable[None]]] = []
    """Functions to run once the handler's changes are durable, before the response."""
    response_keys: tuple[str, ...] = ()
    """ARNs for the audit record that no target has (CreateKey's new key)."""
    grant_id: str = ""
    """Grant for the audit record, if the request may not name it (RetireGrant)."""
    is_recorded: bool = False
    """True once an audit record was passed to the sink. From then on the call is not retried."""

    def key_at(self, index: int) -> Key:
        """Return the key of a target. Raises LookupError if it has none."""
        key = self.targets[index].key
        if key is None:
            raise LookupError("this operation has no key there")
        return key

    def blob_at(self, index: int) -> Blob:
        """Return the parsed blob of a target. Raises LookupError if it has none."""
        blob = self.targets[index].blob
        if blob is None:
            raise LookupError("this operation has no blob there")
        return blob

    @property
    def token(self) -> Token:
        """The main token, which holds all keys."""
        return self.tokens.main

    async def service_sealer(self) -> ServiceSealer:
        """Return the sealer for markers and tokens of the API."""
        return await ServiceSealer.of(self.reader, self.token)


class WriteCall(Call, eq=False):
    """A call of an operation that writes. While its handler runs, `reader` is the transaction."""

    _transaction: Transaction | None = None

    @property
    def transaction(self) -> Transaction:
        """The open transaction. Raises LookupError before and in `prepare`."""
        if self._transaction is None:
            raise LookupError("the transaction is not open yet")
        return self._transaction

    def enter(self, transaction: Transaction, now: datetime) -> None:
        """Continue within a transaction."""
        self._transaction = self.reader = transaction
        self.now = now
        # Not earlier: if the store cannot open a transaction, the audit record shows the targets found for `prepare`.
        self.targets.clear()


Handler = Callable[[RequestT, Call], Awaitable[ResponseT]]
WriteHandler = Callable[[RequestT, WriteCall], Awaitable[ResponseT]]
"""Handler of an operation with `writes`."""


class Operation(msgspec.Struct, Generic[RequestT, ResponseT], frozen=True, eq=False, dict=True):
    """One operation of the API."""

    service: Service
    name: str
    request: type[RequestT]
    response: type[ResponseT] | None
    handle: Handler[RequestT, ResponseT] | WriteHandler[RequestT, ResponseT]
    access: tuple[Access, ...]
    raises: tuple[type[ServiceError], ...] = ()
    """Errors of its own, in addition to those that follow from its access and shapes."""
    kind: Kind = Kind.MANAGEMENT
    writes: bool = False
    """True if it runs in a transaction. The audit record is durable before the commit."""
    creates: bool = False
    """True if it creates the resource that it is authorised on. Conditions then see the request's attributes and tags.
    """
    appends: bool = False
    """True if it changes nothing in the store and acts only in `Call.after_commit`, once its record is durable."""
    by_web_identity: bool = False
    """True if a web token in the request authenticates the caller. The request is not signed."""
    delegates: bool = False
    """True if the handler needs `Target.authorization_request`, not only the decision."""
    grantable: frozenset[KeySpec] = frozenset()
    """Specs of the keys on which a grant may allow it, though it needs none of their usages."""
    prepare: Callable[[RequestT, WriteCall], Awaitable[Any]] | None = None
    """Acts on the token before the transaction (under an intent). Its result is in `Call.prepared`."""

    @cached_property
    def action(self) -> str:
        """Action in policies: `kms:Encrypt`."""
        return f"{self.service.scope}:{self.name}"

    @cached_property
    def actions(self) -> tuple[tuple[Access, str], ...]:
        """Each access with the action that authorises it."""
        return tuple((access, access.action_of(self)) for access in self.access)

    @property
    def target(self) -> str:
        """The value of X-Amz-Target."""
        return self.service.target_prefix + self.name


def context_of(access: Access, request: msgspec.Struct) -> EncryptionContext:
    """Return the encryption context of an access; for CreateGrant, the pairs of the grant's constraint."""
    member = getattr(access, "context", None)
    if member is not None:
        context: EncryptionContext = getattr(request, member)
        return context
    constraints = getattr(request, "constraints", None)
    if constraints is None:
        return {}
    return constraints.encryption_context_equals or constraints.encryption_context_subset or {}
