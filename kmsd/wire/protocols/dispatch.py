"""What a request asks: which service and operation, in which of the two protocols, and how its answer looks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from kmsd.errors import ServiceError, UnknownOperationException, ValidationException
from kmsd.operations.declaration import STS, Operation, Service
from kmsd.services import BY_ACTION, BY_TARGET, SERVICES
from kmsd.wire.http.messages import JSON, Request, Response, error_answer
from kmsd.wire.protocols import json as shape
from kmsd.wire.protocols import query
from kmsd.wire.sigv4.claim import RawRequest

AnyOperation = Operation[Any, Any]
HTTP_NOT_FOUND = 404
_PREFIXES = tuple((service.target_prefix, service) for service in SERVICES if service.target_prefix)


class RoutedRequest(msgspec.Struct, frozen=True):
    """An operation that exists, asked for with a signature that holds."""

    operation: AnyOperation
    decode: Callable[[], msgspec.Struct]
    render: Callable[[msgspec.Struct | None, str], Response]
    """Of the response and the request id."""


class JsonProtocol:
    """JSON 1.1: KMS and CloudWatch Logs. The operation is named by `X-Amz-Target`."""

    __slots__ = ("service", "target")

    def __init__(self, target: str) -> None:
        self.target = target
        self.service: Service | None = next(
            (service for prefix, service in _PREFIXES if target.startswith(prefix)), None
        )
        """The service that the target speaks to."""

    @property
    def name(self) -> str:
        """What the operation is called, whether there is one or not."""
        return self.target.rpartition(".")[2][:128]

    def route(self, request: Request) -> RoutedRequest:
        """Raises UnknownOperationException."""
        received = request.received
        if received.target != "/" or received.method != "POST":
            _check_route(received, ("POST",))
        operation = BY_TARGET.get(self.target)
        if operation is None:
            raise UnknownOperationException(detail=f"X-Amz-Target {self.target[:100]!r}")
        return RoutedRequest(operation, partial(_decode, received, operation.request), _json_answer)

    def error(self, error: ServiceError, request_id: str) -> Response:
        """The error as JSON."""
        return error_answer(error, request_id)


def _check_route(received: RawRequest, methods: tuple[str, ...]) -> None:
    """Raises UnknownOperationException for another method, or another path than `/`; a query may hold a signature."""
    if received.method not in methods or (received.target != "/" and not received.target.startswith("/?")):
        line = f"{received.method[:20]} {received.target[:100]!r}"
        raise UnknownOperationException(detail=line, status=HTTP_NOT_FOUND)


def _decode(received: RawRequest, shape_of: type[msgspec.Struct]) -> msgspec.Struct:
    """The request; its body is not kept: its memory, while it is warm in the processor's caches, is for others."""
    body = received.body
    msgspec.structs.force_setattr(received, "body", b"")
    return shape.decode(body, shape_of)


def _json_answer(response: msgspec.Struct | None, request_id: str) -> Response:
    body = b"" if response is None else shape.encode(response)
    return Response(200, (("Content-Type", JSON), ("x-amzn-RequestId", request_id)), body)


class QueryProtocol(msgspec.Struct):
    """Forms and XML: STS. The operation is named by the parameter `Action`."""

    is_form: bool
    service: Service = STS
    target: str = ""
    """Of the operation, once `question` has found it."""

    @property
    def name(self) -> str:
        """Unknown before the signature holds and the form is read."""
        return ""

    def route(self, request: Request) -> RoutedRequest:
        """Raises UnknownOperationException, ValidationException."""
        received = request.received
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

    def error(self, error: ServiceError, request_id: str) -> Response:
        """The error as XML, by its name there."""
        return query.error_answer(error, request_id)


Protocol = JsonProtocol | QueryProtocol
_BY_TARGET = {target: JsonProtocol(target) for target in BY_TARGET}


def protocol_of(request: Request) -> Protocol:
    """Which protocol a request speaks; JSON, if it speaks none."""
    received = request.received
    target = received.header("x-amz-target")
    known = _BY_TARGET.get(target or "")
    if known is not None:
        return known
    if target is None:
        is_form = (received.header("content-type") or "").lower().startswith(query.FORM)
        if is_form or "Action=" in received.target:
            return QueryProtocol(is_form)
    return JsonProtocol(target or "")
