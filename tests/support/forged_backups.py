"""Backups as somebody changes them who has neither PIN nor token: taken apart, changed, signed by another key."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import struct
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.backup.archive import Writer

_BOOLEAN, _NUMBER, _MECHANISMS = 1, 2, 5
"""How SoftHSM2 2.6 names the kinds of values in the file of an object."""
CKA_CLASS, CKA_PRIVATE, CKA_VALUE, CKA_ID = 0, 2, 0x11, 0x102
SECRET, PRIVATE, PUBLIC = 4, 3, 2
Key = ec.EllipticCurvePrivateKey


@dataclass
class Object:
    """The file of an object: attributes in order."""

    head: bytes
    attributes: list[tuple[int, int, bytes]]

    @classmethod
    def parse(cls, data: bytes) -> Object:
        """Read a file."""
        at, found = 8, []
        while at < len(data):
            attribute, kind = struct.unpack_from(">QQ", data, at)
            at += 16
            length = {_BOOLEAN: 1, _NUMBER: 8}.get(kind)
            if length is None:
                (length,) = struct.unpack_from(">Q", data, at)
                length *= 8 if kind == _MECHANISMS else 1
                at += 8
            found.append((attribute, kind, data[at : at + length]))
            at += length
        return cls(data[:8], found)

    def dump(self) -> bytes:
        """Write it."""
        out = [self.head]
        for attribute, kind, value in self.attributes:
            out.append(struct.pack(">QQ", attribute, kind))
            if kind not in (_BOOLEAN, _NUMBER):
                out.append(struct.pack(">Q", len(value) // (8 if kind == _MECHANISMS else 1)))
            out.append(value)
        return b"".join(out)

    def get(self, wanted: int) -> bytes:
        """The value of an attribute as it lies there: encrypted, if it is of a private object."""
        return next((value for attribute, _, value in self.attributes if attribute == wanted), b"")

    def put(self, wanted: int, value: bytes) -> None:
        """Replace one."""
        self.attributes = [(one, kind, value if one == wanted else old) for one, kind, old in self.attributes]


@dataclass
class Forgery:
    """The parts of a backup, to be changed."""

    parts: dict[str, bytes]

    @classmethod
    def of(cls, backup: Path) -> Forgery:
        """Take it apart."""
        with tarfile.open(backup) as archive:
            names = [member.name for member in archive.getmembers()]
            return cls({name: (archive.extractfile(name) or io.BytesIO()).read() for name in names})

    @property
    def manifest(self) -> dict[str, object]:
        """As the real one has it."""
        found: dict[str, object] = json.loads(self.parts["manifest.json"])
        return found

    @property
    def audit_key(self) -> bytes:
        """The real one, DER."""
        return base64.b64decode(str(self.manifest["auditKey"]))

    def objects(self, kind: int) -> dict[str, Object]:
        """The token's objects of a class, by the name of the part."""
        found = {
            name: Object.parse(data)
            for name, data in self.parts.items()
            if name.startswith("token/") and name.endswith(".object") and not name.endswith("/token.object")
        }
        return {name: one for name, one in found.items() if one.get(CKA_CLASS)[-1:] == bytes([kind])}

    def change_database(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """With ordinary SQL."""
        with NamedTemporaryFile() as file:
            file.write(self.parts["database.sqlite"])
            file.flush()
            with closing(sqlite3.connect(file.name)) as database:
                change(database)
                database.commit()
            self.parts["database.sqlite"] = Path(file.name).read_bytes()

    def show_key(self, key: Key) -> None:
        """Put the public half in place of the audit key's in the token, where it lies in the clear."""
        for name in self.objects(PUBLIC):
            self.parts[name] = self.parts[name].replace(self.audit_key[-65:], public(key)[-65:])

    def pin_key(self, key: Key) -> None:
        """Put the public half into the first lines of the trail."""
        old, new = base64.b64encode(self.audit_key), base64.b64encode(public(key))
        for name in self.parts:
            if name.startswith("audit/"):
                self.parts[name] = self.parts[name].replace(old, new)

    def write(self, path: Path, spki: bytes, sign: Callable[[bytes], bytes], **members: object) -> Path:
        """Put it together again, signed under the key `spki`; `members` go into the manifest."""
        with path.open("wb") as file:
            writer = Writer(file)
            for name, data in self.parts.items():
                if not name.startswith("manifest."):
                    writer.add(name, io.BytesIO(data), len(data))
            vouched = [{"name": part.name, "size": part.size, "sha256": part.sha256} for part in writer.parts]
            key_text = base64.b64encode(spki).decode()
            text = json.dumps({**self.manifest, "auditKey": key_text, "parts": vouched, **members}).encode()
            signature = sign(b"kmsd backup manifest 1\n" + text)
            for name, data in (("manifest.json", text), ("manifest.sig", base64.b64encode(signature) + b"\n")):
                writer.add(name, io.BytesIO(data), len(data))
            writer.finish()
        return path


def public(key: Key) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing(key: Key) -> Callable[[bytes], bytes]:
    """Sign as the token does."""
    return lambda text: key.sign(text, ec.ECDSA(hashes.SHA256()))
