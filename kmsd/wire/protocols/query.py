"""AWS's Query protocol, which STS speaks: form fields in, XML out, and its own error names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import msgspec

from kmsd.errors import ServiceError, ValidationException
from kmsd.wire.http.messages import Response
from kmsd.wire.protocols.json import bare, members, validate

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

FORM = "application/x-www-form-urlencoded"
XML = "text/xml"
VERSION = "2011-06-15"
_NAMESPACE = f"https://sts.amazonaws.com/doc/{VERSION}/"
_MAX_FIELDS = 512
_FORBIDDEN = 403

CODES: Mapping[str, tuple[str, int]] = {
    "AccessDeniedException": ("AccessDenied", _FORBIDDEN),
    "ExpiredTokenException": ("ExpiredToken", _FORBIDDEN),
    "ExpiredWebIdentityTokenException": ("ExpiredTokenException", 400),
    "IncompleteSignatureException": ("IncompleteSignature", 400),
    "InvalidSignatureException": ("SignatureDoesNotMatch", _FORBIDDEN),
    "KMSInternalException": ("InternalFailure", 500),
    "DependencyTimeoutException": ("ServiceUnavailable", 503),
    "MalformedPolicyDocumentException": ("MalformedPolicyDocument", 400),
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", _FORBIDDEN),
    "SerializationException": ("ValidationError", 400),
    "ThrottlingException": ("Throttling", 400),
    "UnknownOperationException": ("InvalidAction", 400),
    "UnrecognizedClientException": ("InvalidClientTokenId", _FORBIDDEN),
    "UnsupportedOperationException": ("ValidationError", 400),
    "ValidationException": ("ValidationError", 400),
}
"""Error names of the API reference's "Common Errors"; JSON has other names for the same (docs/divergences.md)."""


def fields_of(body: bytes, query: str, *, is_form: bool) -> Mapping[str, str]:
    """Return the form's fields, from the body if `is_form`, else from the query string. Raises ValidationException."""
    try:
        text = body.decode() if is_form else query
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=_MAX_FIELDS)
    except ValueError as exc:
        raise ValidationException("The request is not a well-formed form.") from exc
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValidationException("A parameter is given more than once.")
    return fields


def decode(fields: Mapping[str, str], request: type[RequestT]) -> RequestT:
    """Return the request that the form holds. Raises ValidationException, with every violation."""
    return validate(_structure(fields, "", request), request)


def _structure(fields: Mapping[str, str], prefix: str, struct: type[msgspec.Struct]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _, name, hint, _ in members(struct):
        value = _value(fields, prefix + name, bare(hint)[0])
        if value is not None:
            found[name] = value
    return found


def _value(fields: Mapping[str, str], name: str, hint: Any) -> Any:
    """Build a member from its dotted fields: `Tags.member.1.Key`."""
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        items: list[Any] = []
        while (value := _value(fields, f"{name}.member.{len(items) + 1}", bare(item)[0])) not in (None, {}):
            items.append(value)
        return items or None
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _structure(fields, f"{name}.", hint)
    text = fields.get(name)
    if text is not None and hint is int:
        try:
            return int(text)
        except ValueError as exc:
            raise ValidationException(f"{name} must be an integer") from exc
    return text


def answer(action: str, response: msgspec.Struct | None, request_id: str) -> Response:
    """Render a successful response as XML."""
    result = "" if response is None else f"<{action}Result>{_xml(msgspec.to_builtins(response))}</{action}Result>"
    body = (
        f'<{action}Response xmlns="{_NAMESPACE}">{result}'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Response(200, _headers(request_id), body.encode())


def error_answer(error: ServiceError, request_id: str) -> Response:
    """Render an error as XML, under its Query protocol name."""
    code, status = CODES.get(error.code, (error.code.removesuffix("Exception"), error.status))
    fault = "Receiver" if status >= 500 else "Sender"  # noqa: PLR2004 (HTTP's own bound)
    body = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>{fault}</Type><Code>{code}</Code>'
        f"<Message>{_text(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return Response(status, _headers(request_id), body.encode("utf-8", "replace"))


def _headers(request_id: str) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", XML), ("x-amzn-RequestId", request_id))


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(member)}</{name}>" for name, member in value.items() if member is not None)
    return _text(str(value))


def _text(text: str) -> str:
    """Escape the text, and drop the control characters that XML 1.0 cannot represent."""
    return escape("".join(character for character in text if character >= " " or character in "\t\n\r"))
