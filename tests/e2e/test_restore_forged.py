"""A backup that somebody changed without PIN or token is refused before anything of it is put in place."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.adapters.pkcs11.key_pairs import CURVES
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.custody.provisioning import AUDIT
from kmsd.domain.key_spec import KeySpec, SigningAlgorithm
from tests.support.audit_trail import own_lines
from tests.support.daemon import Daemon, provisioned
from tests.support.forged_backups import CKA_ID, CKA_PRIVATE, CKA_VALUE, PRIVATE, SECRET, Forgery, public, signing

KEY = ec.derive_private_key(0xC0FFEE, ec.SECP256R1())
"""The forger's."""
CKA_LABEL, CKA_EC_PARAMS = 3, 0x180
ADMINISTRATOR = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


@dataclass(frozen=True)
class Lost:
    """A daemon whose host is lost: its data and its token's files are gone, and a backup is there."""

    daemon: Daemon
    backup: Path
    audit_key: Path
    """As `kmsd audit public-key` printed it."""
    audit_object: bytes

    def restore(self, backup: Path, *options: str) -> tuple[int, str]:
        """On the empty host; status, and what was said."""
        done = self.daemon.cli("restore", str(backup), "--with-token", "--accept-rollback", *options, check=False)
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    def refuses(self, backup: Path, *options: str) -> str:
        """Why; nothing has been put anywhere."""
        status, said = self.restore(backup, *options)
        assert status == 65, said
        assert self.token_files() == []
        assert {path.name for path in self.daemon.data.iterdir()} <= {"daemon.lock"}
        return said

    def token_files(self) -> list[Path]:
        """What is in SoftHSM2's folder."""
        assert self.daemon.place.objects is not None
        return list(self.daemon.place.objects.iterdir())

    def lose(self) -> None:
        """Lose the host again."""
        shutil.rmtree(self.daemon.data, ignore_errors=True)
        for path in self.token_files():
            shutil.rmtree(path)


@pytest.fixture(scope="module", name="module_lost")
def _module_lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    folder = tmp_path_factory.mktemp("lost")
    with provisioned(folder) as daemon:
        daemon.user("mallory")
        backup, audit_key = folder / "kmsd.backup", folder / "audit-key.pem"
        daemon.cli("backup", str(backup))
        audit_key.write_bytes(daemon.cli("audit", "public-key").stdout)
        yield Lost(daemon, backup, audit_key, asyncio.run(_audit_object(daemon.data / "kmsd.sqlite")))


async def _audit_object(database: Path) -> bytes:
    store = SqliteStore(database)
    try:
        return (await (await store.read()).service_keys())[AUDIT].object_id
    finally:
        await store.close()


@pytest.fixture(name="lost")
def _lost(module_lost: Lost) -> Lost:
    module_lost.lose()
    return module_lost


def usurp(database: sqlite3.Connection) -> None:
    """Make a user the administrator."""
    (account, name) = database.execute("SELECT account, name FROM user WHERE name = 'mallory'").fetchone()
    database.execute("INSERT INTO user_policy VALUES (?, ?, 'p', ?)", (account, name, ADMINISTRATOR))


def test_changed_and_signed_by_another_key(lost: Lost, tmp_path: Path) -> None:
    """The token shows the forger's public key, the database has a new administrator; then the trail follows suit."""
    forgery = Forgery.of(lost.backup)
    forgery.change_database(usurp)
    forgery.show_key(KEY)
    forged = forgery.write(tmp_path / "forged", public(KEY), signing(KEY))
    assert "the trail in it pins SHA256:" in lost.refuses(forged)
    forgery.pin_key(KEY)
    forged = forgery.write(tmp_path / "forged", public(KEY), signing(KEY))
    assert "not put there by anybody who knew the PIN" in lost.refuses(forged)
    assert "was signed by SHA256:" in lost.refuses(forged, "--audit-key", str(lost.audit_key))
    stripped = forgery.write(tmp_path / "stripped", public(KEY), signing(KEY), tokenProof=None)
    odd = forgery.write(tmp_path / "odd", public(KEY), signing(KEY), tokenProof="\u00e9")
    assert "not put there by anybody who knew the PIN" in lost.refuses(odd)
    assert "nothing proves that the token in this backup is yours" in lost.refuses(stripped)
    assert "does not sign with the private half" in lost.refuses(stripped, "--accept-unproved")
    assert "does not sign with the private half" in lost.refuses(stripped, "--check")


def in_the_clear(lost: Lost, forgery: Forgery) -> None:
    """Give the token the forger's private key, as an object that is not private and so not encrypted."""
    ((name, found),) = forgery.objects(PRIVATE).items()
    for attribute, value in {
        CKA_PRIVATE: b"\0",
        CKA_ID: lost.audit_object,
        CKA_LABEL: b"kmsd",
        CKA_EC_PARAMS: CURVES[KeySpec.ECC_NIST_P256],
        CKA_VALUE: KEY.private_numbers().private_value.to_bytes(32, "big"),
    }.items():
        found.put(attribute, value)
    forgery.parts[name] = found.dump()


def not_a_key(_: Lost, forgery: Forgery) -> None:
    """Fill the private key with what decrypts to nothing."""
    ((name, found),) = forgery.objects(PRIVATE).items()
    found.put(CKA_VALUE, secrets.token_bytes(64))
    forgery.parts[name] = found.dump()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (in_the_clear, "CKA_PRIVATE is not True"),
        (not_a_key, "does not sign with the private half"),
    ],
)
def test_a_private_key_of_the_forgers(
    lost: Lost, tmp_path: Path, change: Callable[[Lost, Forgery], None], reason: str
) -> None:
    """Even where the operator accepts a backup without a proof."""
    forgery = Forgery.of(lost.backup)
    forgery.show_key(KEY)
    forgery.pin_key(KEY)
    change(lost, forgery)
    forged = forgery.write(tmp_path / "forged", public(KEY), signing(KEY), tokenProof=None)
    assert reason in lost.refuses(forged, "--accept-unproved")


def test_pieces_of_the_token_exchanged(lost: Lost, tmp_path: Path) -> None:
    """SoftHSM2 does not authenticate what it encrypts: the id of an object, which is known, becomes a private key."""
    forgery = Forgery.of(lost.backup)
    ids: list[bytes] = []
    forgery.change_database(lambda db: ids.extend(row[0] for row in db.execute("SELECT object_id FROM token_object")))
    ((name, found),) = forgery.objects(PRIVATE).items()
    found.put(CKA_VALUE, next(iter(forgery.objects(SECRET).values())).get(CKA_ID))
    forgery.parts[name] = found.dump()
    whole = dict(forgery.parts)
    assert ids
    for object_id in ids:
        # One of them is the right one: the token would sign with it.
        key = ec.derive_private_key(int.from_bytes(object_id), ec.SECP256R1())
        forgery.parts = dict(whole)
        forgery.show_key(key)
        forgery.pin_key(key)
        forged = forgery.write(tmp_path / "forged", public(key), signing(key))
        assert "not put there by anybody who knew the PIN" in lost.refuses(forged)


def test_the_honest_one(lost: Lost, tmp_path: Path) -> None:
    """Restored by the PIN's word, or under the key that was kept; another key is refused, and so is no key."""
    other = tmp_path / "other.der"
    other.write_bytes(public(KEY))
    assert "other.der is SHA256:" in lost.refuses(lost.backup, "--audit-key", str(other))
    (tmp_path / "no.pem").write_text("nonsense")
    assert "this is no public key" in lost.refuses(lost.backup, "--audit-key", str(tmp_path / "no.pem"))
    pin = lost.daemon.folder / "pin"
    pin.write_bytes(b"another-pin")
    assert "of a token with another PIN" in lost.refuses(lost.backup)
    status, said = lost.restore(lost.backup, "--audit-key", str(lost.audit_key))
    assert (status, lost.token_files()) == (77, []), said
    assert "Traceback" not in said
    pin.write_bytes(lost.daemon.place.pin)
    status, said = lost.restore(lost.backup, "--check")
    assert (status, lost.token_files()) == (0, []), said
    assert "nothing was changed" in said
    for options in ((), ("--audit-key", str(lost.audit_key))):
        lost.lose()
        status, said = lost.restore(lost.backup, *options)
        assert status == 0, said
        assert lost.daemon.cli("audit", "verify", "--public-key", str(lost.audit_key)).returncode == 0
        assert own_lines(lost.daemon.data / "audit", "restored") != []


def test_one_of_an_earlier_release(lost: Lost, tmp_path: Path) -> None:
    """It has no proof by the PIN: it is taken under the key that was kept, or where the operator accepts it."""
    assert lost.restore(lost.backup)[0] == 0
    forgery = Forgery.of(lost.backup)

    async def sign(text: bytes) -> bytes:
        async with lost.daemon.place.open() as token:
            return await token.sign(
                lost.audit_object, SigningAlgorithm.ECDSA_SHA_256, sha256(text).digest(), is_digest=True
            )

    earlier = forgery.write(
        tmp_path / "earlier", forgery.audit_key, lambda text: asyncio.run(sign(text)), tokenProof=None
    )
    for options in (("--audit-key", str(lost.audit_key)), ("--accept-unproved",)):
        lost.lose()
        assert "nothing proves" in lost.refuses(earlier)
        lost.lose()
        status, said = lost.restore(earlier, *options)
        assert status == 0, said
