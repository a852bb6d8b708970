"""The journey of one call: decode, find, authorise, check the key's state, handle, record, commit, answer.

Every path to a key, and what stands on it:

    | who              | authenticated by               | authorised, state checked by | recorded by              |
    |------------------|--------------------------------|------------------------------|--------------------------|
    | an API caller    | `wire.endpoint`, by signature  | `operations.admission`       | this module              |
    | the Logs service | (it acts for a log group)      | `cloudwatch_logs.data_keys`  | `cloudwatch_logs`        |
    | the jobs         | (they destroy and rotate only) | `state_at`, by the clock     | `Rooms.record_job`       |
    | the operator     | the operating system           | (owner of host and PIN)      | `operator_audit`         |

Requests of the API reach a key by this module alone. Whatever happens, one record is durable before the answer
leaves; if it cannot be written, the call fails and has no effect.
"""

from __future__ import annotations

import asyncio
import secrets
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
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
)
from kmsd.event_loop.cohorts import CohortScheduler
from kmsd.operations.admission import admit
from kmsd.operations.declaration import Call, ClientInfo, Dependencies, Handler, Operation, WriteCall
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
    TokenError,
    TokenUnavailable,
)

AnyOperation = Operation[Any, Any]

MAX_ATTEMPTS = 12
"""Attempts at one call, before its client is told of the conflict."""
MIN_PAUSE_MICROS = 2_500
MAX_PAUSE_MICROS = 250_000
"""Bounds of what a call waits at most before it is tried again; the pause doubles with each attempt."""
CROWDED = "Other requests are changing the same resource. Reduce the frequency of your calls."


class Pipeline(msgspec.Struct, frozen=True):
    """Carries calls through. One for each process."""

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
        """The response of one authenticated call. Raises `ServiceError`, and nothing else; the record is durable.

        `books` are those by which the caller was authenticated, and `now` when: the store is asked once a request
        whether they hold.
        """
        kind = WriteCall if operation.writes else Call
        call = kind(self.dependencies, caller.caller, source, request_id, now, reader)
        request: msgspec.Struct | None = None
        try:
            request = decode()
            return await self._retry(operation, request, call)
        except _Unrecorded as exc:
            raise _unrecorded(operation, exc.__cause__) from exc
        except Exception as exc:
            error = as_service_error(exc, operation)
            error.detail += await self._discard(call)
            await self._record(operation, request, call, Outcome(error=error, reason=error.detail))
            raise error from exc
        finally:
            # They lead back to the call, which so would wait, with its request, for the garbage collector: 300 MB of
            # bodies in a rush of log events.
            call.targets.clear()

    async def _retry(self, operation: AnyOperation, request: msgspec.Struct, call: Call) -> msgspec.Struct | None:
        """Carry a call out, and again as a whole where others changed meanwhile what it was about to change.

        Raises `StoreConflict` for the last attempt, or the first where a call cannot be repeated.
        """
        carry_out = partial(self._write, call=call) if isinstance(call, WriteCall) else partial(self._read, call=call)
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                return await carry_out(operation, request)
            except StoreConflict:
                if call.is_recorded or not _is_repeatable(operation):
                    raise
            await self._prepare_retry(call, attempt)
        return await carry_out(operation, request)

    async def _prepare_retry(self, call: Call, attempt: int) -> None:
        """Undo what a failed attempt has made and found, and wait: a random time, so that not all come back at once."""
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

    async def _read(self, operation: AnyOperation, request: msgspec.Struct, call: Call) -> msgspec.Struct | None:
        await admit(operation, request, call)
        await self.cohorts.yield_to_cohort()
        handle: Handler[Any, Any] = operation.handle  # type: ignore[assignment] # as `operation.writes` says
        response: msgspec.Struct | None = await handle(request, call)
        _refuse_dry_run(request)
        await self.cohorts.yield_to_cohort()
        await self._record(operation, request, call, Outcome(response))
        for act in call.after_commit:
            await act()
        return response

    async def _write(self, operation: AnyOperation, request: msgspec.Struct, call: WriteCall) -> msgspec.Struct | None:
        if operation.prepare is not None:
            await admit(operation, request, call)
            call.prepared = await operation.prepare(request, call)
        async with self.dependencies.store.write() as transaction:
            call.enter(transaction, self.clock.now())
            await admit(operation, request, call)
            response: msgspec.Struct | None = await operation.handle(request, call)
            _refuse_dry_run(request)
            # The record first: what is committed without one would have happened unrecorded.
            await self._record(operation, request, call, Outcome(response=response))
        call.created.clear()
        for act in call.after_commit:
            await act()
        return response

    async def _discard(self, call: Call) -> str:
        """Undo what `prepare` made. What cannot be undone now is settled by reconcile: its intent is in the store.

        That is then said, for the record.
        """
        left, store, token = "", self.dependencies.store, self.dependencies.tokens.main
        while call.created:
            try:
                await token_objects.roll_back(store, token, call.created.pop())
            except (StoreError, TokenError) as exc:
                left += f" (left to reconcile: {exc})"
        return left

    async def _record(
        self, operation: AnyOperation, request: msgspec.Struct | None, call: Call, outcome: Outcome
    ) -> None:
        record = audit.record_of_call(operation, request, call, outcome)
        call.is_recorded = True
        self.cohorts.in_flight -= 1
        try:
            await self.sink.append(record)
        except AuditUnavailable as exc:
            if outcome.error is not None:
                raise _unrecorded(operation, exc) from exc
            raise _Unrecorded from exc
        finally:
            self.cohorts.in_flight += 1


class _Unrecorded(Exception):
    """The record of a success could not be written; there is no use in trying to record that."""


def _is_repeatable(operation: AnyOperation) -> bool:
    """True if a conflict is the daemon's to resolve.

    CloudWatch Logs tells the client of a conflict where the operation declares OperationAbortedException. What appends
    gives its events away as it seals them.
    """
    return OperationAbortedException not in operation.raises and not operation.appends


def _refuse_dry_run(request: msgspec.Struct) -> None:
    if getattr(request, "dry_run", None):
        raise DryRunOperationException("The request would have succeeded, but the DryRun option is set.")


def _unrecorded(operation: AnyOperation, cause: BaseException | None) -> ServiceError:
    """The refusal of a call whose record cannot be written."""
    return operation.service.translate_error(KMSInternalException(detail=f"audit: {cause}"), None)


def as_service_error(exc: Exception, operation: AnyOperation | None = None) -> ServiceError:
    """What a client sees of an exception: the table of ports' errors. The unknown ones lose their text."""
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
        case StoreConflict():
            return _conflict(exc, operation)
        case StoreTimeout():
            return DependencyTimeoutException("The request took too long.", detail=str(exc))
        case StoreError() | TokenError():
            return KMSInternalException(detail=f"{type(exc).__name__}: {exc}")
        case _:
            # The text of an unforeseen exception may quote what it stumbled over; its place is enough to find it.
            frames = traceback.extract_tb(exc.__traceback__)
            where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
            return KMSInternalException(detail=f"{type(exc).__name__} at {where}")


def _conflict(exc: StoreConflict, operation: AnyOperation | None) -> ServiceError:
    """What the last conflict of a call is told as."""
    detail = f"StoreConflict: {exc}"
    if operation is not None and OperationAbortedException in operation.raises:
        return OperationAbortedException(ABORTED, detail=detail)
    # KMS Developer Guide, Throttling: "a high or sustained rate of requests to change the state of the same KMS key".
    return ThrottlingException(CROWDED, detail=detail)


def _uses_key(operation: AnyOperation) -> bool:
    return any(access.states is not None for access in operation.access)
