"""`kmsd serve`: run the daemon in the foreground."""

from __future__ import annotations

import argparse
import socket
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from kmsd.config.instance_lock import acquire_instance_lock
from kmsd.config.sections import Config, ListenConfig
from kmsd.config.settings import ConfigError
from kmsd.config.snapshot import ConfigSnapshot
from kmsd.daemon.supervisor import Supervisor
from kmsd.daemon.worker_pool import WorkerPool
from kmsd.daemon.worker_processes import WorkerProcesses
from kmsd.database import database_of
from kmsd.linux import systemd
from kmsd.logging_setup import set_up
from kmsd.wire.http.listeners import ListenerRefused, address_of, bind_tcp, bind_unix, inherited, listener_permitted

log = structlog.get_logger()


def add_to(commands: Any) -> None:
    """Declare the command."""
    commands.add_parser("serve", help="run the daemon in the foreground").set_defaults(run=serve)


async def serve(_: Config, options: argparse.Namespace) -> int:
    """Bind, start the workers, and run until a signal. Return the exit status. Raises `ConfigError`."""
    set_up("supervisor")
    with ExitStack() as stack:
        accepted = ConfigSnapshot.read(options.config)
        config = accepted.config
        listener = stack.enter_context(_listener_of(config))
        for_metrics = _bound(config.metrics.address, tls=config.metrics.tls) if config.metrics.address else None
        pool = WorkerPool(accepted, listener, WorkerProcesses(options.fork_server))
        daemon = Supervisor(pool, options.config, lambda: _prepare(config, stack))
        if for_metrics is None:
            return await daemon.run()
        # Import only if metrics are wanted: this is half of what the parent process would import.
        from kmsd.metrics.server import Sources, watched  # noqa: PLC0415

        sources = Sources(lambda: pool.snapshot, lambda: daemon.reloads)
        async with watched(sources, for_metrics, daemon.after_reload) as pool.metrics:
            return await daemon.run()


def _listener_of(config: Config) -> socket.socket:
    """Return the socket that systemd passed, or else one bound here. Raises `ConfigError`."""
    tls = config.listen.tls_certificate is not None
    passed = systemd.passed_sockets()
    if not passed:
        return _bound(config.listen.address, tls=tls)
    if len(passed) > 1:
        raise ConfigError(f"systemd passed {len(passed)} sockets, and one is served: name one address in kmsd.socket")
    try:
        listener = inherited(passed[0])
        listener_permitted(listener, tls=tls)
    except ListenerRefused as exc:
        raise ConfigError(f"kmsd.socket: {exc}") from exc
    written, bound = config.listen.address, address_of(listener)
    if written not in (ListenConfig().address, bound):
        log.warning("listen_address_ignored", address=written, kmsd_socket=bound, remedy="remove the line")
    return listener


def _bound(address: str, *, tls: bool) -> socket.socket:
    """Return a listening socket for `HOST:PORT` or `unix:PATH`. Raises `ConfigError`."""
    try:
        if address.startswith("unix:"):
            listener = bind_unix(Path(address.removeprefix("unix:")))
        else:
            host, _, port = address.rpartition(":")
            listener = bind_tcp(host.strip("[]"), int(port))
        listener_permitted(listener, tls=tls)
    except (ListenerRefused, ValueError) as exc:
        raise ConfigError(str(exc)) from exc
    return listener


async def _prepare(config: Config, held: ExitStack) -> None:
    """Take the lock of the data directory, until `held` ends, and migrate the database.

    Call it only once the database exists: a file system mounted later would hide the lock. Raises `ConfigError` if
    another kmsd has the lock, `StoreUnavailable`.
    """
    database = database_of(config)
    before = await database.schema()
    with ExitStack() as lock:
        lock.enter_context(acquire_instance_lock(config))
        if await database.migrate():
            log.info("database_migrated", before=before, after=database.newest())
        await database.date_first_start(datetime.now(UTC))
        held.push(lock.pop_all())
