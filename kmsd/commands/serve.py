"""`kmsd serve`, and the worker process that it starts."""

from __future__ import annotations

import argparse
import fcntl
from typing import IO, Any

from kmsd import supervisor, worker
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.config import Config, ConfigError
from kmsd.logs import set_up
from kmsd.supervisor import Supervisor
from kmsd.wire.listeners import ListenerRefused, listener_permitted


def add_to(commands: Any) -> None:
    """Declare the commands."""
    commands.add_parser("serve", help="run the daemon in the foreground").set_defaults(run=serve)
    command: argparse.ArgumentParser = commands.add_parser("worker")
    for name in ("--index", "--listener", "--ready", "--life"):
        command.add_argument(name, type=int, required=True)
    command.set_defaults(run=work)


async def serve(config: Config, options: argparse.Namespace) -> int:
    """Bind, start the workers, and stay until a signal. Raises `ConfigError`, `StoreUnavailable`."""
    set_up("supervisor")
    # Refused here, so that a database that cannot be used is one clear line and not one for each worker.
    await SqliteStore(config.database).close()
    lock = _lock(config)
    try:
        listener = supervisor.listener_of(config.listen.address)
        listener_permitted(listener, tls=config.listen.tls_certificate is not None)
    except (ListenerRefused, ValueError) as exc:
        raise ConfigError(str(exc)) from exc
    with lock, listener:
        return await Supervisor(config, options.config, listener).run()


def _lock(config: Config) -> IO[bytes]:
    """One daemon for each data directory. Raises `ConfigError` if another runs."""
    handle = (config.data_dir / "daemon.lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        handle.close()
        raise ConfigError(f"another kmsd serves {config.data_dir}") from exc
    return handle


async def work(config: Config, options: argparse.Namespace) -> int:
    """One worker, on the socket and pipes of its parent."""
    set_up(f"worker-{options.index}")
    return await worker.run(config, worker.Lines(options.index, options.listener, options.ready, options.life))
