"""Checkpoints as evidence: the place of each, and the verification of its signature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.adapters.audit_trail.format import Checkpoint, Malformed, checkpoint_of, control_members, split

_MARK = b' {"kmsd":"checkpoint"'
_ANCHOR = b' {"kmsd":"anchor"'


class BadKey(ValueError):
    """Not the public key of a P-256 pair."""


class CheckpointEvidence(msgspec.Struct, frozen=True):
    """A checkpoint, and the place where it was found."""

    checkpoint: Checkpoint
    place: str
    line: int = 0
    at_sequence: int = 0
    """Number of its own line, if it was found in the trail."""


def public_key_of(data: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a P-256 key in PEM or DER. Raises `BadKey`."""
    try:
        pem = b"-----BEGIN" in data
        key = serialization.load_pem_public_key(data) if pem else serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadKey("this is no public key") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise BadKey("an audit key is a P-256 key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem_of(public_key: bytes) -> str:
    """Convert a DER SubjectPublicKeyInfo to PEM."""
    key = serialization.load_der_public_key(public_key)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


class Signatures:
    """Verifier of checkpoints under the trusted keys. Results are cached."""

    def __init__(self, public_keys: Iterable[bytes]) -> None:
        self._keys = [serialization.load_der_public_key(key) for key in public_keys]
        self._known: dict[Checkpoint, bool] = {}

    def holds(self, checkpoint: Checkpoint) -> bool:
        """True if one of the keys signed it."""
        known = self._known.get(checkpoint)
        if known is None:
            known = self._known[checkpoint] = self._verify(checkpoint)
        return known

    def _verify(self, checkpoint: Checkpoint) -> bool:
        try:
            signature = checkpoint.signature_bytes()
        except Malformed:
            return False
        for key in self._keys:
            if not isinstance(key, ec.EllipticCurvePublicKey):
                continue
            try:
                key.verify(signature, checkpoint.signed, ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            return True
        return False


def in_trail(path: Path) -> Iterator[CheckpointEvidence]:
    """Yield the checkpoints in a file of a trail. Skips damaged lines: `ChainVerifier` reports them. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            claim = _claim_in(line[:-1], path.name) if _MARK in line and line.endswith(b"\n") else None
            if claim is not None:
                yield claim


def of_other_nodes(path: Path) -> Iterator[CheckpointEvidence]:
    """Yield the checkpoints of other nodes that a file of a trail records. Skips damaged lines. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            if _ANCHOR not in line or not line.endswith(b"\n"):
                continue
            try:
                head, record = split(line[:-1])
                members = msgspec.convert((control_members(record) or {}).get("checkpoint"), dict[str, object])
                checkpoint = checkpoint_of(members)
            except (Malformed, msgspec.ValidationError):
                continue
            yield CheckpointEvidence(checkpoint, f"{path} (record {head.sequence})")


def _is_torn(line: bytes) -> bool:
    """True for the beginning of a checkpoint; False for a complete one whose last byte was changed."""
    _, _, behind = line.rstrip(b"\n").partition(b'"signature":"')
    return line.startswith(_MARK[1:]) and b"}" not in line and not behind.partition(b'"')[2]


def _claim_in(line: bytes, place: str) -> CheckpointEvidence | None:
    try:
        head, record = split(line)
        members = control_members(record)
        return None if members is None else CheckpointEvidence(checkpoint_of(members), place, at_sequence=head.sequence)
    except Malformed:
        return None


class Readable(Protocol):
    """A file with a name and a content."""

    @property
    def name(self) -> str:
        """Name in messages to the operator."""
        ...

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Open the file for reading. Raises OSError."""
        ...


def in_anchor(path: Readable) -> Iterator[CheckpointEvidence]:
    """Yield the checkpoints of an anchor. Skips other text, so the journal's output can be used. Raises OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                members = msgspec.json.decode(line[line.find(b"{") :], type=dict[str, object])
                yield CheckpointEvidence(checkpoint_of(members), path.name, number)
            except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, Malformed):
                continue


def in_copies(path: Path) -> Iterator[CheckpointEvidence | tuple[int, str]]:
    """Yield the checkpoints of the copies beside a trail, or (line number, problem). Raises OSError.

    Skips the beginning of a checkpoint: copies are not synced, so a crash may leave it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or _is_torn(line):
                continue
            try:
                checkpoint = checkpoint_of(msgspec.json.decode(line, type=dict[str, object]))
            except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, Malformed):
                yield number, "this line is no checkpoint"
                continue
            exact = checkpoint.line() + b"\n" == line
            yield CheckpointEvidence(checkpoint, path.name, number) if exact else (number, "this checkpoint was edited")
