"""Trails that were written by every released format go on verifying: the format is append-only."""

from __future__ import annotations

from pathlib import Path

from kmsd.adapters.audit_trail.checkpoint_evidence import public_key_of
from kmsd.adapters.audit_trail.verify import verify
from tests.support.audit_trail import own_lines, trail_records

GOLDEN = Path(__file__).parent.parent / "golden" / "audit_trail"


def test_the_first_format() -> None:
    """Two writers, a change of day, a chain that is older than its key, checkpoints and their copies."""
    report = verify(GOLDEN, [public_key_of((GOLDEN / "public-key.pem").read_bytes())], [GOLDEN / "checkpoints.jsonl"])
    assert [str(finding) for finding in report.findings] == []
    assert [(chain.writer, chain.files, chain.covered > 25) for chain in report.chains] == [
        ("cli", 3, True),
        ("worker-0", 2, True),
    ]
    assert len(trail_records(GOLDEN)) == 50
    assert {line["kmsd"] for line in own_lines(GOLDEN)} == {"open", "start", "checkpoint", "stop"}
