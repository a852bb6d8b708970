"""Verify a trail from its files and the public key alone: no token, no PIN, no database.

Detects edited, removed, inserted and reordered lines, lines that the audit key did not sign, and missing or swapped
files. Detects a tail cut off before any checkpoint that is still known from the trail itself, from the copies beside it
or from an anchor kept elsewhere. docs/audit.md lists what it cannot detect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kmsd.adapters.audit_trail import checkpoint_evidence
from kmsd.adapters.audit_trail.chain_verifier import UNSIGNED, ChainVerifier, opening
from kmsd.adapters.audit_trail.checkpoint_evidence import CheckpointEvidence, Readable, Signatures
from kmsd.adapters.audit_trail.format import COPIES, FileName, Malformed, files_of, pinned_key
from kmsd.adapters.audit_trail.verification_report import TrailFinding, VerificationReport


def verify(
    directory: Path, public_keys: Sequence[bytes] = (), anchors: Sequence[Readable] = (), *, archived: bool = False
) -> VerificationReport:
    """Verify every chain in `directory`, as `verify_nodes` does for several."""
    return verify_nodes([directory], public_keys, anchors, archived=archived)[0]


def verify_nodes(
    directories: Sequence[Path],
    public_keys: Sequence[bytes] = (),
    anchors: Sequence[Readable] = (),
    *,
    archived: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> list[VerificationReport]:
    """Verify every chain in each directory: the trails of several nodes, or one. Return a report for each.

    Checkpoints that nodes recorded of one another are evidence. Without `public_keys`, trust the key that the oldest
    file of a directory pins. With `archived`, the oldest files may have been moved away. Raises OSError if the files
    cannot be read, `BadKey` if the pinned key is not a P-256 public key. `advance` is called with bytes that are done.
    """
    trails = [_Trail(directory, archived=archived) for directory in directories]
    for trail in trails:
        trail.report.public_keys = tuple(public_keys)
    # Read copies and anchors before the trail: a line is in the trail before its checkpoint is anywhere.
    for trail in trails:
        trail.outside += _copies(trail.directory, trail.report)
    found = [*_anchored(anchors, trails[0].report), *(claim for trail in trails for claim in trail.of_others())]
    _assign(found, trails)
    for trail in trails:
        trail.verify(advance)
    return [trail.report for trail in trails]


def nodes_of(directory: Path) -> set[str]:
    """Return the ids of the nodes that the files of a trail name; empty for the trail of a host that is none.

    There is more than one if a host was removed and joined again. Raises OSError.
    """
    opened = (_opening(path) for found in files_of(directory).values() for _, path in found)
    return {str(members["nodeId"]) for members in opened if members is not None and "nodeId" in members}


class _Trail:
    """The trail in one directory, and what is known of it from elsewhere."""

    def __init__(self, directory: Path, *, archived: bool) -> None:
        self.directory, self._archived = directory, archived
        self._files = files_of(directory)
        self.report = VerificationReport()
        self.outside: list[CheckpointEvidence] = []
        """Checkpoints from elsewhere."""
        self.nodes = nodes_of(directory)

    def of_others(self) -> Iterator[CheckpointEvidence]:
        """Yield the checkpoints of other nodes that this trail records."""
        for found in self._files.values():
            for _, path in found:
                yield from checkpoint_evidence.of_other_nodes(path)

    def verify(self, advance: Callable[[int], object]) -> None:
        """Verify every chain, and what is known of chains that are not here."""
        report, files = self.report, files_of(self.directory)
        if not report.public_keys:
            report.public_keys, report.pinned = _pinned_keys(files), True
        signatures = Signatures(report.public_keys)
        for writer, found in files.items():
            walk = ChainVerifier(writer, found, signatures, report, archived=self._archived, advance=advance)
            report.chains.append(walk.run([claim for claim in self.outside if claim.checkpoint.writer == writer]))
        for claim in self.outside:
            if claim.checkpoint.writer in files:
                continue
            if not signatures.holds(claim.checkpoint):
                # A finding even with `archived`: an edited writer name must not pass for an archived writer.
                report.findings.append(TrailFinding(claim.place, claim.line, 0, UNSIGNED))
            elif not self._archived:
                text = f"a checkpoint names the writer {claim.checkpoint.writer}, but all its files are missing"
                report.findings.append(TrailFinding(claim.place, claim.line, 0, text))
        if not files:
            report.findings.append(TrailFinding(str(self.directory), 0, 0, "there is no trail here"))


def _assign(found: Sequence[CheckpointEvidence], trails: Sequence[_Trail]) -> None:
    """Give each checkpoint to the trail of its node. One that names no node is of the only trail."""
    first, elsewhere = trails[0], set[str]()
    seen: dict[str, Path] = {}
    for trail in trails:
        for node in trail.nodes:
            if node in seen:
                text = f"{seen[node]} is a trail of the same node, {node}: one is a copy of the other"
                trail.report.findings.append(TrailFinding(str(trail.directory), 0, 0, text))
            seen[node] = trail.directory
    for claim in found:
        node = claim.checkpoint.node
        of_node = [trail for trail in trails if node in trail.nodes]
        if not node and len(trails) == 1:
            first.outside.append(claim)
        elif not node:
            text = "this checkpoint names no node: verify the trail that it belongs to by itself"
            first.report.findings.append(TrailFinding(claim.place, claim.line, 0, text))
        elif of_node:
            of_node[0].outside.append(claim)
        else:
            elsewhere.add(node)
    for node in sorted(elsewhere):
        first.report.notes.append(f"there are checkpoints of the node {node}, whose trail was not given")


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
        members = _opening(path)
        try:
            key = None if members is None else pinned_key(members)
        except Malformed as exc:
            raise checkpoint_evidence.BadKey(f"{path.name} pins something that is no public key") from exc
        if key is not None:
            return (checkpoint_evidence.public_key_of(key),)
    return ()


def _opening(path: Path) -> dict[str, Any] | None:
    """Return the members of a file's first line; None if it is not a valid `open` line. Raises OSError."""
    with path.open("rb") as file:
        return opening(file.readline(65536).rstrip(b"\n"))
