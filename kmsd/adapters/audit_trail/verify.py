"""Verify a trail from its files and the public key alone: no token, no PIN, no database.

Detects edited, removed, inserted and reordered lines, lines that the audit key did not sign, and missing or swapped
files. Detects a tail cut off before any checkpoint that is still known from the trail itself, from the copies beside it
or from an anchor kept elsewhere. docs/audit.md lists what it cannot detect.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kmsd.adapters.audit_trail import checkpoint_evidence
from kmsd.adapters.audit_trail.chain_verifier import UNSIGNED, ChainVerifier, opening
from kmsd.adapters.audit_trail.checkpoint_evidence import CheckpointEvidence, Readable, Signatures
from kmsd.adapters.audit_trail.format import COPIES, FileName, Malformed, files_of, pinned_key
from kmsd.adapters.audit_trail.verification_report import TrailFinding, VerificationReport


def verify(
    directory: Path, public_keys: Sequence[bytes] = (), anchors: Sequence[Readable] = (), *, archived: bool = False
) -> VerificationReport:
    """Verify every chain in `directory`.

    Without `public_keys`, trust the key that the oldest file pins. With `archived`, the oldest files may have been
    moved away. Raises OSError if the files cannot be read, `BadKey` if the pinned key is not a P-256 public key.
    """
    report = VerificationReport(public_keys=tuple(public_keys))
    # Read copies and anchors before the trail: a line is in the trail before its checkpoint is anywhere.
    outside = [*_copies(directory, report), *_anchored(anchors, report)]
    files = files_of(directory)
    if not public_keys:
        report.public_keys, report.pinned = _pinned_keys(files), True
    signatures = Signatures(report.public_keys)
    for writer, found in files.items():
        walk = ChainVerifier(writer, found, signatures, report, archived=archived)
        report.chains.append(walk.run([claim for claim in outside if claim.checkpoint.writer == writer]))
    for claim in outside:
        if claim.checkpoint.writer in files:
            continue
        if not signatures.holds(claim.checkpoint):
            # A finding even with `archived`: an edited writer name must not pass for an archived writer.
            report.findings.append(TrailFinding(claim.place, claim.line, 0, UNSIGNED))
        elif not archived:
            text = f"a checkpoint names the writer {claim.checkpoint.writer}, but all its files are missing"
            report.findings.append(TrailFinding(claim.place, claim.line, 0, text))
    if not files:
        report.findings.append(TrailFinding(str(directory), 0, 0, "there is no trail here"))
    return report


def _copies(directory: Path, report: VerificationReport) -> list[CheckpointEvidence]:
    path = directory / COPIES
    if not path.exists():
        report.notes.append(f"{COPIES} is not there: a tail that was cut off shows only against an anchor")
        return []
    found = []
    for item in checkpoint_evidence.in_copies(path):
        if isinstance(item, CheckpointEvidence):
            found.append(item)
        else:
            report.findings.append(TrailFinding(path.name, item[0], 0, item[1]))
    return found


def _anchored(anchors: Sequence[Readable], report: VerificationReport) -> list[CheckpointEvidence]:
    found: list[CheckpointEvidence] = []
    for path in anchors:
        held = list(checkpoint_evidence.in_anchor(path))
        if not held:
            report.findings.append(TrailFinding(str(path), 0, 0, "this anchor holds no checkpoint"))
        found += held
    return found


def _pinned_keys(files: dict[str, list[tuple[FileName, Path]]]) -> tuple[bytes, ...]:
    """Return the key pinned by the oldest file that pins one."""
    oldest = sorted((name.day, name.number, name.writer, path) for found in files.values() for name, path in found)
    for _, _, _, path in oldest:
        with path.open("rb") as file:
            members = opening(file.readline(65536).rstrip(b"\n"))
        try:
            key = None if members is None else pinned_key(members)
        except Malformed as exc:
            raise checkpoint_evidence.BadKey(f"{path.name} pins something that is no public key") from exc
        if key is not None:
            return (checkpoint_evidence.public_key_of(key),)
    return ()
