"""The database that a configuration names."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kmsd import __version__
from kmsd.adapters.postgres.settings import DatabaseUrl, PostgresSettings
from kmsd.adapters.sql.database import Database
from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.cloudwatch_logs.data_keys import DATA_KEY_PURPOSE, SERVICE_KEY
from kmsd.cloudwatch_logs.insights.results import QUERY_PURPOSE
from kmsd.cloudwatch_logs.segments.store import FileSegments
from kmsd.config import node_identity
from kmsd.config.node_identity import NodeIdentity
from kmsd.config.sections import Config, StoreConfig
from kmsd.config.settings import ConfigError
from kmsd.custody.service_sealer import OF_OBJECT, ServiceSealer
from kmsd.ports import Node, Reader, Token

if TYPE_CHECKING:
    from kmsd.cloudwatch_logs.ports import LogStore, Segments


def database_of(config: Config) -> Database:
    """Return the configured database; nothing is opened yet. Raises `ConfigError` if a file it needs cannot be read."""
    if not config.store.url:
        return SqliteDatabase(config.database)
    # The driver is imported only where it is used: it takes 20 ms, and 3 MB of each process.
    from kmsd.adapters.postgres.database import PostgresDatabase  # noqa: PLC0415 (as above)

    identity = node_identity.read(config.data_dir)
    if identity is None:
        return PostgresDatabase(_settings(config.store))
    return PostgresDatabase(_settings(config.store), identity.node_id, identity.hsm)


def first_node(config: Config) -> Node:
    """Return this host as the first node of a new PostgreSQL database; make its identity if it has none.

    Raises `ConfigError`.
    """
    known = node_identity.read(config.data_dir) or NodeIdentity.new(socket.gethostname().lower())
    identity = replace(known, hsm="")
    node_identity.write(config.data_dir, identity)
    now = datetime.now(UTC)
    return Node(identity.node_id, identity.name, now, now, __version__)


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[LogStore]:
    """Open only the store. Raises `StoreUnavailable` (`StoreUnfit` on a host that is no node), `ConfigError`."""
    async with database_of(config).open() as store:
        yield store


def open_segments(config: Config, store: LogStore) -> Segments:
    """Return where log events are: in the database of the open store, or, with SQLite, in files beside it."""
    if not config.store.url:
        return FileSegments(config.logs_dir)
    from kmsd.adapters.postgres.segments import PostgresSegments  # noqa: PLC0415 (as above)

    return PostgresSegments.of(store)


async def reseal_logs(config: Config, reader: Reader, token: Token) -> int:
    """Seal again what an object in the token has sealed for log events in PostgreSQL. Return the number of texts.

    Query results are left: they live for a week. Raises the errors of store and token, `ConfigError`.
    """
    if not config.store.url:
        return 0
    from kmsd.adapters.postgres import log_secrets  # noqa: PLC0415 (as above)

    sealer = await ServiceSealer.of(reader, token, SERVICE_KEY)
    data_key, query = (partial(sealer.reseal, purpose) for purpose in (DATA_KEY_PURPOSE, QUERY_PURPOSE))
    return await log_secrets.reseal(_settings(config.store), OF_OBJECT, data_key, query)


def _settings(given: StoreConfig) -> PostgresSettings:
    url = DatabaseUrl.parse(given.url)
    uses_tls = given.tls == "verify" and not all(host.is_socket for host in url.hosts)
    return PostgresSettings(
        url,
        None if given.password_file is None else _password(given.password_file),
        _tls(given.tls_ca) if uses_tls else None,
        given.questions,
        given.questions_per_second,
        given.connect_seconds,
        given.question_seconds,
        given.call_seconds,
    )


def _password(path: Path) -> str:
    try:
        return read_secret(path, "the password file").decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the password file {path} is not text in UTF-8") from exc


def _tls(authority: Path | None) -> ssl.SSLContext:
    """Return a context that verifies chain and host name. Raises `ConfigError`."""
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"store.tls_ca: {authority} cannot be used: {exc}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def read_secret(path: Path, called: str) -> bytes:
    """Read a PIN or a password, without the newline that editors add. Raises `ConfigError`."""
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as exc:
        raise ConfigError(f"{called} {path} cannot be read: {exc.strerror}") from exc
    if not secret:
        raise ConfigError(f"{called} {path} is empty")
    return secret
