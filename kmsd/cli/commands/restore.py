"""`kmsd restore`: put a backup back while the daemon is stopped, and report what is missing, revived and lost."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hmac import compare_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kmsd.adapters.audit_trail.checkpoint_evidence import BadKey, public_key_of
from kmsd.adapters.audit_trail.checkpointer import Signer
from kmsd.adapters.audit_trail.follower import complete
from kmsd.adapters.audit_trail.format import files_of, fingerprint
from kmsd.adapters.audit_trail.verify import nodes_of
from kmsd.adapters.sqlite import snapshot
from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.app import (
    SystemClock,
    audit_signer,
    open_token,
    open_trail,
    read_pin,
    set_module_environment,
    token_settings,
)
from kmsd.backup import further_tokens, install, softhsm, softhsm_trial, token_match
from kmsd.backup import trail_comparison as trails
from kmsd.backup.archive import CorruptArchive
from kmsd.backup.extract import unpack
from kmsd.backup.further_tokens import FurtherTokens
from kmsd.backup.manifest import DATABASE, Manifest, proof_by_pin
from kmsd.backup.token_match import TokenComparison, TokenMismatch
from kmsd.backup.trail_comparison import Relation
from kmsd.cli.commands.operator_audit import recorded_act
from kmsd.cli.commands.restore_findings import Findings, Refused, recorded, report, require_accepted
from kmsd.cli.named_files import InputFile
from kmsd.cli.progress import shown
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.database import database_of
from kmsd.exit_codes import EXIT_EXISTS
from kmsd.ports import Token

UNPROVED = (
    "nothing proves that the token in this backup is yours: an earlier release made it, or it was changed.\n"
    "Name the audit key that you kept elsewhere with --audit-key, or accept it with --accept-unproved"
)


class Occupied(Refused):
    """Nothing was changed: the place to restore to is occupied."""

    status = EXIT_EXISTS


class Checked(Exception):
    """Ends a check: everything that can be found without a change has been reported."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser("restore", help="put a backup back; the daemon is stopped")
    command.add_argument("backup", type=InputFile, metavar="FILE", help="`-` reads standard input")
    command.add_argument("--check", action="store_true", help="verify it, compare it with the token; change nothing")
    command.add_argument("--replace", action="store_true", help="move what is in the data directory aside")
    command.add_argument("--with-token", action="store_true", help="put SoftHSM2's files back, too")
    command.add_argument(
        "--audit-key",
        type=InputFile,
        metavar="FILE",
        help="the key that must have signed it, kept elsewhere (PEM, DER)",
    )
    command.add_argument(
        "--trail",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a copy of another node's audit trail, to find what was taken away there",
    )
    command.add_argument("--accept-missing", action="store_true", help="although the token lacks key material")
    command.add_argument("--accept-revived", action="store_true", help="although it gives back what was taken away")
    command.add_argument("--accept-unproved", action="store_true", help="although nothing proves whose token is in it")
    command.add_argument("--accept-rollback", action="store_true", help="although no record says what was done since")
    command.set_defaults(run=run)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Restore, and print the findings. Raises `Refused` if nothing was restored, `ConfigError`, OSError."""
    set_module_environment(config)
    try:
        with _alone(config, options) as stage:
            with shown("unpacking", options.backup.size, "B") as advance:
                manifest = unpack(options.backup, stage, advance)
            print(f"ok   {options.backup}: {len(manifest.parts)} parts of {manifest.snapshot_at}, whole and signed")
            _require_key(options, manifest, stage)
            await _require_room(config, options)
            await _restore(config, options, manifest, stage)
    except Checked:
        print("ok   nothing was changed: this was a check")
    except Refused as exc:
        raise type(exc)(f"refused: {exc}") from exc
    except (CorruptArchive, TokenMismatch) as exc:
        raise Refused(f"refused: {exc}") from exc
    return 0


@contextmanager
def _alone(config: Config, options: argparse.Namespace) -> Iterator[Path]:
    """Yield a folder to unpack into. Except for a check, no daemon may run. Raises `ConfigError`."""
    if options.check:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="checking-", dir=config.data_dir) as folder:
            yield Path(folder)
    else:
        with install.daemon_stopped(config), _stage(config) as stage:
            yield stage


def _require_key(options: argparse.Namespace, manifest: Manifest, stage: Path) -> None:
    """Compare the key that signed the backup with the other evidence of the audit key. Raises `Refused`, OSError."""
    signed_by = fingerprint(manifest.audit_key)
    if options.audit_key is not None:
        try:
            audit_key = public_key_of(options.audit_key.read_bytes())
        except BadKey as exc:
            raise Refused(f"{options.audit_key}: {exc}") from exc
        if audit_key != manifest.audit_key:
            raise Refused(f"this backup was signed by {signed_by}, and {options.audit_key} is {fingerprint(audit_key)}")
    pinned = trails.pinned_key(stage / "audit")
    if pinned != manifest.audit_key:
        named = "no key" if pinned is None else fingerprint(pinned)
        raise Refused(f"this backup was signed by {signed_by}, and the trail in it pins {named}")


def _require_proof(config: Config, options: argparse.Namespace, manifest: Manifest) -> None:
    """Require proof that the token's files are the operator's: a key that they kept, or the PIN. Raises `Refused`."""
    if options.audit_key is not None:
        return
    if manifest.token_proof is not None:
        expected = proof_by_pin(read_pin(config.token.pin_file), manifest)
        if not compare_digest(expected.encode(), manifest.token_proof.encode()):
            raise Refused(
                f"the token in this backup was not put there by anybody who knew the PIN in {config.token.pin_file}: "
                "the backup was forged, or is of a token with another PIN"
            )
    elif options.check:
        print(f"note {UNPROVED}")
    elif not options.accept_unproved:
        raise Refused(UNPROVED)


async def _require_room(config: Config, options: argparse.Namespace) -> None:
    if config.store.url and not options.check and await database_of(config).exists():
        raise Occupied(f"{database_of(config)} has tables of kmsd: make an empty database, and name it in store.url")
    if not (options.replace or options.check) and install.holds_something(config):
        raise Occupied(f"{config.data_dir} holds a database or log events: --replace moves them aside")


@contextmanager
def _stage(config: Config) -> Iterator[Path]:
    """Create an empty folder in the data directory, after removing that of an interrupted restore."""
    stage = config.data_dir / install.STAGE
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o700)
    try:
        yield stage
    finally:
        shutil.rmtree(stage)


def _token_root(config: Config, manifest: Manifest) -> Path:
    """Return the destination of SoftHSM2's files. Raises `Refused`."""
    root = softhsm.token_root(config.token)
    if root is None:
        raise Refused("[token] names no SoftHSM2 with a folder to put the token's files into")
    if not manifest.has_token:
        raise Refused("this backup holds no token")
    return root


@contextmanager
def _token_files(root: Path, stage: Path) -> Iterator[None]:
    """Put SoftHSM2's files in place; remove them again if the block fails. Raises OSError."""
    folder = install.place_token(stage, root)
    try:
        yield
    except BaseException:
        # Once the database has left the stage it is in place, and needs its token.
        if (stage / DATABASE).exists():
            shutil.rmtree(folder)
        raise


async def _restore(config: Config, options: argparse.Namespace, manifest: Manifest, stage: Path) -> None:
    """Compare, check, and put in place. Raises `Refused`, `Checked`, `TokenMismatch`, OSError."""
    database = stage / DATABASE
    intents = len(snapshot.prepare(database))
    if manifest.hsm:
        snapshot.make_first_hsm(database, manifest.hsm)
    further = await further_tokens.compare(config, database)
    if not options.with_token:
        async with open_token(token_settings(config, None)) as token:
            main = await token_match.compare(database, token, manifest)
            findings = await _checked(config, options, stage, manifest, (main, further), intents=intents)
            await _put_in_place(config, options, stage, findings, token)
        return
    root = _token_root(config, manifest)
    _require_proof(config, options, manifest)
    main = await softhsm_trial.compare(config, stage, manifest)
    findings = await _checked(config, options, stage, manifest, (main, further), intents=intents)
    with _token_files(root, stage):
        async with open_token(token_settings(config, None)) as token:
            # The configuration may name another token than the one tried.
            await token_match.compare(database, token, manifest)
            await _put_in_place(config, options, stage, findings, token)


async def _checked(
    config: Config,
    options: argparse.Namespace,
    stage: Path,
    manifest: Manifest,
    tokens: tuple[TokenComparison, FurtherTokens],
    *,
    intents: int,
) -> Findings:
    """Report the findings, and return them if the operator accepts them. Raises `Refused`, `Checked`, OSError."""
    if not options.check:
        # A check changes nothing. After a loss of power it may miss the newest lines; the restore then finds them.
        complete(config.audit_dir)
    found = trails.compare(stage / "audit", config.audit_dir)
    revoked = []
    async with SqliteDatabase(stage / DATABASE).open() as store:
        reader = await store.read()
        key_ids, published = await reader.key_ids(), await reader.checkpoints()
    directories = [*([config.audit_dir] if config.audit_dir.exists() else []), *options.trail]
    if found.goes_further or options.trail:
        since = datetime.fromisoformat(manifest.snapshot_at)
        revoked = trails.revocations_since(directories, since, key_ids)
    known = set[str]().union(*map(nodes_of, [stage / "audit", *directories]))
    absent = sorted({row.node_id for row in published} - known)
    main, further = tokens
    findings = Findings(manifest, (main, *further.compared), further.absent, found, tuple(revoked), tuple(absent))
    report(findings, intents)
    require_accepted(config, options, findings)
    if options.check:
        raise Checked
    return findings


async def _finish_database(stage: Path, findings: Findings, token: Token) -> Signer:
    """Mark the missing objects in the staged database. Return the signer of the trail. Raises `ConfigError`."""
    async with SqliteDatabase(stage / DATABASE).open() as store:
        signer = await audit_signer(store, token, needed=True)
        if signer is None:
            raise ConfigError("the database names no audit key")
        await token_match.mark_missing(store, findings.compared)
    return signer


async def _put_in_place(
    config: Config, options: argparse.Namespace, stage: Path, findings: Findings, token: Token
) -> None:
    """Place the trail first, so that all later steps are recorded; the database last.

    Raises OSError, `AuditUnavailable`.
    """
    clock, manifest = SystemClock(), findings.manifest
    signer = await _finish_database(stage, findings, token)
    aside: list[Path | None] = []
    if findings.trails.relation is not Relation.CONTINUES:
        aside.append(install.set_aside(install.trail_files(config.audit_dir), config.audit_dir, clock.now()))
        install.place_trail(stage / "audit", config.audit_dir)
    await _report_trails(config, signer, manifest, lost=not findings.trails.goes_further)
    parameters = {
        "backupId": manifest.backup_id,
        "snapshotAt": manifest.snapshot_at,
        "withToken": options.with_token,
        "trail": findings.trails.relation.value,
    }
    sink = await open_trail(config, "cli", signer, clock)
    try:
        async with recorded_act(config, sink, clock, "RestoreBackup", parameters) as act:
            aside.append(install.set_aside(install.occupied(config), config.data_dir, clock.now()))
            install.place_logs(stage / "logs", config)
            await install.place_database(stage, config)
            act.elements = recorded(findings)
    finally:
        await sink.close()
    for folder in filter(None, aside):
        print(f"note what was here before is in {folder}")
    print(f"ok   restored to {manifest.snapshot_at}")


async def _report_trails(config: Config, signer: Signer, manifest: Manifest, *, lost: bool) -> None:
    """Append a signed line to every chain. Raises `AuditUnavailable`.

    If `lost`, the chain no longer has its records from after the backup; checkpoints kept elsewhere may prove them.
    """
    for writer in files_of(config.audit_dir):
        sink = await open_trail(config, writer, signer, SystemClock())
        try:
            await sink.record_restore(backupId=manifest.backup_id, snapshotAt=manifest.snapshot_at, lost=lost)
        finally:
            await sink.close()
