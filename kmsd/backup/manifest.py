"""What a backup says of itself: what it was made of, the hash of each part, and the audit key's signature over that.

The signature is made in the token. `kmsd restore` has the token sign again, and takes a backup only if both signatures
hold under one key: not one with an administrator of somebody's own in the database, nor with one revocation less.
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
"""The last two parts, in this order: what was cut off has neither."""
DATABASE = "database.sqlite"
_SCRYPT_N = 2**15


class TokenNote(msgspec.Struct, frozen=True):
    """Which token held the keys."""

    label: str
    serial: str
    manufacturer: str
    model: str


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """`manifest.json`. Append only; what a reader does not know it passes over."""

    format: int
    backup_id: str
    snapshot_at: str
    """When the copy of the database was begun: everything that was acknowledged before is in it. RFC 3339, UTC."""
    ended_at: str
    """When the last part was copied."""
    release: str
    host: str
    account: str
    region: str
    token: TokenNote
    audit_key: bytes
    """DER SubjectPublicKeyInfo of the key that signed this."""
    parts: tuple[Part, ...]
    token_proof: str | None = None
    """`proof_by_pin`, where the token's own files are in it; None also in backups of releases before there was one."""

    @property
    def has_token(self) -> bool:
        """Whether the token's own files are in it."""
        return any(part.name.startswith("token/") for part in self.parts)


def signed_digest(manifest: bytes) -> bytes:
    """What the audit key signs: no checkpoint of the trail begins like this."""
    return sha256(b"kmsd backup manifest 1\n" + manifest).digest()


def signature_text(signature: bytes) -> bytes:
    """`manifest.sig`."""
    return base64.b64encode(signature) + b"\n"


def proof_by_pin(pin: bytes, manifest: Manifest) -> str:
    """A code over all parts that only who knows the token's PIN can make; in hexadecimal.

    SoftHSM2 encrypts what is private and does not authenticate it: pieces of its files can be exchanged without the
    PIN, a private key for bytes that somebody knows among them. So where the token's files come with the backup, no
    signature by that token shows who made them (docs/decisions/0022-backup-proof.md).
    """
    salt = sha256(f"kmsd backup token proof 1\n{manifest.backup_id}\n".encode()).digest()
    key = scrypt(pin, salt=salt, n=_SCRYPT_N, r=8, p=1, maxmem=64 * 1024 * 1024, dklen=32)
    lines = [f"{manifest.backup_id} {manifest.snapshot_at} {manifest.audit_key.hex()}\n"]
    lines += [f"{part.name} {part.size} {part.sha256}\n" for part in manifest.parts]
    return hmac.new(key, "".join(lines).encode(), sha256).hexdigest()


def holds(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    """True if the signature over SHA-256 of the text was made by the private half of this key."""
    try:
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def parse(manifest: bytes, signature: bytes, found: list[Part]) -> Manifest:
    """Return the manifest if the signature and every part fit it.

    Raises `CorruptArchive`, which names the first part that does not.
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
        made = canonical_base64.decode(signature.removesuffix(b"\n"))
    except ValueError as exc:
        raise CorruptArchive(f"the part {SIGNATURE} is damaged") from exc
    if signature != signature_text(made):
        raise CorruptArchive(f"the part {SIGNATURE} is damaged")
    # `signed_digest` is what the token is handed; here the library hashes the same text by itself.
    if not holds(key, made, b"kmsd backup manifest 1\n" + manifest):
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
