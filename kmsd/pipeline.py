"""Pipeline of one call: decode, find, authorise, check key state, handle, record, commit, respond.

All paths to a key, with their checks:

    | actor            | authentication                 | authorisation, key state     | audit record             |
    |------------------|--------------------------------|------------------------------|--------------------------|
    | API caller       | `wire.endpoint`, by signature, | `operations.admission`       | this module              |
    |                  | or once by a web token         |                              |                          |
    | Logs service     | (acts for a log group)         | `cloudwatch_logs.data_keys`  | `cloudwatch_logs`        |
    | jobs             | (destroy, rotate, rewrap)      | `state_at`, by the clock     | `Components.record_job`  |
    | operator         | the operating system           | (owner of host and PIN)      | `operator_audit`         |

API requests reach a key only through this module. One audit record of every call, failed ones included, is durable
before the response. If the record cannot be written, the call fails and has no effect.
"""

from __future__ import annotations

import asyncio
import secrets
import traceback
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec

from kmsd import audit
from kmsd.audit import Outcome
from kmsd.custody import token_objects
from kmsd.domain.principal import AuthenticatedCaller
from kmsd.errors import (
    ABORTED,
    DependencyTimeoutException,
    DryRunOperationException,
    InvalidCiphertextException,
    KeyUnavailableException,
    KMSInternalException,
    OperationAbortedException,
    ServiceError,
    ThrottlingException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.event_loop.cohorts import MIN_COHORT, CohortScheduler, pause
from kmsd.operations.admission import admit
from kmsd.operations.declaration import Call, ClientInfo, Dependencies, Operation, WriteCall
from kmsd.ports import (
    AuditSink,
    AuditUnavailable,
    Clock,
    MechanismMissing,
    NoSuchObject,
    NotAuthentic,
    Reader,
    StoreConflict,
    StoreError,
    StoreTimeout,
    TextRefused,
    TokenError,
    TokenUnavailable,
)

AnyOperation = Operation[Any, Any]
Attempt = Callable[[AnyOperation, msgspec.Struct, Any], Awaitable[msgspec.Struct | None]]

MAX_ATTEMPTS = 12
"""Attempts at one call before the client gets the conflict as an error."""
MIN_PAUSE_MICROS = 2_500
MAX_PAUSE_MICROS = 250_000
"""Bounds of the maximum pause before a retry. The maximum doubles with each attempt; the pause is random below it."""
CROWDED = "Other requests are changing the same resource. Reduce the frequency of your calls."


class Pipeline(msgspec.Struct, frozen=True):
    """Runs calls. One instance per process."""

    dependencies: Dependencies
    clock: Clock
    sink: AuditSink
    cohorts: CohortScheduler = msgspec.field(default_factory=CohortScheduler)

    async def run(
        self,
        operation: AnyOperation,
        decode: Callable[[], msgspec.Struct],
        *,
        caller: AuthenticatedCaller,
        source: ClientInfo,
        request_id: str,
        reader: Reader,
        now: datetime,
    ) -> msgspec.Struct | None:
        """Run one authenticated call and return its response. Raises `ServiceError` and nothing else.

        The audit record is durable on return. `reader` is the snapshot that authenticated the caller, `now` the time of
        that check. One snapshot serves the whole request, so the store is checked for changes only once.
        """
        kind = WriteCall if operation.writes else Call
        call = kind(self.dependencies, caller.caller, source, request_id, now, reader, self.dependencies.tokens)
        request: msgspec.Struct | None = None
        try:
            request = decode()
            attempt: Attempt = self._write if operation.writes else self._execute
            try:
                response = await attempt(operation, request, call)
            except StoreConflict as exc:
                response = await self._retry(attempt, operation, request, call, exc)
            for act in call.after_commit:
                await act()
        except _Unrecorded as exc:
            raise _unrecorded(operation, exc.__cause__) from exc
        except Exception as exc:
            error = as_service_error(exc, operation)
            error.detail += await self._discard(call)
            await self._record_failure(operation, request, call, error)
            raise error from exc
        finally:
            # Break the reference cycle from the targets to the call. Otherwise the request body lives until the next
            # garbage collection: 300 MB under a burst of log events.
            call.targets.clear()
        return response

    async def _execute(self, operation: AnyOperation, request: msgspec.Struct, call: Call) -> msgspec.Struct | None:
        """Admit a call, handle it, and record it. The record is durable on return.

        Calls in flight go through these stages together, except in a transaction: others wait for its end.
        """
        cohorts = self.cohorts
        await admit(operation, request, call)
        if cohorts.in_flight >= MIN_COHORT and not operation.writes:
            await pause()
        response: msgspec.Struct | None = await operation.handle(request, call)  # type: ignore[arg-type] # as `writes` says
        if getattr(request, "dry_run", None):
            raise DryRunOperationException("The request would have succeeded, but the DryRun option is set.")
        if cohorts.in_flight >= MIN_COHORT and not operation.writes:
            await pause()
        if isinstance(call, WriteCall):
            call.transaction.finish()
        record = audit.record_of_call(operation, request, call, Outcome(response))
        call.is_recorded = True
        try:
            await self.sink.append(record)
        except AuditUnavailable as exc:
            raise _Unrecorded from exc
        return response

    async def _write(self, operation: AnyOperation, request: msgspec.Struct, call: WriteCall) -> msgspec.Struct | None:
        if operation.prepare is not None:
            await admit(operation, request, call)
            call.prepared = await operation.prepare(request, call)
        async with self.dependencies.store.write() as transaction:
            call.enter(transaction, self.clock.now())
            # The record is written before the commit, so that no change is committed without a record.
            response = await self._execute(operation, request, call)
        call.created.clear()
        return response

    async def _retry(
        self,
        attempt: Attempt,
        operation: AnyOperation,
        request: msgspec.Struct,
        call: Call,
        conflict: StoreConflict,
    ) -> msgspec.Struct | None:
        """Run a call again, as a whole: another call has changed the same rows in the meantime.

        Raises `StoreConflict` of the last attempt, or of the first if the call is not repeatable.
        """
        for number in range(1, MAX_ATTEMPTS):
            if call.is_recorded or not _is_repeatable(operation):
                break
            await self._prepare_retry(call, number)
            try:
                return await attempt(operation, request, call)
            except StoreConflict as exc:
                conflict = exc
        raise conflict

    async def _prepare_retry(self, call: Call, attempt: int) -> None:
        """Undo a failed attempt and pause. The pause is random, so that conflicting calls do not retry together."""
        await self._discard(call)
        call.targets.clear()
        call.after_commit.clear()
        call.prepared, call.response_keys, call.grant_id = None, (), ""
        self.cohorts.in_flight -= 1
        try:
            most = min(MAX_PAUSE_MICROS, MIN_PAUSE_MICROS << attempt)
            await asyncio.sleep(secrets.randbelow(most) / 1e6)
        finally:
            self.cohorts.in_flight += 1
        call.reader, call.now = await self.dependencies.store.read(), self.clock.now()

    async def _discard(self, call: Call) -> str:
        """Roll back the token objects that `prepare` created. Return a note for the record if that fails.

        The intent is in the store, so reconcile later destroys what cannot be rolled back now.
        """
        try:
            await token_objects.roll_back_new(self.dependencies.store, self.dependencies.tokens, call.created)
        except (StoreError, TokenError) as exc:
            call.created.clear()
            return f" (left to reconcile: {exc})"
        return ""

    async def _record_failure(
        self, operation: AnyOperation, request: msgspec.Struct | None, call: Call, error: ServiceError
    ) -> None:
        """Record a call that failed. Raises the error for a call whose record cannot be written."""
        try:
            await self.sink.append(audit.record_of_call(operation, request, call, Outcome(None, error, error.detail)))
        except AuditUnavailable as exc:
            raise _unrecorded(operation, exc) from exc


class _Unrecorded(Exception):
    """The record of a successful call could not be written. Recording this failure would fail as well."""


def _is_repeatable(operation: AnyOperation) -> bool:
    """True if the daemon retries the operation after a conflict.

    CloudWatch Logs reports a conflict to the client if the operation declares OperationAbortedException. An operation
    that appends releases its events when it seals them, so it cannot run twice.
    """
    return OperationAbortedException not in operation.raises and not operation.appends


def _unrecorded(operation: AnyOperation, cause: BaseException | None) -> ServiceError:
    """Return the error for a call whose record cannot be written."""
    return operation.service.translate_error(KMSInternalException(detail=f"audit: {cause}"), None)


def as_service_error(exc: Exception, operation: AnyOperation | None = None) -> ServiceError:
    """Translate an exception to the error for the client. Unknown exceptions lose their text."""
    error = _translated(exc, operation)
    return error if operation is None else operation.service.translate_error(error, exc)


def _translated(exc: Exception, operation: AnyOperation | None) -> ServiceError:
    match exc:
        case ServiceError():
            return exc
        case NotAuthentic():
            return InvalidCiphertextException(detail=str(exc))
        case NoSuchObject():
            return KeyUnavailableException("The key material is not in the token.", detail=str(exc))
        case MechanismMissing():
            return UnsupportedOperationException(f"The token does not offer {exc}")
        case TokenUnavailable() if operation is not None and _uses_key(operation):
            return KeyUnavailableException("The token cannot be reached now.", detail=str(exc))
        case TokenUnavailable():
            return DependencyTimeoutException("The token cannot be reached now.", detail=str(exc))
        case StoreError():
            return _of_store(exc, operation)
        case TokenError():
            return KMSInternalException(detail=f"{type(exc).__name__}: {exc}")
        case _:
            # The text of an unexpected exception may quote secret data. Its location is enough to find the fault.
            frames = traceback.extract_tb(exc.__traceback__)
            where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
            return KMSInternalException(detail=f"{type(exc).__name__} at {where}")


def _of_store(exc: StoreError, operation: AnyOperation | None) -> ServiceError:
    match exc:
        case StoreConflict():
            return _conflict(exc, operation)
        case StoreTimeout():
            return DependencyTimeoutException("The request took too long.", detail=str(exc))
        case TextRefused():
            return ValidationException(str(exc))
        case _:
            return KMSInternalException(detail=f"{type(exc).__name__}: {exc}")


def _conflict(exc: StoreConflict, operation: AnyOperation | None) -> ServiceError:
    """Translate the last conflict of a call."""
    detail = f"StoreConflict: {exc}"
    if operation is not None and OperationAbortedException in operation.raises:
        return OperationAbortedException(ABORTED, detail=detail)
    # KMS Developer Guide, Throttling: "a high or sustained rate of requests to change the state of the same KMS key".
    return ThrottlingException(CROWDED, detail=detail)


def _uses_key(operation: AnyOperation) -> bool:
    return any(access.states is not None for access in operation.access)
