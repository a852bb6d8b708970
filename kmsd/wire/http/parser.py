"""aiohttp's compiled HTTP parser (llhttp), and nothing else of aiohttp; the only module that imports it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from kmsd.errors import MalformedHttpRequestException
from kmsd.wire.http.partial_import import modules_of

# The package itself would import a client and a framework: a fifth of what a worker reads at its start.
with modules_of("aiohttp"):
    from aiohttp.http_exceptions import HttpProcessingError as NotHttp
    from aiohttp.http_exceptions import LineTooLong
    from aiohttp.http_parser import HttpRequestParser

__all__ = ["PIPELINED", "CParserMissing", "NotHttp", "new_parser", "parse_refusal", "require_c_parser"]

READ_SIZE = 262_144
"""What a body's stream may hold before it asks for a pause. It is emptied after each read of the socket, so that only
a body cut into more than a sixteenth of this many chunks within one read ever reaches it."""
PIPELINED = 16
"""Whole requests that may wait on one connection: the parser stops there until `message_consumed`."""


class CParserMissing(RuntimeError):
    """aiohttp was installed without its C parser, or told not to use it."""


class ParserLimits(Protocol):
    """What the parser asks of the limits."""

    @property
    def request_line_bytes(self) -> int:
        """Of the target."""
        ...

    @property
    def header_line_bytes(self) -> int:
        """Of one header."""
        ...

    @property
    def header_lines(self) -> int:
        """Headers of one request."""
        ...


def require_c_parser() -> None:
    """Raise unless aiohttp's compiled parser is in use: the pure-Python one accepts forms that smuggle requests."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise CParserMissing(
            "aiohttp runs without its C parser, and the pure-Python one accepts ambiguous requests: install aiohttp's "
            "binary wheel (or a compiler before building it), and unset AIOHTTP_NO_EXTENSIONS"
        )


def new_parser(protocol: Any, loop: asyncio.AbstractEventLoop, sizes: ParserLimits) -> Any:
    """A parser for one connection. Of `protocol` its streams call `pause_reading` and `resume_reading` alone."""
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
    """What a client hears of what the parser raised: its own bytes are not sent back to it."""
    if isinstance(error, LineTooLong):
        return MalformedHttpRequestException("The request line or a header line is too long.")
    return MalformedHttpRequestException("The request is not well-formed HTTP.", detail=error.message)
