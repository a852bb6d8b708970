"""Endpoint of the API: from a complete HTTP request to a response.

`X-Amz-Target` selects the service; the signature must be scoped to the same one. Before a signature is verified,
only the probes are answered.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache, partial
from time import monotonic, perf_counter
from typing import NoReturn
from typing import Protocol as TypingProtocol

import msgspec
import structlog

from kmsd import audit
from kmsd.custody.credentials import CredentialStore, Scope
from kmsd.domain.principal import AuthenticatedCaller, Caller
from kmsd.errors import (
    KMSInternalException,
    ServiceError,
    ThrottlingException,
    UnknownOperationException,
    UnrecognizedClientException,
    ValidationException,
)
from kmsd.event_loop.cohorts import MIN_COHORT, pause
from kmsd.operations.declaration import KMS, ClientInfo
from kmsd.operations.sts import assume_role_with_web_identity
from kmsd.pipeline import AnyOperation, Pipeline, as_service_error
from kmsd.ports import AuditUnavailable, Clock, Reader
from kmsd.wire import readiness
from kmsd.wire.http.messages import Request, Response, Tls, new_request_id
from kmsd.wire.protocols.dispatch import Protocol, QueryProtocol, RoutedRequest, protocol_of
from kmsd.wire.readiness import Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4 import claim as sigv4
from kmsd.wire.sigv4.claim import RawRequest, SignedRequest, authenticate, reject_unknown_key
from kmsd.wire.throttling import Throttle
from kmsd.wire.web_identity.verification import WebIdentities

log = structlog.get_logger()

HTTP_INTERNAL = 500
OK = "OK"
RATE_EXCEEDED = "Rate exceeded"


class Meter(TypingProtocol):
    """Counts requests. Called once for each request, so it must cost next to nothing."""

    def answered(self, target: str, code: str, seconds: float) -> None:
        """Count one request: its target as the client wrote it, the error's name or `OK`, and its duration."""
        ...


class _NoMeter:
    def answered(self, target: str, code: str, seconds: float) -> None:
        """Discard the measurement."""


NO_METER: Meter = _NoMeter()


class _Attempt(msgspec.Struct):
    """Facts about a caller while its request is authenticated, for the record of a refusal."""

    access_key_id: str = ""
    caller: Caller | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """Handles the requests of one process."""

    pipeline: Pipeline
    credentials: CredentialStore
    readiness: Readiness
    """Source of the `/readyz` response."""
    refusals: RefusedRequestLog
    meter: Meter = NO_METER
    wall: Clock | None = None
    """The host's wall clock, for judging signatures; None: the pipeline's clock, which never goes back."""
    rates: Throttle | None = None
    """Rate limits of principals; None: unlimited."""
    web_identities: WebIdentities = WebIdentities()
    """Verifies web tokens."""

    async def handle(self, request: Request) -> Response:
        """Return the response to one request. Never raises."""
        received = request.received
        if received.method in ("GET", "HEAD") and received.target in readiness.PROBE_TARGETS:
            return await self._probe(received.target)
        request_id, protocol = new_request_id(), protocol_of(received)
        begun, code, pipeline = perf_counter(), OK, self.pipeline
        try:
            source, now = source_of(request), pipeline.clock.now()
            routed, caller, reader = await self._authenticated(received, protocol, source, now, request_id)
            if pipeline.cohorts.in_flight >= MIN_COHORT:
                await pause()
            response = await pipeline.run(
                routed.operation,
                routed.decode,
                caller=caller,
                source=source,
                request_id=request_id,
                reader=reader,
                now=now,
            )
            return routed.render(response, request_id)
        except ServiceError as error:
            code = error.code
            if error.status >= HTTP_INTERNAL:
                log.error(  # noqa: TRY400 (one line; where it happened is in `detail`)
                    "call_failed", request_id=request_id, code=error.code, detail=error.detail
                )
            _break_traceback_cycles(error)
            return protocol.error(error, request_id)
        except Exception as error:
            # The client sees nothing of it; the log gets the places of the traceback, not its values.
            log.exception("unexpected_error", request_id=request_id)
            _break_traceback_cycles(error)
            code = KMSInternalException.__name__
            return protocol.error(KMSInternalException(), request_id)
        finally:
            self.meter.answered(protocol.target, code, perf_counter() - begun)

    async def _authenticated(
        self, received: RawRequest, protocol: Protocol, source: ClientInfo, now: datetime, request_id: str
    ) -> tuple[RoutedRequest, AuthenticatedCaller, Reader]:
        """Return the operation and its caller, with the reader that the credentials were read from.

        Raises `ServiceError`, after the refusal is recorded.
        """
        attempt = _Attempt()
        try:
            if protocol.service is None:
                raise UnknownOperationException(detail=f"unknown target {protocol.name!r}")
            # Use the wall clock: one that ran ahead and was set right again must not shut every client out.
            wall = now if self.wall is None else self.wall.now()
            if isinstance(protocol, QueryProtocol):
                unsigned = await self._by_web_identity(received, protocol, source, wall)
                if unsigned is not None:
                    return unsigned
            region, services = self.pipeline.dependencies.arns.region, (protocol.service.scope,)
            signed_request = sigv4.parse(received, region=region, services=services, now=wall)
            attempt.access_key_id = signed_request.access_key_id
            caller, reader = await self._by_signature(signed_request, now)
            attempt.caller = caller.caller
            routed = protocol.route(received)
            if self.rates is not None and routed.operation in self.rates.buckets:
                self._limit(routed.operation, caller.caller.principal_arn)
            if routed.operation.by_web_identity:
                raise ValidationException("The request must not be signed.")
        except ServiceError as error:
            await self._refused(
                error, request_id=request_id, source=source, now=now, protocol=protocol, attempt=attempt
            )
        return routed, caller, reader

    def _limit(self, operation: AnyOperation, principal: str) -> None:
        """Raise ThrottlingException if the principal exceeds its rate."""
        if self.rates is not None and not self.rates.allow(operation, principal, monotonic()):
            raise ThrottlingException(RATE_EXCEEDED)

    async def _by_web_identity(
        self, received: RawRequest, protocol: QueryProtocol, source: ClientInfo, now: datetime
    ) -> tuple[RoutedRequest, AuthenticatedCaller, Reader] | None:
        """Authenticate the caller of an unsigned request by the web token in it; None for any other request.

        The rate is limited before the form is read. Raises ThrottlingException, ValidationException, and as
        `WebIdentities.authenticate`.
        """
        if received.header("authorization") is not None or "X-Amz-Signature=" in received.target:
            return None
        self._limit(assume_role_with_web_identity.OPERATION, source.address)
        routed = protocol.route_unsigned(received)
        if routed is None:
            return None
        decoded = routed.decode()
        caller = await self.web_identities.authenticate(decoded.web_identity_token, now)  # type: ignore[attr-defined]
        try:
            reader = await self.pipeline.dependencies.store.read()
        except Exception as exc:
            raise as_service_error(exc) from exc
        return RoutedRequest(routed.operation, lambda: decoded, routed.render), caller, reader

    async def _by_signature(self, signed_request: SignedRequest, now: datetime) -> tuple[AuthenticatedCaller, Reader]:
        """Authenticate the caller. Return it with the reader that its credentials were read from.

        Raises UnrecognizedClientException, InvalidSignatureException, ExpiredTokenException.
        """
        try:
            reader = await self.pipeline.dependencies.store.read()
            scope = Scope(
                signed_request.access_key_id, signed_request.date, signed_request.region, signed_request.service
            )
            caller, key = await self.credentials.identify(reader, scope, signed_request.session_token, now)
        except UnrecognizedClientException:
            # Spend as much as on a wrong signature: neither answer nor timing shows that an access key exists.
            reject_unknown_key(signed_request)
        except ServiceError:
            raise
        except Exception as exc:
            raise as_service_error(exc) from exc
        return authenticate(signed_request, key, caller), reader

    async def _refused(
        self,
        error: ServiceError,
        *,
        request_id: str,
        source: ClientInfo,
        now: datetime,
        protocol: Protocol,
        attempt: _Attempt,
    ) -> NoReturn:
        """Record a request that was refused before it reached an operation, and raise the error."""
        service = protocol.service or KMS
        record = partial(
            audit.record_of_refusal,
            now=now,
            request_id=request_id,
            arns=self.pipeline.dependencies.arns,
            source=source,
            event_source=service.event_source,
            event_name=protocol.name or "Unknown",
            access_key_id=attempt.access_key_id,
            caller=attempt.caller,
            error=error,
        )
        try:
            # Neither strangers nor a principal beyond its rate may fill the disk or keep it busy.
            if attempt.caller is None or isinstance(error, ThrottlingException):
                await self.refusals.add(error, source, now, record)
            else:
                await self.pipeline.sink.append(record())
        except AuditUnavailable as exc:
            raise KMSInternalException(detail=f"audit: {exc}") from exc
        raise error

    async def _probe(self, target: str) -> Response:
        """Answer `/healthz` (the process responds) or `/readyz` (everything it depends on is available)."""
        return readiness.probe_answer(await self.readiness.states() if target == "/readyz" else {})


def _break_traceback_cycles(error: BaseException) -> None:
    """Clear the traceback, cause and context of a handled error, and of those behind it.

    Frames and error reference each other. Garbage collection runs every few hours, and a client may send 1,000
    invalid requests a second: each would leak several kilobytes, the request included.
    """
    left = [error]
    while left:
        one = left.pop()
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        one.__traceback__ = one.__cause__ = one.__context__ = None


def source_of(request: Request) -> ClientInfo:
    """Return the origin of a request, for policies and the audit record."""
    first, values = request.received.first, request.received.values
    user_agent = values[first["user-agent"]] if "user-agent" in first else ""
    host = values[first["host"]] if "host" in first else ""
    return _source(request.peer, user_agent[:1024], host[:256], request.tls)


@lru_cache(maxsize=1024)
def _source(peer: str, user_agent: str, host: str, tls: Tls | None) -> ClientInfo:
    """Return the same object for the same client, whose calls all say the same."""
    return ClientInfo(
        address=peer,
        user_agent=user_agent,
        tls_version=None if tls is None else tls.version,
        cipher=None if tls is None else tls.cipher,
        host=host,
    )
