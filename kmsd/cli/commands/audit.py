"""`kmsd audit`: verify the trail, read it, and export its checkpoints. All but `public-key` need only files."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kmsd.adapters.audit_trail import records
from kmsd.adapters.audit_trail.checkpoint_evidence import BadKey, pem_of, public_key_of
from kmsd.adapters.audit_trail.format import files_of, fingerprint
from kmsd.adapters.audit_trail.node_anchors import line_of
from kmsd.adapters.audit_trail.verification_report import VerificationReport
from kmsd.adapters.audit_trail.verify import verify_nodes
from kmsd.app import audit_signer, open_components
from kmsd.cli.commands.audit_filters import BadFilter, filter_of, row
from kmsd.cli.commands.join import require_several_hosts
from kmsd.cli.commands.listing import add_json
from kmsd.cli.commands.operator_audit import reading
from kmsd.cli.named_files import InputFile
from kmsd.cli.progress import shown
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.exit_codes import InputRefused, NotFound, WrongUsage

EXIT_FOUND = 1
MAX_SHOWN = 200
"""Maximum findings printed; a trail that is broken throughout has one for each line."""


def add_to(commands: Any) -> None:
    """Declare the commands. Those with `offline` need only files, and no configuration if DIR is given."""
    audit = commands.add_parser("audit", help="verify and read the audit trail").add_subparsers(
        dest="act", required=True
    )
    check = audit.add_parser("verify", help="find every edited, removed, inserted, reordered or cut record")
    _add_directory(check)
    check.add_argument(
        "--public-key", type=InputFile, action="append", default=[], metavar="FILE", help="the audit key, PEM or DER"
    )
    check.add_argument(
        "--anchor",
        type=InputFile,
        action="append",
        default=[],
        metavar="FILE",
        help="checkpoints that were kept elsewhere; `-` reads standard input",
    )
    add_json(check)
    check.add_argument("--archived", action="store_true", help="the oldest files have been moved away")
    check.set_defaults(offline=run_verify)
    _add_show(audit)
    points = audit.add_parser("checkpoints", help="print all checkpoints, for an anchor outside this host")
    _add_directory(points)
    points.set_defaults(offline=run_checkpoints)
    published: argparse.ArgumentParser = audit.add_parser(
        "published", help="print the last checkpoint of each chain of all nodes, from the database"
    )
    published.set_defaults(run=run_published, needs_pin=False)
    key: argparse.ArgumentParser = audit.add_parser(
        "public-key", help="print the audit key's public half, from the token"
    )
    key.set_defaults(run=run_public_key)


def _add_show(audit: Any) -> None:
    show = audit.add_parser("show", help="print records")
    _add_directory(show)
    show.add_argument("--key", metavar="ID", help="key id, key ARN, or alias as the request named it")
    show.add_argument("--principal", metavar="NAME", help="ARN, user name, or access key id")
    show.add_argument("--operation", metavar="NAME", help="such as Decrypt")
    show.add_argument("--error", metavar="NAME", help="such as AccessDeniedException; `any` for every refusal")
    show.add_argument("--since", metavar="TIME", help="2026-11-22, 2026-11-22T06:30:00Z, or an age: 90m, 36h, 7d")
    show.add_argument("--until", metavar="TIME")
    show.add_argument("--format", choices=("json", "columns"), default="json", help="default: one JSON object a line")
    show.set_defaults(offline=run_show)


def _add_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directories", nargs="*", type=Path, metavar="DIR", help="trails of several nodes; default: the configuration's"
    )


@contextmanager
def _readable(directories: Sequence[Path]) -> Iterator[None]:
    """Raise `NotFound` for a trail that cannot be read."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise NotFound(f"{exc.filename or directories[0]} cannot be read: {exc.strerror}") from exc


def run_verify(options: argparse.Namespace) -> int:
    """`kmsd audit verify`: return 0 if the trail is intact, 1 if something was found. Raises `CommandError`."""
    keys = [_public_key(file) for file in options.public_key]
    started = time.monotonic()
    try:
        with _readable(options.directories):
            files = [path for one in options.directories for found in files_of(one).values() for _, path in found]
            total = sum(path.stat().st_size for path in files)
            with shown("verifying", total, "B") as advance:
                reports = verify_nodes(
                    options.directories, keys, options.anchor, archived=options.archived, advance=advance
                )
    except BadKey as exc:
        raise InputRefused(f"the trail pins a key that is none: {exc}") from exc
    for directory, report in zip(options.directories, reports, strict=True):
        if options.json:
            print(msgspec.json.encode({"directory": str(directory), **_as_fields(report)}).decode())
            continue
        if len(reports) > 1:
            print(f"{directory}:")
        _print(report, time.monotonic() - started)
    return EXIT_FOUND if any(report.findings for report in reports) else 0


def _as_fields(report: VerificationReport) -> dict[str, Any]:
    keys = [fingerprint(key) for key in report.public_keys]
    chains = [
        {
            "writer": one.writer,
            "files": one.files,
            "lines": one.lines,
            "covered": one.covered,
            "covered_at": one.covered_at,
        }
        for one in report.chains
    ]
    return {"findings": report.findings, "notes": report.notes, "keys": keys, "pinned": report.pinned, "chains": chains}


def _public_key(file: InputFile) -> bytes:
    """Return the key in a file. Raises `NotFound`, `InputRefused`."""
    try:
        return public_key_of(file.read_bytes())
    except BadKey as exc:
        raise InputRefused(f"{file}: {exc}") from exc


def _print(report: VerificationReport, seconds: float) -> None:
    for finding in report.findings[:MAX_SHOWN]:
        print(f"FAIL {finding}")
    if len(report.findings) > MAX_SHOWN:
        print(f"FAIL and {len(report.findings) - MAX_SHOWN} more")
    for note in report.notes:
        print(f"note {note}")
    for key in report.public_keys:
        source = "pinned by the trail itself: compare it with `kmsd audit public-key`" if report.pinned else "given"
        print(f"key  {fingerprint(key)} ({source})")
    for chain in report.chains:
        signed = f"signed up to record {chain.covered}, at {chain.covered_at}" if chain.covered else "not signed"
        print(f"     {chain.writer}: {chain.lines} lines in {chain.files} files, up to {chain.head.sequence}; {signed}")
    verdict = f"FAIL {len(report.findings)} findings" if report.findings else "ok  "
    print(f"{verdict} {report.lines} lines of {len(report.chains)} writers in {seconds:.2f} s")


def run_show(options: argparse.Namespace) -> int:
    """`kmsd audit show`."""
    try:
        wanted = filter_of(options, datetime.now(UTC))
    except BadFilter as exc:
        raise WrongUsage(str(exc)) from exc
    try:
        with _readable(options.directories):
            found = records.records(options.directories, containing=wanted.containing, from_day=wanted.from_day)
            for record in found:
                if wanted.fits(record):
                    print(row(record) if options.format == "columns" else msgspec.json.encode(record).decode())
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Prevent another write when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_checkpoints(options: argparse.Namespace) -> int:
    """`kmsd audit checkpoints`: print the input of `verify --anchor`."""
    with _readable(options.directories):
        for directory in options.directories:
            for line in records.checkpoints(directory):
                print(line.decode())
    return 0


async def run_published(config: Config, _: argparse.Namespace) -> int:
    """`kmsd audit published`: print what the nodes have published, as input of `verify --anchor`."""
    require_several_hosts(config)
    async with reading(config) as reader:
        for row in await reader.checkpoints():
            print(line_of(row).decode())
    return 0


async def run_public_key(config: Config, _: argparse.Namespace) -> int:
    """`kmsd audit public-key`: PEM on standard output, the fingerprint on standard error."""
    async with open_components(config, "cli") as components:
        signer = await audit_signer(components.store, components.token)
    if signer is None:
        raise ConfigError("there is no audit key: run `kmsd init`")
    print(pem_of(signer.public_key), end="")
    print(f"{fingerprint(signer.public_key)} in the token of serial {signer.token_serial}", file=sys.stderr)
    return 0
