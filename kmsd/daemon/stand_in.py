"""Stand-in process: answers while no worker can, because token, database or disk are away.

It holds no secret, opens nothing and authenticates no client. `/healthz` says that the daemon is alive, `/readyz` names
the missing component, and every call is refused with an error that SDKs retry.
"""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec

from kmsd.config import settings as configuration
from kmsd.config.snapshot import memory_path
from kmsd.daemon.serving import allow_descriptors, limits_of, listener_of, report_ready
from kmsd.daemon.worker_spec import NAME_BYTES, WorkerSpec
from kmsd.errors import DependencyTimeoutException, ServiceError
from kmsd.operations.declaration import KMS, Service
from kmsd.wire.http.messages import Request, Response, new_request_id
from kmsd.wire.http.server import serve
from kmsd.wire.protocols.dispatch import protocol_of
from kmsd.wire.readiness import PROBE_TARGETS, UNAVAILABLE, probe_answer

NAME = "kmsd-stand-in"
"""Process name."""
GRACE_SECONDS = 5.0
"""Seconds to finish running answers before a worker takes over."""
IDLE_SECONDS = 1.0
"""Seconds for which an idle connection is kept; also before a worker takes over, so that no request meets a close."""
UNREACHABLE = "The service cannot be reached now. Try again later."


async def run(spec: WorkerSpec) -> int:
    """Answer until a signal, or until the parent is gone. Return the exit status."""
    if spec.missing is None:
        raise ValueError("a stand-in needs the descriptor `missing`")
    missing, ended = spec.missing, asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    loop.add_reader(spec.parent_pipe, ended.set)
    allow_descriptors()

    async def handle(request: Request) -> Response:
        return answer(request, os.pread(missing, NAME_BYTES, 0).decode().rstrip())

    limits = limits_of(configuration.load(memory_path(spec.config_fd)))
    server = await serve(handle, [listener_of(spec)], msgspec.structs.replace(limits, keep_alive_seconds=IDLE_SECONDS))
    report_ready(spec.ready_fd, ended.set)
    await ended.wait()
    await server.stop(GRACE_SECONDS, IDLE_SECONDS)
    return 0


def answer(request: Request, missing: str) -> Response:
    """Answer any request while the daemon waits for `missing`."""
    received = request.received
    if received.method in ("GET", "HEAD") and received.target in PROBE_TARGETS:
        return probe_answer({missing: UNAVAILABLE} if received.target == "/readyz" else {})
    protocol = protocol_of(received)
    return protocol.error(_refusal(protocol.service), new_request_id())


def _refusal(service: Service | None) -> ServiceError:
    """Return the error that the service documents for an unreachable dependency."""
    return (service or KMS).translate_error(DependencyTimeoutException(UNREACHABLE), None)
