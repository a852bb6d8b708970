"""A worker: one process, one event loop, one PKCS#11 login; serves the socket that its parent bound."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket

import structlog
import uvloop

from kmsd.adapters.audit_trail.follower import TrailFollower
from kmsd.app import Components, open_components
from kmsd.audit import RefusalSampler
from kmsd.cloudwatch_logs.jobs.audit_copy import AuditCopy
from kmsd.cloudwatch_logs.ports import SegmentsError
from kmsd.config import settings as configuration
from kmsd.config.settings import Config, ConfigError
from kmsd.config.snapshot import memory_path
from kmsd.custody.credentials import CredentialStore
from kmsd.daemon import stand_in
from kmsd.daemon.fork_server import SpawnRequest
from kmsd.daemon.serving import allow_descriptors, limits_of, listener_of, report_ready
from kmsd.daemon.worker_spec import OPENED, WorkerSpec, not_ready
from kmsd.event_loop.tasks import cancel_and_wait
from kmsd.event_loop.watchdog import EventLoopWatchdog
from kmsd.jobs.scheduler import Scheduler
from kmsd.linux.prctl import name_process
from kmsd.logging_setup import set_up
from kmsd.metrics.worker import WorkerMetrics
from kmsd.ports import (
    AuditUnavailable,
    StoreError,
    TokenError,
)
from kmsd.wire.endpoint import Endpoint
from kmsd.wire.http.server import serve
from kmsd.wire.readiness import Probe, Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4.claim import signing_key
from kmsd.wire.throttling import RateClass, Throttle

NAME = "kmsd-worker"
"""As the kernel has it; the worker's number follows."""

GRACE_SECONDS = 20.0
"""How long a stopping worker waits for the calls that it has begun."""
STUCK_DEADLINES = 4
"""So many deadlines of a token call the event loop may stand still before the process is given up."""
JOB_SECONDS = 1.0
"""How long a stopping worker waits for a job under way."""
DRAIN_IDLE_SECONDS = 10.0
"""How long a resting connection may bring one more request, when another worker has taken over."""

GC_THRESHOLD = 20_000
"""Containers that a worker may have made since the last collection. A request makes some hundred, and leaves none."""

log = structlog.get_logger()


def main(order: SpawnRequest) -> int:
    """What the process does that was forked for this order; its exit status."""
    lines = WorkerSpec.of(order)
    stands_in = lines.missing is not None
    name_process(stand_in.NAME if stands_in else f"{NAME}-{lines.worker_index}")
    set_up("stand-in" if stands_in else f"worker-{lines.worker_index}")
    try:
        os.write(lines.ready_fd, b"%d\n" % os.getpid())
    except BrokenPipeError:
        return 0  # the parent has given up waiting, or is gone
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(stand_in.run(lines) if stands_in else run(lines))


async def run(lines: WorkerSpec) -> int:
    """Serve until a signal, or until the parent is gone. The exit status."""
    _defer_termination()
    try:
        config = configuration.load(memory_path(lines.config_fd))
        async with open_components(config, f"worker-{lines.worker_index}") as components:
            await _wait_for_signal(lines.ready_fd)
            return await _serve(config, lines, components)
    except (ConfigError, StoreError, TokenError, AuditUnavailable, SegmentsError) as exc:
        told = not_ready(exc)
        told.write(lines.ready_fd)
        return told.status
    except asyncio.CancelledError:
        # The token is closed. What else is under way waits for others (for the audit chain, half a minute).
        os._exit(0)


async def _wait_for_signal(ready: int) -> None:
    """Say that all is open, and wait for the parent's word."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, told.set)
    os.write(ready, OPENED)
    await told.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


def _defer_termination() -> None:
    """Whoever is told to end while it starts ends its call into the token first.

    SoftHSM empties its token's file at each login and writes it anew: a process that ends between costs the token.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told = False

    def end() -> None:
        nonlocal told
        if task is not None and not told:
            told = task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, end)


def readiness_of(components: Components) -> Readiness:
    """What `/readyz` asks."""
    probes: dict[str, Probe] = {
        "token": components.token.check,
        "store": components.store.check,
        "audit": components.sink.check,
        "logs": components.segments.check,
    }
    return Readiness(probes)


async def _serve(config: Config, lines: WorkerSpec, components: Components) -> int:
    allow_descriptors()
    stopping = asyncio.Event()
    rest = DRAIN_IDLE_SECONDS
    loop = asyncio.get_running_loop()
    readiness = readiness_of(components)
    place = components.pipeline.dependencies.arns
    refusals = RefusedRequestLog(components.sink, place, RefusalSampler(config.audit.refusals_per_second))
    counting = WorkerMetrics.start(lines.metrics)
    credentials = CredentialStore(components.token, place, signing_key)
    front = Endpoint(
        components.pipeline, credentials, readiness, refusals, counting.meter, components.watch.wall, rates_of(config)
    )
    server = await serve(front.handle, [listener_of(lines)], limits_of(config), components.pipeline.cohorts)

    def end() -> None:
        nonlocal rest
        rest = config.listen.drain_seconds
        server.drain(rest)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_reader(lines.parent_pipe, end)
    # Another has taken over, and nobody waits for the end of this one.
    loop.add_signal_handler(signal.SIGHUP, stopping.set)
    freeze_gc()
    report_ready(lines.ready_fd, end)
    jobs = asyncio.create_task(scheduler_of(components, lines).run(stopping))
    copying = asyncio.create_task(audit_copy_of(components).run())
    publishing = asyncio.create_task(counting.run(components, server, readiness))
    seeking = asyncio.create_task(components.seek_import_token())
    watch = EventLoopWatchdog(STUCK_DEADLINES * config.token.call_deadline_seconds)
    watch.start()
    await stopping.wait()
    await server.stop(GRACE_SECONDS, rest)
    await refusals.close()
    await _stop_jobs(jobs)
    await cancel_and_wait((copying, publishing, seeking))
    watch.stop()
    return 0


async def _stop_jobs(jobs: asyncio.Task[None]) -> None:
    """Let the job under way come to its end, if that is near; else leave the rest of it to the next process.

    Whoever is started in this one's place waits for its audit chain. A job can be cut anywhere, as it can be killed.
    """
    done, _ = await asyncio.wait([jobs], timeout=JOB_SECONDS)
    if done:
        await jobs
        return
    await cancel_and_wait((jobs,))
    log.info("job cut short", consequence="the next process that holds the lease goes on with it")


def freeze_gc() -> None:
    """What there is now stays: the collector need not look through it again, 10 ms each time, while callers wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def scheduler_of(components: Components, lines: WorkerSpec) -> Scheduler:
    """The jobs: every worker offers itself, the lease picks one."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{lines.worker_index}"
    return Scheduler(
        components.store,
        components.tokens,
        components.pipeline.clock,
        components.record_job,
        holder,
        components.config.import_.stock,
        components.retention,
        components.watch,
    )


def audit_copy_of(components: Components) -> AuditCopy:
    """Every worker copies the chain that it writes, and what others have left."""
    dependencies = components.pipeline.dependencies
    trail = TrailFollower(components.config.audit_dir, components.sink)
    return AuditCopy(trail, components.store, components.logs, dependencies.arns, components.config.account)


def rates_of(config: Config) -> Throttle | None:
    """What one principal may ask of this worker; None: nothing is limited."""
    given = config.rates
    rates = Throttle({name: getattr(given, name.value) for name in RateClass}, given.burst_seconds, config.workers)
    return rates if rates.limits_anything else None
