"""Assemble the components of a process: store, token, audit trail, log store and the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import structlog

from kmsd import audit
from kmsd.adapters.audit_trail.checkpointer import Interval, Signer
from kmsd.adapters.audit_trail.format import TrailNode
from kmsd.adapters.audit_trail.forwarder import BadTarget
from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.adapters.clock.trusted import WatchedClock
from kmsd.adapters.pkcs11.key_ceremony import KeyCeremony
from kmsd.adapters.pkcs11.settings import TokenSettings
from kmsd.adapters.pkcs11.token import Pkcs11Token
from kmsd.cloudwatch_logs.audit_records import record_of_key_use
from kmsd.cloudwatch_logs.call import service_in
from kmsd.cloudwatch_logs.data_keys import DataKeys
from kmsd.cloudwatch_logs.jobs.retention import LogRetention
from kmsd.cloudwatch_logs.ports import LogStore, Segments
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.cloudwatch_logs.service_key_access import KeyUse
from kmsd.config import node_identity
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.custody.message_counts import MessageCounts
from kmsd.custody.provisioning import SENTINEL, create_sentinel, sentinel_purpose
from kmsd.database import open_segments, open_store, read_secret
from kmsd.domain.arn import ArnScope
from kmsd.domain.key import Key
from kmsd.domain.key_spec import SigningAlgorithm
from kmsd.domain.material import TokenName
from kmsd.domain.quotas import Quotas
from kmsd.event_loop.cohorts import CohortScheduler
from kmsd.linux import boot_clock
from kmsd.operations.declaration import Dependencies
from kmsd.pipeline import Pipeline
from kmsd.ports import (
    AUDIT,
    AuditSink,
    AuditUnavailable,
    Clock,
    NoSuchObject,
    PinRefused,
    Store,
    StoreError,
    Token,
    TokenError,
    Tokens,
)

SEEK_SECONDS = 2.0, 30.0
"""First and longest pause, in seconds, between two attempts to open a token other than the main one."""

log = structlog.get_logger()


class SystemClock:
    """The host's wall clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)


class Components(msgspec.Struct, frozen=True):
    """The open components of a process."""

    config: Config
    store: LogStore
    sink: TrailSink
    pipeline: Pipeline
    watch: WatchedClock
    """Checks the host's clock. It is also the clock of the pipeline."""
    other_tokens: OtherTokens

    @property
    def token(self) -> Token:
        """The token that holds all keys."""
        return self.tokens.main

    @property
    def tokens(self) -> Tokens:
        """All tokens."""
        return self.pipeline.dependencies.tokens

    async def enable_signing(self) -> None:
        """Start signing the trail, if `kmsd init` has created the key. Raises `AuditUnavailable`."""
        signer = await audit_signer(self.store, self.token)
        if signer is not None and not self.sink.signed:
            await self.sink.start_signing(signer)

    @property
    def logs(self) -> LogsService:
        """Dependencies of the log service."""
        return service_in(self.pipeline.dependencies)

    @property
    def retention(self) -> LogRetention:
        """The job that removes log events past their retention."""
        return LogRetention(self.store, self.segments)

    @property
    def segments(self) -> Segments:
        """The log service's store of sealed events."""
        return self.logs.segments

    async def record_job(self, event_name: str, key: Key, details: Mapping[str, object]) -> None:
        """Write the audit record of a job's action on a key (`kmsd.ports.jobs.JobRecorder`)."""
        record = audit.record_of_service_event(
            now=self.pipeline.clock.now(),
            arns=arn_scope_of(self.config),
            event_name=event_name,
            key=key,
            details=details,
        )
        await self.sink.append(record)


def arn_scope_of(config: Config) -> ArnScope:
    """Return the configured partition and region."""
    return ArnScope(config.partition, config.region)


def quotas_of(config: Config) -> Quotas:
    """Return the configured limits."""
    return Quotas(**{name: getattr(config.limits, name) for name in config.limits.__struct_fields__})


def file_name_of(name: TokenName) -> str:
    """Return the beginning of the names of a token's files in the data folder."""
    if name == TokenName.MAIN:
        return "token"
    return "import-token" if name == TokenName.IMPORT else f"token-{name}"


def refused_pin_file(config: Config, name: str) -> Path:
    """Return the path of the file which records that a token refused its PIN; `name` is that of `file_name_of`."""
    return config.data_dir / f"{name}.refused-pin"


def token_settings(config: Config, sentinel: bytes | None, name: TokenName = TokenName.MAIN) -> TokenSettings:
    """Return the settings of a configured token. Raises `ConfigError` if the PIN cannot be read."""
    token_config = config.token if name == TokenName.MAIN else config.other_tokens[name]
    files = file_name_of(name)
    return TokenSettings(
        module=token_config.module,
        pin=read_pin(token_config.pin_file),
        label=token_config.label or None,
        serial=token_config.serial or None,
        slot=token_config.slot,
        object_label=token_config.object_label,
        sentinel=sentinel,
        init_reserved=token_config.init_reserved or None,
        start_lock=config.data_dir / f"{files}.lock",
        refused_pin=refused_pin_file(config, files),
        token_dir_sync=token_config.dir_sync,
        sessions=token_config.sessions,
        deadline=token_config.call_deadline_seconds,
        inline=token_config.inline,
        session_objects=token_config.session_objects,
    )


def read_pin(path: Path) -> bytes:
    """Read a PIN, without the newline that editors add. Raises `ConfigError`."""
    return read_secret(path, "the PIN file")


def key_ceremony(config: Config, name: TokenName) -> KeyCeremony:
    """Return what makes, hands on and proves domain keys in a token. Raises `ConfigError`."""
    return KeyCeremony(token_settings(config, None, name))


def set_module_environment(config: Config) -> None:
    """Set the environment variables of the PKCS#11 module. Call this before the module is loaded."""
    for token in (config.token, *config.other_tokens.values()):
        os.environ.update(token.environment)


class OtherTokens(msgspec.Struct, frozen=True):
    """Opens the import token and the further tokens. The daemon also serves while they are unavailable.

    What only such a token does is refused in the meantime, and `kmsd check` reports it.
    """

    config: Config
    store: LogStore
    tokens: Tokens
    """Where open tokens are added."""
    counts: MessageCounts
    stack: AsyncExitStack
    """Closes them."""

    async def open_all(self) -> None:
        """Try to open each once. Raises `PinRefused`, `ConfigError`."""
        for name in self.config.other_tokens:
            try:
                await self._open(name)
            except PinRefused:
                raise
            except (TokenError, StoreError) as exc:
                log.error("token_unavailable", token=name, detail=str(exc))  # noqa: TRY400 (the text suffices)

    async def seek(self) -> None:
        """Open those that are not open yet, each as soon as it is available."""
        absent = [name for name in self.config.other_tokens if name not in self.tokens]
        await asyncio.gather(*(self._seek(name) for name in absent))

    async def _seek(self, name: TokenName) -> None:
        failed = ""
        pause, longest = SEEK_SECONDS
        while name not in self.tokens:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                await self._open(name)
            except PinRefused as exc:
                log.critical("token_pin_refused", token=name, detail=str(exc))
                return
            except (TokenError, ConfigError, StoreError) as exc:
                if str(exc) != failed:
                    failed = str(exc)
                    log.warning("token_unavailable", token=name, detail=failed)

    async def _open(self, name: TokenName) -> None:
        """Open one token. Raises `TokenError`, `ConfigError`, `StoreError`."""
        known = (await (await self.store.read()).service_keys()).get(sentinel_purpose(name))
        settings = token_settings(self.config, known.object_id if known else None, name)
        token = await Pkcs11Token.open(settings)
        if known is None and name != TokenName.IMPORT and token.capabilities.algorithms:
            try:
                sentinel = await create_sentinel(self.store, token, name, datetime.now(UTC))
            finally:
                await token.close()
            token = await Pkcs11Token.open(replace(settings, sentinel=sentinel))
        self.stack.push_async_callback(token.close)
        token.count_messages_by(self.counts.reserve)
        self.tokens.others[name] = token
        log.info("token_available", token=name, label=token.info.label, serial=token.info.serial)


def is_worker(writer: str) -> bool:
    """True for a worker. A worker has a chain of its own, and never runs without an existing audit key."""
    return writer.startswith("worker-")


async def audit_signer(store: Store, token: Token, *, needed: bool = False) -> Signer | None:
    """Return the signer with the audit key; None before `kmsd init` has created it.

    If the token has lost the key, this raises `NoSuchObject` if it is `needed`: a worker does not serve without it.
    Otherwise it returns None, because the operator may need the command to recover from the loss.
    """
    known = (await (await store.read()).service_keys()).get(AUDIT)
    if known is None:
        return None
    try:
        public_key = await token.public_key(known.object_id)
    except NoSuchObject:
        if needed:
            raise
        return None
    sign = partial(token.sign, known.object_id, SigningAlgorithm.ECDSA_SHA_256, is_digest=True)
    return Signer(public_key, token.info.serial, sign)


AHEAD_BYTES = 512 * 1024
"""Bytes of a worker's write-ahead log. When it is full, the trail is synced, which takes as long as a few batches."""


async def open_trail(
    config: Config, writer: str, signer: Signer | None, clock: Clock, cohorts: CohortScheduler | None = None
) -> TrailSink:
    """Open the audit trail of a process whose calls `cohorts` counts. Raises `AuditUnavailable`, `ConfigError`."""
    settings = SinkSettings(
        file_bytes=config.audit.file_bytes,
        interval=Interval(config.audit.checkpoint_lines, config.audit.checkpoint_seconds),
        forward=config.audit.forward,
        now=clock.now,
        ahead_bytes=AHEAD_BYTES if is_worker(writer) else 0,
        cohorts=cohorts or CohortScheduler(),
        node=trail_node(config),
    )
    try:
        sink = await TrailSink.open(
            config.audit_dir, writer, signer, settings, shared_writer_name=not is_worker(writer)
        )
    except BadTarget as exc:
        raise ConfigError(f"audit.forward: {exc}") from exc
    if is_worker(writer):
        # Record the start of the worker before its first request. If that fails now, `/readyz` reports it.
        with contextlib.suppress(AuditUnavailable):
            await sink.record_takeover()
    return sink


def trail_node(config: Config) -> TrailNode:
    """Return this host as its trail names it; empty if the database has one host. Raises `ConfigError`."""
    identity = node_identity.read(config.data_dir) if config.store.url else None
    return TrailNode() if identity is None else TrailNode(identity.node_id, identity.name)


def open_logs(config: Config, store: LogStore, tokens: Tokens, sink: AuditSink, clock: Clock) -> LogsService:
    """Open the log service."""
    arns = arn_scope_of(config)

    async def record(use: KeyUse) -> None:
        await sink.append(record_of_key_use(use, arns))

    segments = open_segments(config, store)
    return LogsService(DataKeys(tokens, arns, record), segments, compress=config.logs.compress, now=clock.now)


@asynccontextmanager
async def open_token(settings: TokenSettings) -> AsyncIterator[Token]:
    """Open only a token. Raises `TokenError` (`PinRefused`)."""
    token = await Pkcs11Token.open(settings)
    try:
        yield token
    finally:
        await token.close()


@asynccontextmanager
async def open_components(
    config: Config, writer: str, clock: Clock | None = None, uptime: Callable[[], float] = boot_clock.uptime
) -> AsyncIterator[Components]:
    """Open all components of one process, and close them at the end of the block. Default clocks are the host's.

    Raises `StoreUnavailable`, `TokenUnavailable` (`PinRefused`), `AuditUnavailable`, `ConfigError`.
    """
    set_module_environment(config)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config))
        sentinel = (await (await store.read()).service_keys()).get(SENTINEL)
        token = await Pkcs11Token.open(token_settings(config, sentinel.object_id if sentinel else None))
        stack.push_async_callback(token.close)
        counts = MessageCounts(store)
        stack.push_async_callback(counts.close)
        token.count_messages_by(counts.reserve)
        watch = clock = await WatchedClock.start(store, clock or SystemClock(), boot_clock.boot_id(), uptime)
        cohorts, signer = CohortScheduler(), await audit_signer(store, token, needed=is_worker(writer))
        sink = await open_trail(config, writer, signer, clock, cohorts)
        stack.push_async_callback(sink.close)
        serves = {TokenName(further.name): further.serves for further in config.tokens}
        tokens = Tokens(token, {}, serves, config.wraps)
        store.on_object_destroying(tokens.invalidate)
        others = OtherTokens(config, store, tokens, counts, stack)
        await others.open_all()
        logs = open_logs(config, store, tokens, sink, clock)
        stack.push_async_callback(logs.close)
        refused, arns = frozenset(config.import_.refuse), arn_scope_of(config)
        dependencies = Dependencies(arns, quotas_of(config), store, tokens, refused, {LogsService: logs})
        yield Components(config, store, sink, Pipeline(dependencies, clock, sink, cohorts), watch, others)
