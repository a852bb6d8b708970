"""Sources of an issuer's keys: a file, or its discovery document (OpenID Connect Discovery 1.0, section 4)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kmsd.wire.web_identity.issuer_keys import Fetch, IssuerUnavailable, Jwk

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
SECONDS = 5.0
"""Time limit of a fetch."""
_DISCOVERY = "/.well-known/openid-configuration"


class _KeySet(msgspec.Struct):
    """RFC 7517 section 5."""

    keys: list[dict[str, Any]]


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


def of_file(path: Path) -> Fetch:
    """Return a source that reads a JWK set from a file, at each call."""

    async def fetch() -> Sequence[Jwk]:
        try:
            return _keys(await asyncio.to_thread(path.read_bytes))
        except OSError as exc:
            raise IssuerUnavailable(f"{path} cannot be read: {exc.strerror}") from exc

    return fetch


def of_url(issuer: str, ca: Path | None) -> Fetch:
    """Return a source that asks the issuer. `ca`: PEM file of the authorities of its certificate; None: the host's."""

    async def fetch() -> Sequence[Jwk]:
        # Imported here: most daemons have no such issuer, and each worker would keep it in memory.
        import aiohttp  # noqa: PLC0415

        try:
            context = ssl.create_default_context(cafile=ca)
            timeout = aiohttp.ClientTimeout(total=SECONDS)
            async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=context)) as session:
                found = _decoded(await _get(session, issuer.rstrip("/") + _DISCOVERY), _Discovery)
                if found.issuer != issuer:
                    raise IssuerUnavailable(f"its discovery document is of {found.issuer[:200]!r}")
                return _keys(await _get(session, found.jwks_uri))
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # OSError: TimeoutError and ssl.SSLError too
            raise IssuerUnavailable(f"{type(exc).__name__}: {exc}") from exc

    return fetch


async def _get(session: Any, url: str) -> bytes:
    if not url.startswith("https://"):
        raise IssuerUnavailable(f"{url[:200]!r} is not an https URL")
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:  # noqa: PLR2004 (HTTP's own)
            raise IssuerUnavailable(f"{url[:200]} answers with status {answer.status}")
        content = bytearray()
        async for part in answer.content.iter_chunked(16 * 1024):
            content += part
            if len(content) > MAX_BYTES:
                raise IssuerUnavailable(f"the answer of {url[:200]} is longer than {MAX_BYTES} bytes")
    return bytes(content)


def _decoded(content: bytes, wanted: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=wanted)
    except msgspec.DecodeError as exc:
        raise IssuerUnavailable(f"its answer is not what the standard says: {exc}") from exc


def _keys(content: bytes) -> Sequence[Jwk]:
    found: list[dict[str, Any]] = _decoded(content, _KeySet).keys
    if len(found) > MAX_KEYS:
        raise IssuerUnavailable(f"it has more than {MAX_KEYS} keys")
    return found
