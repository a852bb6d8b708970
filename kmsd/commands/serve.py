"""`kmsd serve`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

import structlog

from kmsd import supervisor
from kmsd.accepted import Accepted
from kmsd.adapters.sqlite import connection
from kmsd.children import Children
from kmsd.config import Config, ConfigError
from kmsd.locking import data_lock
from kmsd.logs import set_up
from kmsd.supervisor import Supervisor
from kmsd.wire.listeners import ListenerRefused, listener_permitted

log = structlog.get_logger()


def add_to(commands: Any) -> None:
    """Declare the command."""
    commands.add_parser("serve", help="run the daemon in the foreground").set_defaults(run=serve)


async def serve(_: Config, options: argparse.Namespace) -> int:
    """Bind, start the workers, and stay until a signal. Raises `ConfigError`, `StoreUnavailable`."""
    set_up("supervisor")
    accepted = Accepted.read(options.config)
    config = accepted.config
    # Refused here, so that a database that cannot be used is one clear line and not one for each worker.
    before = connection.schema(config.database)
    lock = data_lock(config)
    if connection.migrate(config.database):
        log.info("database migrated", before=before, after=connection.newest())
    connection.date_older_sessions(config.database, datetime.now(UTC))
    try:
        listener = supervisor.listener_of(config.listen.address)
        listener_permitted(listener, tls=config.listen.tls_certificate is not None)
        for_metrics = supervisor.bind(config.metrics.address) if config.metrics.address else None
        if for_metrics is not None:
            listener_permitted(for_metrics, tls=False)
    except (ListenerRefused, ValueError) as exc:
        raise ConfigError(str(exc)) from exc
    with lock, listener:
        daemon = Supervisor(accepted, options.config, listener, Children(options.zygote))
        if for_metrics is None:
            return await daemon.run()
        # Half of what the parent would have to import, for those who want it.
        from kmsd.metrics.server import watched  # noqa: PLC0415

        async with watched(lambda: daemon.accepted.config, for_metrics) as daemon.metrics:
            return await daemon.run()
