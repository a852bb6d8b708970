"""What an operation is: one declaration, from which all else is derived.

From a declaration follow its target header, wire names, validation, which keys are found and how, the
actions that are authorised, key-state refusals, what an audit record shows, whether it writes, and its
line in docs/operations.md. A handler starts when all that has been checked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed, AuthorizationRequest, Decision
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain.arn import ArnScope
from kmsd.domain.ciphertext_blob import Blob
from kmsd.domain.encryption_context import EncryptionContext
from kmsd.domain.key import Key
from kmsd.domain.key_import import WrappingAlgorithm
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
    """One of the services that a listener answers for."""

    scope: str
    """The service name in the credential scope, and the prefix of its actions."""
    target_prefix: str
    """What X-Amz-Target begins with; empty for a service that is asked by forms."""
    event_source: str
    """The name in audit records."""
    translate_error: Callable[[ServiceError, Exception | None], ServiceError] = _unchanged
    """An error of the core by the service's own name. The exception is what the error was made from, if any."""
    common_errors: tuple[type[ServiceError], ...] = (DependencyTimeoutException, KMSInternalException)
    """What every operation may answer."""


KMS = Service("kms", "TrentService.", "kms.amazonaws.com")
STS = Service("sts", "", "sts.amazonaws.com")


class Kind(Enum):
    """A kind of operation: request quotas, audit records and errors differ."""

    CRYPTOGRAPHIC = "cryptographic"
    """Uses key material, or the token's random numbers."""
    MANAGEMENT = "management"


# --- What a call reaches ----------------------------------------------------------------------------


class Access(msgspec.Struct, frozen=True):
    """One thing that an operation reaches. Each kind finds its own targets and says what must hold of them."""

    asks_permission: ClassVar[bool] = True
    """True if admission authorises the targets."""
    has_own_rule: ClassVar[bool] = False
    """True if `decide` asks more than policies and grants: its answers are not cached."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """What finding and checking may answer, for the page on operations."""
        return ()

    @property
    def states(self) -> Usable | None:
        """In which states of a key the operation works; None: it asks for no key."""
        return None

    def words(self) -> str:
        """Say what is reached, for the page on operations."""
        return "no resource"

    def decide(self, query: AuthorizationRequest, target: Target) -> tuple[AuthorizationRequest, Decision]:
        """Decide by policies and grants. Return the final question and the decision."""
        del target
        return query, authorize(query)

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """The targets: one, none where an optional member is absent, or several. Raises `ServiceError`."""
        raise NotImplementedError

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Raise `ServiceError` unless a target that the caller may reach is fit for the operation."""


class Target(msgspec.Struct):
    """What one `Access` found; `admit` adds what allows it. (A struct, as `Call`: they are made for every call.)"""

    arn: str
    key: Key | None = None
    blob: Blob | None = None
    alias: str = ""
    """The alias by which the request named the key (`kms:RequestAlias`)."""
    named: str = ""
    """The ARN that the request gives a key or alias of another account; a refusal names nothing else."""
    by_blob: bool = False
    """Whether the blob alone names the key."""
    absent: bool = False
    """Whether `key` only stands for one that is not there: nothing permits it, and admission takes it away."""
    decision: Allowed | None = None
    """The statement or grant that allows it."""
    authorization_request: AuthorizationRequest | None = None
    """What that decision answers; None where the decision was remembered (`kmsd.operations.decision_cache`)."""
    resource: object | None = None
    """What was found, if it is no key."""
    resource_tags: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    """Reads the tags of what was found, if it is no key; policies may ask."""


# --- A call -----------------------------------------------------------------------------------------


class ClientInfo(msgspec.Struct, frozen=True):
    """Where a request came from."""

    address: str
    """IP address; empty for a Unix socket."""
    user_agent: str
    tls_version: str | None
    """`TLSv1.3`; None for plain HTTP."""
    cipher: str | None = None
    host: str = ""
    """The Host header."""
    via_service: str = ""
    """`logs.us-east-1.amazonaws.com` where a service of the daemon acts for the caller (`kms:ViaService`)."""


class Dependencies(msgspec.Struct):
    """What every call of this process shares."""

    arns: ArnScope
    quotas: Quotas
    store: Store
    tokens: Tokens
    refused_wrapping: frozenset[WrappingAlgorithm] = frozenset()
    """Wrapping algorithms that the configuration refuses."""
    services: Mapping[type, object] = {}
    """What services beside KMS and STS work with, by its type."""


class Call(msgspec.Struct, eq=False):
    """One call: who asks, when, and what was found for it."""

    dependencies: Dependencies
    caller: Caller
    source: ClientInfo
    request_id: str
    now: datetime
    reader: Reader
    """What to read; within a writing operation, the transaction."""
    targets: list[Target] = []
    prepared: Any = None
    """What the operation's `prepare` returned."""
    created: list[bytes] = []
    """Token objects that `prepare` made under an intent; discarded unless the transaction commits."""
    after_commit: list[Callable[[], Awaitable[None]]] = []
    """What the handler wants done once its changes are durable, before the answer."""
    response_keys: tuple[str, ...] = ()
    """ARNs for the record that no target names (CreateKey's new key)."""
    grant_id: str = ""
    """For the record: the grant that the call is about, where the request may not name it (RetireGrant)."""
    is_recorded: bool = False
    """Whether a record of the call was handed to the sink: from then on it is not repeated."""

    @property
    def key(self) -> Key:
        """The first target's key."""
        key = self.targets[0].key
        return self.key_at(0) if key is None else key

    def key_at(self, index: int) -> Key:
        """The key of one target."""
        key = self.targets[index].key
        if key is None:
            raise LookupError("this operation has no key there")
        return key

    def blob_at(self, index: int) -> Blob:
        """The parsed blob of one target."""
        blob = self.targets[index].blob
        if blob is None:
            raise LookupError("this operation has no blob there")
        return blob

    @property
    def token(self) -> Token:
        """Return the token that holds the daemon's own keys."""
        return self.dependencies.tokens.main

    @property
    def tokens(self) -> Tokens:
        """Return all tokens."""
        return self.dependencies.tokens

    async def service_sealer(self) -> ServiceSealer:
        """The box for markers and tokens of the API."""
        return await ServiceSealer.of(self.reader, self.token)


class WriteCall(Call, eq=False):
    """A call of an operation that writes. While its handler runs, `reader` is the transaction too."""

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
        # Not earlier: what was found for `prepare` is in the record, should the store not open a transaction.
        self.targets.clear()


Handler = Callable[[RequestT, Call], Awaitable[ResponseT]]
WriteHandler = Callable[[RequestT, WriteCall], Awaitable[ResponseT]]
"""Of an operation that `writes`."""


class Operation(msgspec.Struct, Generic[RequestT, ResponseT], frozen=True, eq=False, dict=True):
    """One operation of the API."""

    service: Service
    name: str
    request: type[RequestT]
    response: type[ResponseT] | None
    handle: Handler[RequestT, ResponseT] | WriteHandler[RequestT, ResponseT]
    access: tuple[Access, ...]
    raises: tuple[type[ServiceError], ...] = ()
    """Errors that are its own, beside those that follow from its access and shapes."""
    kind: Kind = Kind.MANAGEMENT
    writes: bool = False
    """Runs in a transaction; the record is durable before it commits."""
    creates: bool = False
    """Makes the resource that it is authorised on: attributes and tags in conditions are those of the request."""
    appends: bool = False
    """Changes nothing in the store: what it does, it does in `Call.after_commit`, once its record is durable."""
    delegates: bool = False
    """The handler needs `Target.query`: what was asked, not the answer alone."""
    prepare: Callable[[RequestT, WriteCall], Awaitable[Any]] | None = None
    """Acts on the token before the transaction (under an intent); its result is in `Call.prepared`."""

    @cached_property
    def action(self) -> str:
        """`kms:Encrypt`."""
        return f"{self.service.scope}:{self.name}"

    @property
    def target(self) -> str:
        """The value of X-Amz-Target."""
        return self.service.target_prefix + self.name


def context_of(access: Access, request: msgspec.Struct) -> EncryptionContext:
    """The encryption context that `access` speaks of; for CreateGrant, the pairs of the grant's constraint."""
    member = getattr(access, "context", None)
    if member is not None:
        context: EncryptionContext = getattr(request, member)
        return context
    constraints = getattr(request, "constraints", None)
    if constraints is None:
        return {}
    return constraints.encryption_context_equals or constraints.encryption_context_subset or {}
