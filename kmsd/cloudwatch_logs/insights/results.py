"""Stored query results: compressed, then encrypted under the account's key for results or the daemon's own key."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag

from kmsd.cloudwatch_logs import frames
from kmsd.cloudwatch_logs.data_keys import SERVICE_KEY
from kmsd.cloudwatch_logs.frames import WrappedKey
from kmsd.cloudwatch_logs.groups import ResultsKey, results_arn
from kmsd.cloudwatch_logs.ports import SegmentDamaged
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.cloudwatch_logs.service_key_access import KeyAssociation
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain.arn import ArnScope
from kmsd.ports import Reader, Token

Rows = Sequence[Sequence[tuple[str, str]]]
QUERY_PURPOSE = "log-query"
_encode = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[list[tuple[str, str]]]).decode
_VERSION = 2
_VERSION_OF_ONE_CHUNK = 1
"""Format of earlier results: one array of rows."""
COPIES = 3
"""Copies of the rows in memory while they are encrypted: encoded, compressed, encrypted."""


class Chunk(NamedTuple):
    """Encoded rows."""

    number: int
    """Number of rows."""
    rows: bytes

    def decoded(self) -> list[list[tuple[str, str]]]:
        """Decode the rows; the inverse of `packed`."""
        return _decode_rows(self.rows)


_decode_chunks = msgspec.msgpack.Decoder(list[Chunk]).decode


def packed(rows: Rows) -> Chunk:
    """Encode rows."""
    return Chunk(len(rows), _encode(rows))


class _Stored(msgspec.Struct, array_like=True):
    version: int
    data_key: tuple[bytes, str, str, bytes]
    frame_id: bytes
    sealed: bytes


_decode = msgspec.msgpack.Decoder(_Stored).decode


def subject_of(arns: ArnScope, key: ResultsKey) -> KeyAssociation:
    """Return the owner of the data keys for results."""
    return KeyAssociation(key.account.encode(), key.account, results_arn(arns, key.account), key.kms_key)


async def seal_rows(
    logs: LogsService, reader: Reader, subject: KeyAssociation, query_id: str, chunks: Sequence[Chunk], *, now: datetime
) -> bytes:
    """Compress and encrypt rows for storage. Both release the GIL and run in a thread."""
    content = await asyncio.to_thread(lambda: zlib.compress(_encode(chunks), 1))
    data_key = await logs.keys.encryption_key(reader, subject, len(content), now)
    frame_id = logs.frame_ids.next(int(now.timestamp() * 1_000_000))
    aad = frames.associated_data(subject.owner, query_id.encode())
    seal = partial(data_key.cipher.encrypt, frames.nonce(frame_id), content, aad)
    sealed = await asyncio.to_thread(seal)
    wrapped = data_key.wrapped
    key = (wrapped.data_key_id, wrapped.kms_key, wrapped.context_arn, wrapped.blob)
    return await asyncio.to_thread(_encode, _Stored(_VERSION, key, frame_id, sealed))


async def open_rows(
    logs: LogsService, reader: Reader, subject: KeyAssociation, query_id: str, stored: bytes, *, now: datetime
) -> list[Chunk]:
    """Decrypt rows. Raises AccessDeniedException if their key cannot be used, and `SegmentDamaged`."""
    damaged = SegmentDamaged(f"result {query_id}")
    try:
        found = _decode(stored)
    except msgspec.DecodeError as exc:
        raise damaged from exc
    wrapped = WrappedKey._make(found.data_key)
    if found.version not in (_VERSION, _VERSION_OF_ONE_CHUNK) or wrapped.context_arn != subject.arn:
        raise damaged
    data_key = await logs.keys.decryption_key(reader, subject, wrapped, now)
    aad = frames.associated_data(subject.owner, query_id.encode())

    def content() -> bytes:
        return zlib.decompress(data_key.cipher.decrypt(frames.nonce(found.frame_id), found.sealed, aad))

    try:
        opened = await asyncio.to_thread(content)
    except InvalidTag as exc:
        raise damaged from exc
    return chunks_of(opened, found.version)


def chunks_of(content: bytes, version: int) -> list[Chunk]:
    """Decode the rows of a result of either version."""
    if version == _VERSION_OF_ONE_CHUNK:
        return [Chunk(len(_decode_rows(content)), content)]
    return _decode_chunks(content)


async def seal_text(reader: Reader, token: Token, query_id: str, query: str) -> bytes:
    """Encrypt the query's text, which may quote events."""
    sealer = await ServiceSealer.of(reader, token, SERVICE_KEY)
    return await sealer.encrypt(QUERY_PURPOSE, query_id, query.encode())


async def open_text(reader: Reader, token: Token, query_id: str, sealed: bytes) -> str:
    """Decrypt a query's text; the inverse of `seal_text`."""
    sealer = await ServiceSealer.of(reader, token, SERVICE_KEY)
    return (await sealer.decrypt(QUERY_PURPOSE, query_id, sealed)).decode()
