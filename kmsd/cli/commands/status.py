"""`kmsd status`: what this installation does at the moment, on one screen or as JSON. Needs neither token nor PIN."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from kmsd import __version__
from kmsd.adapters.audit_trail import recovery
from kmsd.adapters.audit_trail.format import files_of
from kmsd.backup.create import LAST_BACKUP, last_backup
from kmsd.cli.commands.nodes import ALIVE
from kmsd.config import instance_lock, node_identity
from kmsd.config.sections import Config
from kmsd.daemon.worker_spec import WORKER
from kmsd.database import database_of
from kmsd.jobs.scheduler import LEASE
from kmsd.linux import processes, systemd_units
from kmsd.ports import StoreError

NOT_READY = 1
"""Exit status if the daemon does not run, or is not ready."""
ANSWER_SECONDS = 5.0
_OF_ALL = {"0.0.0.0": "127.0.0.1", "[::]": "::1", "": "127.0.0.1"}  # noqa: S104 (not bound to here)
"""Where a daemon that listens on all addresses is reached from its host."""
CERTIFICATE_WARNING = timedelta(days=14)
BACKUP_WARNING = timedelta(days=8)


class Line(msgspec.Struct, frozen=True):
    """One line of the screen."""

    topic: str
    """`daemon`, `database`, `keys`, `nodes`, `jobs`, `trail`, `backup` or `certificate`."""
    text: str
    is_well: bool = True
    """False if an operator should look at it."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser("status", help="what this installation does at the moment")
    command.add_argument("--json", action="store_true", help="for machines: a list of lines with topic, text, is_well")
    command.set_defaults(run=run, needs_pin=False)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Print the lines. Return `NOT_READY` if the daemon does not run or is not ready, else 0."""
    now = datetime.now(UTC)
    daemon = list(_daemon(config, _address(config, options.config)))
    lines = [*daemon, *[line async for line in _database(config, now)], *_files(config, now)]
    if options.json:
        shown = [msgspec.structs.asdict(line) for line in lines]
        print(
            json.dumps({"version": __version__, "ready": all(one.is_well for one in daemon), "lines": shown}, indent=2)
        )
    else:
        print(f"kmsd {__version__}")
        topic = ""
        for line in lines:
            print(_marked(line, "" if line.topic == topic else line.topic))
            topic = line.topic
    return 0 if all(line.is_well for line in daemon) else NOT_READY


def _marked(line: Line, topic: str) -> str:
    return f"{topic:<12}{'' if line.is_well else '! '}{line.text}"


def ago(past: datetime, now: datetime) -> str:
    """Return how long ago something was, such as `3 min ago`."""
    seconds = max(0, round((now - past).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


# --- The daemon -----------------------------------------------------------------------------------------


def _address(config: Config, path: Path) -> str:
    """Return the address at which the daemon serves: of the unit's socket, if the unit reads this configuration."""
    try:
        addresses = systemd_units.socket_addresses() if systemd_units.starts_with(path) else []
    except systemd_units.UnitError:
        addresses = []  # no systemd
    return addresses[0] if addresses else config.listen.address


def _daemon(config: Config, address: str) -> Iterator[Line]:
    pid = instance_lock.daemon_of(config)
    if pid is None:
        yield Line("daemon", "does not run", is_well=False)
        return
    workers = sum(name.startswith(WORKER) for _, name in processes.descendants(pid))
    since = processes.started_at(pid)
    started = "" if since is None else f", since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M:%S} UTC"
    is_complete = workers >= config.workers
    yield Line("daemon", f"process {pid}, {workers} of {config.workers} workers{started}", is_well=is_complete)
    try:
        states = _states(config, address)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        yield Line("daemon", f"/readyz of {address} does not answer: {exc}", is_well=False)
        return
    bad = {name: state for name, state in states.items() if state != "ok"}
    text = "ready" if not bad else "not ready: " + ", ".join(f"{name} {state}" for name, state in bad.items())
    yield Line("daemon", f"{text} ({', '.join(name for name in states if name != 'status')})", is_well=not bad)


def _states(config: Config, address: str) -> dict[str, str]:
    """Return what `/readyz` says. The certificate is not verified: it is this host's own daemon. Raises OSError."""
    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
    connection.sock = _connected(config, address)
    with closing(connection):
        connection.request("GET", "/readyz")
        return msgspec.json.decode(connection.getresponse().read(), type=dict[str, str])


def _connected(config: Config, address: str) -> socket.socket:
    if address.startswith(("unix:", "/")):
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(ANSWER_SECONDS)
        found.connect(address.removeprefix("unix:"))
        return found
    host, _, port = address.rpartition(":")
    found = socket.create_connection((_OF_ALL.get(host, host.strip("[]")), int(port)), ANSWER_SECONDS)
    if config.listen.tls_certificate is None:
        return found
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(found)


# --- The database ---------------------------------------------------------------------------------------


async def _database(config: Config, now: datetime) -> Any:
    database = database_of(config)
    try:
        version, figures = await database.schema(), await database.statistics(now)
        async with database.open() as store:
            reader = await store.read()
            holder, nodes, here = await reader.holder_of(LEASE), await reader.nodes(), await reader.database_now()
    except StoreError as exc:
        yield Line("database", f"{database}: {exc}", is_well=False)
        return
    yield Line("database", f"{database}, schema version {version}")
    shown = ", ".join(f"{count} {state}" for state, count in sorted(figures.keys.items()) if count)
    yield Line("keys", shown or "none")
    if missing := sum(count for (_, status), count in figures.objects.items() if status == "missing"):
        yield Line("keys", f"{missing} objects are missing in a token", is_well=False)
    own = node_identity.read(config.data_dir)
    for node in nodes:
        name = f"{node.name} (this host)" if own is not None and own.node_id == node.node_id else node.name
        yield Line(
            "nodes",
            f"{name}{f', HSM {node.hsm}' if node.hsm else ''}, {node.version}, seen {ago(node.seen_at, here)}",
            is_well=here - node.seen_at < ALIVE,
        )
    due = [f"{job} at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC" for job, at in sorted(figures.due.items())]
    yield Line("jobs", f"run by {holder}" if holder else "no process runs them")
    if due:
        yield Line("jobs", "next: " + ", ".join(due))


# --- Files ----------------------------------------------------------------------------------------------


def _files(config: Config, now: datetime) -> Iterator[Line]:
    yield from _trail(config.audit_dir, now)
    yield _backup(config, now)
    if config.listen.tls_certificate is not None:
        yield _certificate(config.listen.tls_certificate, now)


def _trail(directory: Path, now: datetime) -> Iterator[Line]:
    try:
        found = files_of(directory)
        ends = {writer: recovery.read(files[-1][1]) for writer, files in found.items()}
    except OSError as exc:
        yield Line("trail", f"{directory} cannot be read: {exc.strerror}", is_well=False)
        return
    for writer, end in ends.items():
        newest = found[writer][-1][1]
        written = datetime.fromtimestamp(newest.stat().st_mtime, UTC)
        damaged = ", DAMAGED: kmsd audit verify" if end.damaged else ""
        text = f"{writer}: {end.head.sequence} lines, the last {ago(written, now)}{damaged}"
        yield Line("trail", text, is_well=not end.damaged)
    if not ends:
        yield Line("trail", f"{directory} holds none", is_well=False)


def _backup(config: Config, now: datetime) -> Line:
    try:
        last = last_backup(config.data_dir)
    except (OSError, msgspec.MsgspecError) as exc:
        return Line("backup", f"{LAST_BACKUP} cannot be read: {exc}", is_well=False)
    if last is None:
        return Line("backup", "none was made on this host", is_well=False)
    at = datetime.fromisoformat(last.snapshot_at)
    return Line("backup", f"{ago(at, now)}, {last.size} bytes", is_well=now - at < BACKUP_WARNING)


def _certificate(path: Path, now: datetime) -> Line:
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as exc:
        return Line("certificate", f"{path} cannot be read: {exc}", is_well=False)
    days = (end - now).days
    text = (
        f"{path} is valid until {end:%Y-%m-%d} ({days} days)" if days >= 0 else f"{path} has expired on {end:%Y-%m-%d}"
    )
    return Line("certificate", text, is_well=end - now > CERTIFICATE_WARNING)
