"""Routing: find the protocol, service and operation of a request, and how to render its response."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from kmsd.errors import ServiceError, UnknownOperationException, ValidationException
from kmsd.operations.declaration import STS, Operation, Service
from kmsd.services import BY_ACTION, BY_TARGET, SERVICES
from kmsd.wire.http.messages import JSON, Response, error_answer
from kmsd.wire.protocols import json as shape
from kmsd.wire.protocols import query
from kmsd.wire.sigv4.claim import RawRequest

AnyOperation = Operation[Any, Any]
HTTP_NOT_FOUND = 404
_PREFIXES = tuple((service.target_prefix, service) for service in SERVICES if service.target_prefix)


class RoutedRequest(msgspec.Struct, frozen=True):
    """A request with a valid signature for an operation that exists."""

    operation: AnyOperation
    decode: Callable[[], msgspec.Struct]
    render: Callable[[msgspec.Struct | None, str], Response]
    """Takes the response and the request id."""


class JsonProtocol:
    """JSON 1.1, for KMS and CloudWatch Logs. `X-Amz-Target` names the operation."""

    __slots__ = ("service", "target")

    def __init__(self, target: str) -> None:
        self.target = target
        self.service: Service | None = next(
            (service for prefix, service in _PREFIXES if target.startswith(prefix)), None
        )
        """The service that the target's prefix names; None if there is none."""

    @property
    def name(self) -> str:
        """Return the operation's name as the target states it, even if there is no such operation."""
        return self.target.rpartition(".")[2][:128]

    def route(self, received: RawRequest) -> RoutedRequest:
        """Find the operation. Raises UnknownOperationException."""
        if received.target != "/" or received.method != "POST":
            _check_route(received, ("POST",))
        operation = BY_TARGET.get(self.target)
        if operation is None:
            raise UnknownOperationException(detail=f"X-Amz-Target {self.target[:100]!r}")
        return RoutedRequest(operation, partial(_decode, received, operation.request), _json_answer)

    def error(self, error: ServiceError, request_id: str) -> Response:
        """Render the error as JSON."""
        return error_answer(error, request_id)


def _check_route(received: RawRequest, methods: tuple[str, ...]) -> None:
    """Raise UnknownOperationException for another method or path than `/`. A query may hold a signature."""
    if received.method not in methods or (received.target != "/" and not received.target.startswith("/?")):
        line = f"{received.method[:20]} {received.target[:100]!r}"
        raise UnknownOperationException(detail=line, status=HTTP_NOT_FOUND)


def _decode(received: RawRequest, shape_of: type[msgspec.Struct]) -> msgspec.Struct:
    """Decode the request and release its body at once, so that its warm memory is reused."""
    body = received.body
    msgspec.structs.force_setattr(received, "body", b"")
    return shape.decode(body, shape_of)


def _json_answer(response: msgspec.Struct | None, request_id: str) -> Response:
    body = b"" if response is None else shape.encode(response)
    return Response(200, (("Content-Type", JSON), ("x-amzn-RequestId", request_id)), body)


class QueryProtocol(msgspec.Struct):
    """Forms and XML, for STS. The parameter `Action` names the operation."""

    is_form: bool
    service: Service = STS
    target: str = ""
    """Target of the operation, once `route` has found it."""

    @property
    def name(self) -> str:
        """Return the operation's name; empty until `route` has read the form."""
        return self.target

    def route(self, received: RawRequest) -> RoutedRequest:
        """Find the operation. Raises UnknownOperationException, ValidationException."""
        # "The AWS STS API supports GET and POST requests for all actions."
        _check_route(received, ("GET", "POST"))
        query_string = received.target.partition("?")[2]
        fields = query.fields_of(received.body, query_string, is_form=self.is_form)
        if fields.get("Version") != query.VERSION:
            raise ValidationException(f"Version must be {query.VERSION}")
        operation = BY_ACTION.get(fields.get("Action", ""))
        if operation is None:
            raise UnknownOperationException(f"Could not find operation {fields.get('Action', '')[:100]}")
        self.target = operation.target
        render = partial(query.answer, operation.name)
        return RoutedRequest(operation, partial(query.decode, fields, operation.request), render)

    def route_unsigned(self, received: RawRequest) -> RoutedRequest | None:
        """Return the operation of an unsigned request that a web token authenticates; None for any other request."""
        try:
            routed = self.route(received)
        except ServiceError:
            routed = None
        if routed is not None and routed.operation.by_web_identity:
            return routed
        self.target = ""
        return None

    def error(self, error: ServiceError, request_id: str) -> Response:
        """Render the error as XML, under its Query protocol name."""
        return query.error_answer(error, request_id)


Protocol = JsonProtocol | QueryProtocol
_BY_TARGET = {target: JsonProtocol(target) for target in BY_TARGET}


def protocol_of(received: RawRequest) -> Protocol:
    """Return the protocol of a request; JSON if it matches none."""
    position = received.first.get("x-amz-target")
    target = None if position is None else received.values[position]
    known = _BY_TARGET.get(target or "")
    if known is not None:
        return known
    if target is None:
        is_form = (received.header("content-type") or "").lower().startswith(query.FORM)
        if is_form or "Action=" in received.target:
            return QueryProtocol(is_form)
    return JsonProtocol(target or "")
