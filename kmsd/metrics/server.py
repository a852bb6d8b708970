"""Metrics in the parent process: the memory that workers count in, and a separate listener for `GET /metrics`.

A scrape does not involve the workers. It reads their memory and the database in a thread, and delays no request.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog
from cryptography import x509

from kmsd import __version__
from kmsd.adapters.sql.statistics import ServerStatistics
from kmsd.backup.create import last_backup
from kmsd.config.reload_verdict import Outcome
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.config.snapshot import ConfigSnapshot, tls_files
from kmsd.database import database_of
from kmsd.domain.domain_key import DomainKeyState
from kmsd.domain.key_state import KeyState
from kmsd.domain.trusted_time import Uptime, assess
from kmsd.linux import boot_clock
from kmsd.metrics.exposition import Aggregate, Exposition, write_counts
from kmsd.metrics.layout import layout_of
from kmsd.metrics.shared_memory import SharedMetrics
from kmsd.ports import StoreError
from kmsd.wire.http.messages import Request, Response
from kmsd.wire.http.server import Listener, TransportLimits, serve
from kmsd.wire.http.tls import tls_context

_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
TEXT = "text/plain; version=0.0.4; charset=utf-8"
LIMITS = TransportLimits(connections=64, body_bytes=1024)

log = structlog.get_logger()


class Sources(msgspec.Struct, frozen=True):
    """Functions that return what the parent process knows."""

    snapshot: Callable[[], ConfigSnapshot]
    """The configuration in force."""
    reloads: Callable[[], Mapping[Outcome, int]]
    """Number of reloads by outcome."""


@asynccontextmanager
async def watched(
    sources: Sources, listener: socket.socket, after_reload: list[Callable[[], None]]
) -> AsyncIterator[int]:
    """Serve metrics on `listener` during the block. Yields the descriptor of the memory that workers count in.

    Appends to `after_reload` what has to be called when another certificate is in force. The listener is closed on
    exit. Raises `ListenerRefused`.
    """
    config = sources.snapshot().config
    board = SharedMetrics(layout_of(config.token_names))
    started_at, hosts = time.time(), None if config.metrics.tls else hosts_of(listener)
    served = Listener(listener, _tls_of(sources.snapshot()))

    async def handle(request: Request) -> Response:
        received = request.received
        if hosts is not None and _host_in(received.header("host") or "") not in hosts:
            return Response(
                421, (("Content-Type", TEXT),), b"the Host header names neither this address nor localhost\n"
            )
        if received.method not in ("GET", "HEAD"):
            return Response(405, (("Allow", "GET, HEAD"),), b"")
        if received.target.partition("?")[0] != "/metrics":
            return Response(404, (("Content-Type", TEXT),), b"/metrics\n")
        body = await asyncio.to_thread(_page, board, sources.snapshot().config, started_at, dict(sources.reloads()))
        return Response(200, (("Content-Type", TEXT),), body)

    def renew() -> None:
        served.tls = _tls_of(sources.snapshot())

    after_reload.append(renew)
    server = await serve(handle, [served], LIMITS)
    try:
        yield board.descriptor
    finally:
        await server.stop(1.0)
        board.close()


def _tls_of(accepted: ConfigSnapshot) -> ssl.SSLContext | None:
    """Return a context with the certificate in force; None for plain HTTP."""
    return tls_context(*tls_files(accepted.tls)) if accepted.config.metrics.tls else None


def hosts_of(listener: socket.socket) -> frozenset[str] | None:
    """Return the hosts that requests to this listener may name; None for a Unix socket, which no browser can reach.

    A web page in a browser on this host can make its own name resolve to a loopback address (DNS rebinding). Its
    requests still name the page's host. Over TLS the certificate would have to name it.
    """
    if listener.family == socket.AF_UNIX:
        return None
    address = listener.getsockname()[0]
    return frozenset({"localhost", f"[{address}]" if listener.family == socket.AF_INET6 else address})


def _host_in(header: str) -> str:
    """Return the host of a Host header (RFC 9110, section 7.2) without its port; "" if the header is malformed."""
    found = _HOST.fullmatch(header.lower())
    return found["host"] if found else ""


def _page(board: SharedMetrics, config: Config, started_at: float, reloads: Mapping[Outcome, int]) -> bytes:
    page, now = Exposition(), time.time()
    write_counts(page, Aggregate.of(board), now, config.workers)
    page.family("kmsd_build_info", "gauge", "Release of the daemon.", [({"version": __version__}, 1)])
    page.sample("kmsd_start_time_seconds", "gauge", "Start time of the daemon.", started_at)
    page.family(
        "kmsd_reloads_total",
        "counter",
        "Reloads by outcome; partial: some workers still run with the configuration before.",
        [({"outcome": outcome.value}, number) for outcome, number in reloads.items()],
    )
    sources: dict[str, Callable[[Exposition, Config], None]] = {
        "database": _database,
        "disk": _disk,
        "backup": _backup,
        "certificate": _certificate,
    }
    failed = {name: not _wrote(page, config, name, write) for name, write in sources.items()}
    page.family(
        "kmsd_source_failed",
        "gauge",
        "1 if this source could not be read for this page.",
        [({"source": name}, float(is_failed)) for name, is_failed in failed.items()],
    )
    return page.text()


def _wrote(page: Exposition, config: Config, name: str, write: Callable[[Exposition, Config], None]) -> bool:
    try:
        write(page, config)
    except (OSError, StoreError, ConfigError, ValueError, msgspec.DecodeError) as exc:
        log.warning("metrics_source_failed", source=name, detail=str(exc))
        return False
    return True


def _database(page: Exposition, config: Config) -> None:
    # In a thread of its own, which has no event loop.
    found = asyncio.run(database_of(config).statistics(datetime.now(UTC)))
    keys: dict[str, int] = {**{state.value: 0 for state in KeyState}, **found.keys}
    page.family("kmsd_keys", "gauge", "Keys by state.", [({"state": name}, number) for name, number in keys.items()])
    page.family(
        "kmsd_wrapped_materials",
        "gauge",
        "Wrapped key materials, by the state of their domain key; retiring: still to be rewrapped.",
        [({"domain_key": state}, found.wrapped.get(state, 0)) for state in DomainKeyState],
    )
    objects: dict[tuple[str, str], int] = {(name, "missing"): 0 for name in config.token_names}
    objects.update(found.objects)
    page.family(
        "kmsd_token_objects",
        "gauge",
        "Token objects in the database, by token and status; missing: the token has lost key material.",
        [({"token": name, "status": status}, number) for (name, status), number in sorted(objects.items())],
    )
    page.family(
        "kmsd_next_due_timestamp_seconds",
        "gauge",
        "Time when a job is next due for any key.",
        [({"job": name}, at) for name, at in found.due.items()],
    )
    uptime = Uptime(boot_clock.boot_id(), boot_clock.uptime())
    judgement = assess(found.clock, datetime.now(UTC), uptime)
    page.sample(
        "kmsd_jobs_held",
        "gauge",
        "1 if destructive jobs are suspended because of the clock.",
        float(judgement.suspended),
    )
    ahead = judgement.skew.total_seconds()
    page.sample("kmsd_clock_ahead_seconds", "gauge", "Seconds that the clock is ahead of the trusted time.", ahead)
    if found.server is not None:
        _server(page, found.server)


def _server(page: Exposition, found: ServerStatistics) -> None:
    nodes = [({"state": state}, number) for state, number in found.nodes.items()]
    page.family("kmsd_nodes", "gauge", "Nodes in the database; silent: not seen for half a minute.", nodes)
    page.sample("kmsd_store_timeline", "gauge", "Timeline of the database server.", found.timeline)
    text = "Position of the database server in its write-ahead log."
    page.sample("kmsd_store_wal_bytes", "gauge", text, found.wal_bytes)
    page.sample("kmsd_store_standbys", "gauge", "Standbys that follow the database server.", found.standbys)
    text = "1 if commits wait for a standby."
    page.sample("kmsd_store_needs_standby", "gauge", text, float(found.needs_standby))


def _disk(page: Exposition, config: Config) -> None:
    places = {"data": config.data_dir, "audit": config.audit_dir}
    free = [({"of": name}, shutil.disk_usage(path).free) for name, path in places.items()]
    page.family("kmsd_disk_free_bytes", "gauge", "Free space for the data directory and the trail.", free)


def _backup(page: Exposition, config: Config) -> None:
    last = last_backup(config.data_dir)
    if last is None:
        return
    at = datetime.fromisoformat(last.snapshot_at).timestamp()
    page.sample("kmsd_last_backup_timestamp_seconds", "gauge", "Time of the last backup.", at)
    page.sample("kmsd_last_backup_bytes", "gauge", "Size of the last backup.", last.size)


def _certificate(page: Exposition, config: Config) -> None:
    path: Path | None = config.listen.tls_certificate
    if path is None:
        return
    ends_at = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    page.sample("kmsd_certificate_not_after_timestamp_seconds", "gauge", "Expiry of the TLS certificate.", ends_at)
