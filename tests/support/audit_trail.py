"""The audit trail as tests read it."""

from __future__ import annotations

import json
import secrets
from functools import partial
from pathlib import Path
from typing import Any

from kmsd.adapters.audit_trail.checkpointer import Signer
from kmsd.domain.key_spec import KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import Token


def trail_lines(directory: Path) -> list[bytes]:
    """Every line of every writer, each writer's in order."""
    return [line for path in sorted(directory.glob("*.trail")) for line in path.read_bytes().splitlines()]


def trail_records(directory: Path) -> list[dict[str, Any]]:
    """The audit records of all writers, without the daemon's own lines."""
    found = [json.loads(line.split(b" ", 2)[2]) for line in trail_lines(directory)]
    return [record for record in found if "kmsd" not in record]


def own_lines(directory: Path, kind: str = "") -> list[dict[str, Any]]:
    """What the trail says about itself: lines of one kind, or of all."""
    found = [json.loads(line.split(b" ", 2)[2]) for line in trail_lines(directory)]
    return [record for record in found if "kmsd" in record and record["kmsd"].startswith(kind)]


async def make_signer(token: Token) -> Signer:
    """An audit key in the token."""
    object_id = secrets.token_bytes(16)
    public_key = await token.generate_key_pair(object_id, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
    sign = partial(token.sign, object_id, SigningAlgorithm.ECDSA_SHA_256, is_digest=True)
    return Signer(public_key, token.info.serial, sign)


def record(number: int, **members: Any) -> bytes:
    """Something like an audit record."""
    at = f"2026-11-22T06:{number // 60 % 60:02}:{number % 60:02}Z"
    return json.dumps(
        {"eventVersion": "1.11", "eventTime": at, "eventName": "Encrypt", "requestID": f"r{number}", **members}
    ).encode()
