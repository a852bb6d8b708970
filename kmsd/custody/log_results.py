"""Results of queries at rest: compressed, then sealed under the key that the account has for them, or the daemon's."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
from cryptography.exceptions import InvalidTag

from kmsd.custody.log_keys import SERVICE_KEY, Subject
from kmsd.custody.log_room import LogRoom
from kmsd.custody.service_box import ServiceBox
from kmsd.domain import log_frame
from kmsd.domain.arn import Place
from kmsd.domain.log_frame import WrappedKey
from kmsd.domain.log_group import ResultsKey, results_arn
from kmsd.ports import Reader, Token
from kmsd.ports_logs import SegmentDamaged

Rows = Sequence[Sequence[tuple[str, str]]]
_PURPOSE = "log-query"
_encode = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[list[tuple[str, str]]]).decode


class _Stored(msgspec.Struct, array_like=True):
    version: int
    data_key: tuple[bytes, str, str, bytes]
    frame_id: bytes
    sealed: bytes


_decode = msgspec.msgpack.Decoder(_Stored).decode


def subject_of(place: Place, key: ResultsKey) -> Subject:
    """What data keys for results are made for."""
    return Subject(key.account.encode(), key.account, results_arn(place, key.account), key.kms_key)


async def seal_rows(
    room: LogRoom, books: Reader, subject: Subject, query_id: str, rows: Rows, *, now: datetime
) -> bytes:
    """Rows as they may be stored."""
    content = zlib.compress(_encode(rows), 1)
    data_key = await room.keys.for_sealing(books, subject, len(content), now)
    frame_id = room.frame_ids.next(int(now.timestamp() * 1_000_000))
    aad = log_frame.associated_data(subject.owner, query_id.encode())
    sealed = data_key.cipher.encrypt(log_frame.nonce(frame_id), content, aad)
    wrapped = data_key.wrapped
    key = (wrapped.data_key_id, wrapped.kms_key, wrapped.context_arn, wrapped.blob)
    return _encode(_Stored(log_frame.VERSION, key, frame_id, sealed))


async def open_rows(
    room: LogRoom, books: Reader, subject: Subject, query_id: str, stored: bytes, *, now: datetime
) -> list[list[tuple[str, str]]]:
    """The rows. Raises AccessDeniedException if their key cannot be used, `SegmentDamaged`."""
    damaged = SegmentDamaged(f"result {query_id}")
    try:
        found = _decode(stored)
    except msgspec.DecodeError as exc:
        raise damaged from exc
    wrapped = WrappedKey._make(found.data_key)
    if found.version != log_frame.VERSION or wrapped.context_arn != subject.arn:
        raise damaged
    data_key = await room.keys.for_opening(books, subject, wrapped, now)
    aad = log_frame.associated_data(subject.owner, query_id.encode())
    try:
        content = data_key.cipher.decrypt(log_frame.nonce(found.frame_id), found.sealed, aad)
    except InvalidTag as exc:
        raise damaged from exc
    return _decode_rows(zlib.decompress(content))


async def seal_text(books: Reader, token: Token, query_id: str, query: str) -> bytes:
    """The query's text: it may quote events."""
    box = await ServiceBox.of(books, token, SERVICE_KEY)
    return await box.seal(_PURPOSE, query_id, query.encode())


async def open_text(books: Reader, token: Token, query_id: str, sealed: bytes) -> str:
    """The inverse of `seal_text`."""
    box = await ServiceBox.of(books, token, SERVICE_KEY)
    return (await box.open(_PURPOSE, query_id, sealed)).decode()
