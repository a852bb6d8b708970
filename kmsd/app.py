"""Put everything together: store, token, audit, pipeline, front end; and the worker that serves them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kmsd import audit
from kmsd.adapters.journal.sink import JournalSink
from kmsd.adapters.pkcs11.settings import TokenSettings
from kmsd.adapters.pkcs11.token import Pkcs11Token
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.config import Config, ConfigError
from kmsd.custody.provisioning import SENTINEL
from kmsd.domain.arn import Place
from kmsd.domain.key import Key
from kmsd.domain.limits import Limits
from kmsd.operations.model import World
from kmsd.pipeline import Pipeline
from kmsd.ports import AuditSink, Clock, Store, Token


class SystemClock:
    """The host's time of day."""

    def now(self) -> datetime:
        """The present instant in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Rooms:
    """What a process has opened."""

    config: Config
    store: Store
    token: Token
    sink: AuditSink
    pipeline: Pipeline

    async def record_job(self, event_name: str, key: Key, details: Mapping[str, object]) -> None:
        """The record of a job's act on a key (`kmsd.jobs.model.JobRecorder`)."""
        record = audit.record_of_service_event(
            now=self.pipeline.clock.now(), place=place_of(self.config), event_name=event_name, key=key, details=details
        )
        await self.sink.append(record)


def place_of(config: Config) -> Place:
    """Where this daemon stands."""
    return Place(config.partition, config.region)


def token_settings(config: Config, sentinel: bytes | None) -> TokenSettings:
    """The adapter's settings. Raises `ConfigError` if the PIN cannot be read."""
    given = config.token
    return TokenSettings(
        module=given.module,
        pin=read_pin(given.pin_file),
        label=given.label or None,
        serial=given.serial or None,
        object_label=given.object_label,
        sentinel=sentinel,
        init_reserved=given.init_reserved or None,
        start_lock=config.data_dir / "token.lock",
        token_dir_sync=given.dir_sync,
        sessions=given.sessions,
        deadline=given.call_deadline_seconds,
    )


def read_pin(path: Path) -> bytes:
    """The PIN, without the newline that editors add. Raises `ConfigError`."""
    try:
        pin = path.read_bytes().rstrip(b"\r\n")
    except OSError as exc:
        raise ConfigError(f"the PIN file {path} cannot be read: {exc.strerror}") from exc
    if not pin:
        raise ConfigError(f"the PIN file {path} is empty")
    return pin


def set_module_environment(config: Config) -> None:
    """What the PKCS#11 module reads from the environment; before it is loaded."""
    os.environ.update(config.token.environment)


@asynccontextmanager
async def open_rooms(config: Config, writer: str, clock: Clock | None = None) -> AsyncIterator[Rooms]:
    """Store, token and audit trail, opened for one process and closed in the end; `clock` is the host's by default.

    Raises `StoreUnavailable`, `TokenUnavailable` (`PinRefused`), `AuditUnavailable`, `ConfigError`.
    """
    set_module_environment(config)
    async with AsyncExitStack() as stack:
        store = SqliteStore(config.database)
        stack.push_async_callback(store.close)
        sentinel = (await (await store.read()).service_keys()).get(SENTINEL)
        token = await Pkcs11Token.open(token_settings(config, sentinel.object_id if sentinel else None))
        stack.push_async_callback(token.close)
        store.on_doomed(token.forget)
        sink = JournalSink(config.audit_dir, writer)
        stack.push_async_callback(sink.close)
        limits = Limits(**{name: getattr(config.limits, name) for name in config.limits.__struct_fields__})
        world = World(place_of(config), limits, store, token)
        yield Rooms(config, store, token, sink, Pipeline(world, clock or SystemClock(), sink))
