"""A worker: one process, one event loop, one PKCS#11 login; serves the socket that its parent bound."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

import structlog

from kmsd.app import Rooms, open_rooms
from kmsd.audit import Refusals
from kmsd.config import Config
from kmsd.custody.credentials import Credentials
from kmsd.exits import EXIT_CONFIG, EXIT_REFUSED
from kmsd.jobs.scheduler import Scheduler
from kmsd.ports import AuditUnavailable, PinRefused, StoreError, TokenError
from kmsd.ports_logs import SegmentsError
from kmsd.wire.front import Front
from kmsd.wire.refusals import RefusalLedger
from kmsd.wire.sigv4_claim import signing_key
from kmsd.wire.tls import tls_context
from kmsd.wire.transport import Limits, Listener, inherited, serve

GRACE_SECONDS = 20.0
"""How long a stopping worker waits for the calls that it has begun."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Lines:
    """What a worker has from its parent."""

    index: int
    listener: int
    """Descriptor of the listening socket."""
    ready: int
    """Descriptor to write to once requests are answered."""
    life: int
    """Descriptor that reads end-of-file when the parent is gone."""


async def run(config: Config, lines: Lines) -> int:
    """Serve until a signal, or until the parent is gone. The exit status."""
    try:
        async with open_rooms(config, f"worker-{lines.index}") as rooms:
            return await _serve(config, lines, rooms)
    except PinRefused as exc:
        log.error("the token refused the PIN; it is not offered again", detail=str(exc))  # noqa: TRY400 (one clear line)
        return EXIT_REFUSED
    except (StoreError, TokenError, AuditUnavailable, SegmentsError) as exc:
        log.error("cannot start", error=type(exc).__name__, detail=str(exc))  # noqa: TRY400 (one clear line)
        return EXIT_CONFIG


async def _serve(config: Config, lines: Lines, rooms: Rooms) -> int:
    _allow_descriptors()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_reader(lines.life, stopping.set)
    probes = {"token": rooms.token.check, "store": rooms.store.check, "audit": rooms.sink.check}
    if rooms.segments is not None:
        probes["logs"] = rooms.segments.check
    place = rooms.pipeline.world.place
    refusals = RefusalLedger(rooms.sink, place, Refusals(config.audit.refusals_per_second))
    front = Front(rooms.pipeline, Credentials(rooms.token, place, signing_key), probes, refusals)
    listener = Listener(inherited(lines.listener), tls_of(config))
    server = await serve(front.handle, [listener], limits_of(config))
    os.write(lines.ready, b"ready")
    os.close(lines.ready)
    jobs = asyncio.create_task(scheduler_of(rooms, lines).run(stopping))
    await stopping.wait()
    await server.stop(GRACE_SECONDS)
    await refusals.close()
    await jobs
    return 0


def _allow_descriptors() -> None:
    """As many as the host lets a process have: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):  # a system call filter may forbid it; the unit has then set what is allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def scheduler_of(rooms: Rooms, lines: Lines) -> Scheduler:
    """The jobs: every worker offers itself, the lease picks one."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{lines.index}"
    return Scheduler(
        rooms.store,
        rooms.token,
        rooms.pipeline.clock,
        rooms.record_job,
        holder,
        rooms.import_token,
        rooms.config.import_.stock,
        rooms.segments,
    )


def limits_of(config: Config) -> Limits:
    """The transport's limits."""
    given = config.listen
    return Limits(
        header_seconds=given.header_seconds,
        body_seconds=given.body_seconds,
        keep_alive_seconds=given.keepalive_seconds,
        connections=given.connections,
    )


def tls_of(config: Config) -> ssl.SSLContext | None:
    """TLS as configured; None for plain HTTP."""
    given = config.listen
    if given.tls_certificate is None or given.tls_key is None:
        return None
    return tls_context(given.tls_certificate, given.tls_key, given.tls_client_ca)
