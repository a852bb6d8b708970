"""aiohttp's compiled HTTP parser (llhttp) and nothing else of aiohttp. The only module that imports it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from kmsd.errors import MalformedHttpRequestException
from kmsd.wire.http.partial_import import modules_of

# The package itself would import a client and a framework: a fifth of everything that a worker reads at its start.
with modules_of("aiohttp"):
    from aiohttp.http_exceptions import HttpProcessingError as NotHttp
    from aiohttp.http_exceptions import LineTooLong
    from aiohttp.http_parser import HttpRequestParser

__all__ = ["PIPELINED", "CParserMissing", "NotHttp", "new_parser", "parse_refusal", "require_c_parser"]

READ_SIZE = 262_144
"""Bytes that a body's stream may hold before it asks for a pause. The stream is emptied after each read of the socket,
so only a body cut into more than a sixteenth of this many chunks within one read reaches it."""
PIPELINED = 16
"""Complete requests that may wait on one connection: the parser stops there until `message_consumed`."""


class CParserMissing(RuntimeError):
    """aiohttp was installed without its C parser, or the environment disables it."""


class ParserLimits(Protocol):
    """Limits that the parser enforces."""

    @property
    def request_line_bytes(self) -> int:
        """Maximum length of the target."""
        ...

    @property
    def header_line_bytes(self) -> int:
        """Maximum length of one header."""
        ...

    @property
    def header_lines(self) -> int:
        """Maximum number of headers of one request."""
        ...


def require_c_parser() -> None:
    """Raise CParserMissing unless aiohttp uses its compiled parser: the pure-Python one lets requests be smuggled."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise CParserMissing(
            "aiohttp runs without its C parser, and the pure-Python one accepts ambiguous requests: install aiohttp's "
            "binary wheel (or a compiler before building it), and unset AIOHTTP_NO_EXTENSIONS"
        )


def new_parser(protocol: Any, loop: asyncio.AbstractEventLoop, sizes: ParserLimits) -> Any:
    """Create the parser of one connection. Its streams call only `pause_reading` and `resume_reading` of `protocol`."""
    return HttpRequestParser(
        protocol,
        loop,
        READ_SIZE,
        max_line_size=sizes.request_line_bytes,
        max_field_size=sizes.header_line_bytes,
        max_headers=sizes.header_lines,
        auto_decompress=False,
        max_msg_queue_size=PIPELINED,
    )


def parse_refusal(error: NotHttp) -> MalformedHttpRequestException:
    """Return the client's error for a parser error, without quoting the client's own bytes."""
    if isinstance(error, LineTooLong):
        return MalformedHttpRequestException("The request line or a header line is too long.")
    return MalformedHttpRequestException("The request is not well-formed HTTP.", detail=error.message)
