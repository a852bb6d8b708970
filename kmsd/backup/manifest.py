"""Manifest of a backup: its origin, the hash of each part, and the audit key's signature over both.

The token makes the signature. `kmsd restore` has the token sign again, and accepts a backup only if both signatures
verify under one key. Otherwise an attacker could add an administrator to the database, or remove a revocation.
"""

from __future__ import annotations

import base64
import hmac
from hashlib import scrypt, sha256

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.backup.archive import CorruptArchive, Part
from kmsd.domain import canonical_base64

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
"""The last two parts, in this order: a truncated backup has neither."""
DATABASE = "database.sqlite"
_SCRYPT_N = 2**15


class TokenNote(msgspec.Struct, frozen=True):
    """The token that held the keys."""

    label: str
    serial: str
    manufacturer: str
    model: str


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """`manifest.json`. Fields are only ever added; readers ignore unknown ones."""

    format: int
    backup_id: str
    snapshot_at: str
    """Start of the database copy: it holds everything acknowledged before. RFC 3339, UTC."""
    ended_at: str
    """End of the last copy."""
    release: str
    host: str
    account: str
    region: str
    token: TokenNote
    audit_key: bytes
    """DER SubjectPublicKeyInfo of the key that signed this."""
    parts: tuple[Part, ...]
    token_proof: str | None = None
    """`proof_by_pin`, if the backup holds the token's own files; None also in backups of older releases."""
    hsm: str = ""
    """Name of the HSM of the node that made it. Empty: that of the first node."""

    @property
    def has_token(self) -> bool:
        """True if the backup holds the token's own files."""
        return any(part.name.startswith("token/") for part in self.parts)


def signed_digest(manifest: bytes) -> bytes:
    """Return the digest that the audit key signs. No checkpoint of the trail has the same prefix."""
    return sha256(b"kmsd backup manifest 1\n" + manifest).digest()


def signature_text(signature: bytes) -> bytes:
    """Return the content of `manifest.sig`."""
    return base64.b64encode(signature) + b"\n"


def proof_by_pin(pin: bytes, manifest: Manifest) -> str:
    """Return a MAC over all parts, in hexadecimal, that requires the token's PIN.

    SoftHSM2 encrypts private data but does not authenticate it. Without the PIN an attacker can exchange pieces of its
    files, for example a private key for bytes that they know. If the backup holds the token's files, a signature by
    that token therefore does not prove who made them (docs/decisions/0022-backup-proof.md).
    """
    salt = sha256(f"kmsd backup token proof 1\n{manifest.backup_id}\n".encode()).digest()
    key = scrypt(pin, salt=salt, n=_SCRYPT_N, r=8, p=1, maxmem=64 * 1024 * 1024, dklen=32)
    lines = [f"{manifest.backup_id} {manifest.snapshot_at} {manifest.audit_key.hex()}\n"]
    lines += [f"{part.name} {part.size} {part.sha256}\n" for part in manifest.parts]
    return hmac.new(key, "".join(lines).encode(), sha256).hexdigest()


def holds(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    """True if the private half of this key made the signature over SHA-256 of the text."""
    try:
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def parse(manifest: bytes, signature: bytes, found: list[Part]) -> Manifest:
    """Return the manifest if it matches the signature and every part.

    Raises `CorruptArchive`, which names the first part that does not match.
    """
    try:
        known = msgspec.json.decode(manifest, type=Manifest)
        key = serialization.load_der_public_key(known.audit_key)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as exc:
        raise CorruptArchive(f"the part {MANIFEST} is damaged") from exc
    if known.format != FORMAT:
        raise CorruptArchive(f"this backup has format {known.format}, and this release reads {FORMAT}")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CorruptArchive(f"the part {MANIFEST} names no audit key")
    try:
        decoded = canonical_base64.decode(signature.removesuffix(b"\n"))
    except ValueError as exc:
        raise CorruptArchive(f"the part {SIGNATURE} is damaged") from exc
    if signature != signature_text(decoded):
        raise CorruptArchive(f"the part {SIGNATURE} is damaged")
    # The token signs `signed_digest`; here the library hashes the same text itself.
    if not holds(key, decoded, b"kmsd backup manifest 1\n" + manifest):
        raise CorruptArchive(
            f"the part {MANIFEST} or the part {SIGNATURE} is damaged: this is not what the audit key signed"
        )
    _compare(known.parts, found)
    return known


def _compare(vouched: tuple[Part, ...], found: list[Part]) -> None:
    there = {part.name: part for part in found}
    if len(there) != len(found):
        raise CorruptArchive("two parts have one name")
    for part in vouched:
        if part.name not in there:
            raise CorruptArchive(f"the part {part.name} is missing")
        if there.pop(part.name) != part:
            raise CorruptArchive(f"the part {part.name} is damaged: it has another hash than the manifest says")
    if set(there) != {MANIFEST, SIGNATURE}:
        strange = sorted(set(there) - {MANIFEST, SIGNATURE})
        raise CorruptArchive(f"the part {strange[0]} is not named in the manifest")
