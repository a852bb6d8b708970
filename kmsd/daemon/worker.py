"""Worker process: one event loop, one PKCS#11 login. Serves the socket that its parent bound."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import structlog
import uvloop

from kmsd.adapters.audit_trail.follower import TrailFollower
from kmsd.adapters.audit_trail.node_anchors import NodeAnchors
from kmsd.app import Components, open_components, trail_node
from kmsd.audit import RefusalSampler
from kmsd.cloudwatch_logs.jobs.audit_copy import AuditCopy
from kmsd.cloudwatch_logs.ports import SegmentsError
from kmsd.config import node_identity
from kmsd.config import settings as configuration
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.config.snapshot import memory_path
from kmsd.custody import key_usage, wrapped_material
from kmsd.custody.credentials import CredentialStore
from kmsd.daemon import stand_in
from kmsd.daemon.fork_server import SpawnRequest
from kmsd.daemon.issuers import web_identities_of
from kmsd.daemon.serving import allow_descriptors, limits_of, listener_of, report_ready
from kmsd.daemon.worker_spec import OPENED, REPLACE, WORKER, WorkerSpec, not_ready
from kmsd.domain.material import TokenName
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
    Tokens,
    TokenUnavailable,
)
from kmsd.wire.endpoint import Endpoint
from kmsd.wire.http.server import serve
from kmsd.wire.readiness import Probe, Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4.claim import signing_key
from kmsd.wire.throttling import RateClass, Throttle

GRACE_SECONDS = 20.0
"""Seconds that a stopping worker waits for running calls."""
STUCK_DEADLINES = 4
"""Deadlines of a token call for which the event loop may block before the process ends itself."""
JOB_SECONDS = 1.0
"""Seconds that a stopping worker waits for a running job."""
DRAIN_IDLE_SECONDS = 10.0
"""Seconds in which an idle connection may send one more request after another worker has taken over."""

_STOPS = (signal.SIGTERM, signal.SIGINT)

WEAR_SECONDS = 1.0
"""Seconds between two looks at whether the token's module has leaked too much memory."""

GC_THRESHOLD = 20_000
"""Containers allocated between garbage collections. A request allocates some hundred, and leaves none."""

log = structlog.get_logger()


def main(order: SpawnRequest) -> int:
    """Run a worker or a stand-in for this request. Return the exit status."""
    spec = WorkerSpec.of(order)
    stands_in = spec.missing is not None
    name_process(stand_in.NAME if stands_in else f"{WORKER}-{spec.worker_index}")
    set_up("stand-in" if stands_in else f"worker-{spec.worker_index}")
    try:
        os.write(spec.ready_fd, b"%d\n" % os.getpid())
    except BrokenPipeError:
        return 0  # the parent has stopped waiting, or is gone
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(stand_in.run(spec) if stands_in else run(spec))


async def run(spec: WorkerSpec) -> int:
    """Serve until a signal, or until the parent is gone. Return the exit status."""
    _defer_termination()
    try:
        config = configuration.load(memory_path(spec.config_fd))
        async with open_components(config, f"worker-{spec.worker_index}") as components:
            await _wait_for_signal(spec.ready_fd)
            return await _serve(config, spec, components)
    except (ConfigError, StoreError, TokenError, AuditUnavailable, SegmentsError) as exc:
        report = not_ready(exc)
        report.write(spec.ready_fd)
        return report.status
    except asyncio.CancelledError:
        # The token is closed. Do not wait for other threads: one may wait half a minute for the audit chain.
        os._exit(0)


async def _wait_for_signal(ready: int) -> None:
    """Report `OPENED`, and wait for the parent's SIGUSR1."""
    signalled, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, signalled.set)
    os.write(ready, OPENED)
    await signalled.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


def _defer_termination() -> None:
    """Let a call into the token finish before a termination signal ends this process during its start.

    SoftHSM truncates and rewrites its token's file at each login: a process that ends in between leaves it empty.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    cancelled = False

    def end() -> None:
        nonlocal cancelled
        if task is not None and not cancelled:
            cancelled = task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, end)


def readiness_of(components: Components) -> Readiness:
    """Return the probes of `/readyz`."""
    probes: dict[str, Probe] = {
        "token": partial(_check_main_token, components),
        "store": components.store.check,
        "audit": components.sink.check,
        "logs": components.segments.check,
    }
    further: dict[str, Probe] = {
        f"token:{one.name}": partial(_check_token, components, TokenName(one.name)) for one in components.config.tokens
    }
    return Readiness(probes, optional=further)


async def _check_main_token(components: Components) -> None:
    """Check that the main token can be used, for all keys. Raises `TokenUnavailable`."""
    await components.token.check()
    try:
        lacking = await wrapped_material.lacking_domain_keys(await components.store.read())
    except StoreError:
        return  # which the probe of the store reports
    if lacking:
        names = ", ".join(one.domain_key_id.hex() for one in lacking)
        raise TokenUnavailable(f"this node's HSM lacks domain keys that key material needs: {names}")


async def _check_token(components: Components, name: TokenName) -> None:
    """Check that a further token can be used. Raises `TokenUnavailable`."""
    await components.tokens[name].check()


async def _serve(config: Config, spec: WorkerSpec, components: Components) -> int:
    allow_descriptors()
    stopping, loop, rest = asyncio.Event(), asyncio.get_running_loop(), DRAIN_IDLE_SECONDS
    readiness = readiness_of(components)
    pipeline, arns = components.pipeline, components.pipeline.dependencies.arns
    refusals = RefusedRequestLog(components.sink, arns, RefusalSampler(config.audit.refusals_per_second))
    counting = WorkerMetrics.start(spec.metrics, config)
    credentials = CredentialStore(components.token, arns, signing_key)
    wall, rates, web = components.watch.wall, rates_of(config), web_identities_of(config)
    endpoint = Endpoint(pipeline, credentials, readiness, refusals, counting.meter, wall, rates, web)
    listener = listener_of(spec, is_shared=config.workers > 1)
    server = await serve(endpoint.handle, [listener], limits_of(config), pipeline.cohorts)

    def end() -> None:
        nonlocal rest
        rest = config.listen.drain_seconds
        server.drain(rest)
        stopping.set()

    _leave_before(end, readiness, config.listen.leave_seconds)
    loop.add_reader(spec.parent_pipe, end)
    # On SIGHUP a replacement is serving; finish in our own time.
    loop.add_signal_handler(signal.SIGHUP, stopping.set)
    gc.set_threshold(GC_THRESHOLD)
    report_ready(spec.ready_fd, end)
    jobs = asyncio.create_task(scheduler_of(components, spec).run(stopping))
    background = [asyncio.create_task(counting.run(components, server, readiness)), *_background(spec, components)]
    watch = EventLoopWatchdog(STUCK_DEADLINES * config.token.call_deadline_seconds)
    watch.start()
    await stopping.wait()
    await server.stop(GRACE_SECONDS, rest)
    await refusals.close()
    await _stop_jobs(jobs)
    await cancel_and_wait(background)
    watch.stop()
    return 0


def _background(spec: WorkerSpec, components: Components) -> Iterator[asyncio.Task[None]]:
    """Start what a worker does beside requests and jobs."""
    yield asyncio.create_task(audit_copy_of(components).run())
    yield asyncio.create_task(components.other_tokens.seek())
    yield asyncio.create_task(ask_when_worn(components.tokens, spec.ready_fd))
    config, node = components.config, trail_node(components.config)
    if node.node_id and spec.worker_index == 0:
        yield asyncio.create_task(NodeAnchors(config.audit_dir, node, components.store, components.sink).run())


def _leave_before(end: Callable[[], None], readiness: Readiness, seconds: float) -> None:
    """On a signal to stop, be not ready for some seconds, and then call `end`; at once on a second signal."""
    loop = asyncio.get_running_loop()

    def leave() -> None:
        for number in _STOPS:
            loop.add_signal_handler(number, end)
        readiness.leave()
        loop.call_later(seconds, end)

    for number in _STOPS:
        loop.add_signal_handler(number, leave if seconds else end)


async def _stop_jobs(jobs: asyncio.Task[None]) -> None:
    """Wait `JOB_SECONDS` for a running job, then cancel it; the next process that holds the lease continues it.

    The worker that replaces this one waits for its audit chain. A job tolerates cancellation, and a kill, at any point.
    """
    done, _ = await asyncio.wait([jobs], timeout=JOB_SECONDS)
    if done:
        await jobs
        return
    await cancel_and_wait((jobs,))
    log.info("job_interrupted", consequence="the next process that holds the lease continues it")


async def ask_when_worn(tokens: Tokens, descriptor: int) -> None:
    """Ask the parent once for a replacement, when a token's module needs a new process. Serve until it comes."""
    while not (worn := [name for name, token in tokens.items() if token.needs_new_process]):  # noqa: ASYNC110 (threads count)
        await asyncio.sleep(WEAR_SECONDS)
    made = {name: tokens[name].counters.session_objects for name in worn}
    log.info("worker_worn_out", session_objects=made, consequence="another worker is to take over")
    with suppress(BrokenPipeError):  # the parent has ended, and this worker ends too
        os.write(descriptor, REPLACE)


def scheduler_of(components: Components, spec: WorkerSpec) -> Scheduler:
    """Return the scheduler of jobs. Every worker runs one; a lease decides which of them runs jobs."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{spec.worker_index}"
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
    """Return the copier of the audit trail. Every worker copies its own chain, and chains without a process."""
    dependencies = components.pipeline.dependencies
    trail = TrailFollower(components.config.audit_dir, components.sink)
    observe = partial(key_usage.record, components.store)
    config, identity = components.config, node_identity.read(components.config.data_dir)
    node = "" if identity is None else identity.log_streams
    return AuditCopy(trail, components.store, components.logs, dependencies.arns, config.account, observe, node)


def rates_of(config: Config) -> Throttle | None:
    """Return the rate limits of one principal in this worker; None if nothing is limited."""
    given = config.rates
    rates = Throttle({name: getattr(given, name.value) for name in RateClass}, given.burst_seconds, config.workers)
    return rates if rates.limits_anything else None
