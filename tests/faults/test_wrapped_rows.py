"""Rows of wrapped material that somebody changes in the database: they are refused, and the alarm is raised."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.jobs.reconcile import ReconcileReport
from kmsd.jobs.scheduler import Job
from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.key_import import imported_key, refusals_at_once
from tests.support.wrapped_rows import Row, Rows

INTERNAL = "KMSInternalException"
OAEP = "RSAES_OAEP_SHA_1"


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), custody="wrapped", import_token=True) as found, refusals_at_once():
        yield found


@pytest.fixture(name="rows")
def _rows(harness: Harness) -> Rows:
    return Rows(harness.config.database)


def evict(harness: Harness, material_id: bytes) -> None:
    """Let the keys end that were unwrapped and derived before."""

    async def invalidate() -> None:
        harness.components.token.invalidate(material_id)

    harness.run(invalidate())


class Victim:
    """A symmetric key with a blob, and the id of its material."""

    def __init__(self, harness: Harness, rows: Rows) -> None:
        self.harness = harness
        kms = harness.client()
        self.key_id: str = kms.create_key()["KeyMetadata"]["KeyId"]
        self.blob: bytes = kms.encrypt(KeyId=self.key_id, Plaintext=b"text")["CiphertextBlob"]
        (self.material_id,) = rows.material_ids(self.key_id)

    def evict(self) -> None:
        """As the function of this name."""
        evict(self.harness, self.material_id)

    def codes(self) -> set[str]:
        """The answers to all uses; the empty code is success."""
        kms = self.harness.client()
        uses: list[tuple[Callable[..., Any], dict[str, Any]]] = [
            (kms.encrypt, {"KeyId": self.key_id, "Plaintext": b"x"}),
            (kms.decrypt, {"CiphertextBlob": self.blob}),
            (kms.generate_data_key, {"KeyId": self.key_id, "KeySpec": "AES_256"}),
            (kms.re_encrypt, {"CiphertextBlob": self.blob, "DestinationKeyId": self.key_id}),
        ]
        return {code_of(call, **members) for call, members in uses}


def reconciled(harness: Harness) -> ReconcileReport:
    """The report of `kmsd jobs run reconcile`."""
    report = harness.run(harness.scheduler.run_now(Job.RECONCILE))
    assert isinstance(report, ReconcileReport)
    return report


# --- changed rows -----------------------------------------------------------------------------------

Change = Callable[[Row, Row], Row]
"""What becomes of the victim's row; the second is another key's."""


def flipped(content: bytes, at: int) -> bytes:
    """One bit changed."""
    return content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :]


CHANGES: dict[str, Change] = {
    "content of another": lambda row, other: {**row, "content": other["content"]},
    "all of another": lambda row, other: {**other, "material_id": row["material_id"]},
    "MAC of another": lambda row, other: {**row, "mac": other["mac"]},
    "content truncated": lambda row, _: {**row, "content": row["content"][:-8]},
    "content empty": lambda row, _: {**row, "content": b""},
    "content longer": lambda row, _: {**row, "content": row["content"] + bytes(8)},
    "first bit of the content": lambda row, _: {**row, "content": flipped(row["content"], 0)},
    "last bit of the content": lambda row, _: {**row, "content": flipped(row["content"], -1 + len(row["content"]))},
    "bit of the MAC": lambda row, _: {**row, "mac": flipped(row["mac"], 5)},
    "MAC truncated": lambda row, _: {**row, "mac": row["mac"][:8]},
    "MAC empty": lambda row, _: {**row, "mac": b""},
    "mechanism": lambda row, _: {**row, "mechanism": row["mechanism"] + 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_row(harness: Harness, rows: Rows, capsys: pytest.CaptureFixture[str], change: str) -> None:
    """Each use is refused, before and after a restart; log and reconcile name it; the row as it was works again."""
    victim, other = Victim(harness, rows), Victim(harness, rows)
    with rows.written(CHANGES[change](rows.wrapped(victim.material_id), rows.wrapped(other.material_id))):
        # A message key that was derived before is the right one, and lives for minutes.
        assert harness.client().decrypt(CiphertextBlob=victim.blob)["Plaintext"] == b"text"
        for end in (victim.evict, harness.restart):
            end()
            capsys.readouterr()
            assert victim.codes() == {INTERNAL}
            logged = [line for line in capsys.readouterr().out.splitlines() if "wrapped_material_tampered" in line]
            assert logged
            assert all("error" in line and victim.key_id in line for line in logged)
            assert other.codes() == {""}
            report = reconciled(harness)
            assert (report.tampered, report.failed) == ([victim.material_id], [])
    assert victim.codes() == {""}
    assert reconciled(harness).tampered == []


@pytest.mark.parametrize("kind", [("HMAC_256", "GENERATE_VERIFY_MAC"), ("ECC_NIST_P256", "SIGN_VERIFY")])
def test_a_changed_row_of_an_unwrapped_key(harness: Harness, rows: Rows, kind: tuple[str, str]) -> None:
    """A key that is in use is refused from the next call on, for its row is not the one that was unwrapped."""
    kms = harness.client()
    key_id, other = (kms.create_key(KeySpec=kind[0], KeyUsage=kind[1])["KeyMetadata"]["KeyId"] for _ in range(2))
    if kind[1] == "SIGN_VERIFY":
        use = functools.partial(kms.sign, KeyId=key_id, Message=b"x", SigningAlgorithm="ECDSA_SHA_256")
    else:
        use = functools.partial(kms.generate_mac, KeyId=key_id, Message=b"x", MacAlgorithm="HMAC_SHA_256")
    assert code_of(use) == ""
    (mine,), (others,) = rows.material_ids(key_id), rows.material_ids(other)
    with rows.written({**rows.wrapped(others), "material_id": mine}):
        assert code_of(use) == INTERNAL
    assert code_of(use) == ""


def test_a_changed_binding_key(harness: Harness, rows: Rows) -> None:
    """A domain key whose binding key is not its own verifies nothing: all its keys are refused, none is unavailable."""
    victim, other = Victim(harness, rows), harness.run(_next_domain_key(harness))
    current = rows.wrapped(victim.material_id)["domain_key_id"]
    own = rows.select("SELECT binding_key FROM domain_key WHERE domain_key_id = ?", current)[0]["binding_key"]
    for wrong in (other.binding_key, flipped(own, 3), own[:-1], rows.wrapped(victim.material_id)["content"][:32]):
        rows.change("UPDATE domain_key SET binding_key = :key WHERE domain_key_id = :id", key=wrong, id=current)
        try:
            victim.evict()
            assert victim.codes() == {INTERNAL}
            assert code_of(harness.client().create_key) == INTERNAL
        finally:
            rows.change("UPDATE domain_key SET binding_key = :key WHERE domain_key_id = :id", key=own, id=current)
    assert victim.codes() == {""}


async def _next_domain_key(harness: Harness) -> DomainKey:
    rows = await (await harness.components.store.read()).domain_keys()
    return next(row for row in rows if row.state is DomainKeyState.NEXT)


# --- public keys ------------------------------------------------------------------------------------

PAIRS = {
    "RSA that signs": ("RSA_2048", "SIGN_VERIFY"),
    "RSA that encrypts": ("RSA_2048", "ENCRYPT_DECRYPT"),
    "ECDSA": ("ECC_NIST_P256", "SIGN_VERIFY"),
    "ECDH": ("ECC_NIST_P256", "KEY_AGREEMENT"),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("other", ["another", "none"])
def test_a_changed_public_key(harness: Harness, rows: Rows, pair: str, other: str) -> None:
    """Nobody encrypts to it, and no signature is verified by it; the private key is not used either."""
    spec, usage = PAIRS[pair]
    kms = harness.client()
    key_id, second = (kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"] for _ in range(2))
    own, public_key = (kms.get_public_key(KeyId=one)["PublicKey"] for one in (key_id, second))
    uses: list[Callable[[], Any]] = [functools.partial(harness.client().get_public_key, KeyId=key_id)]
    if usage == "SIGN_VERIFY":
        algorithm = {"SigningAlgorithm": "ECDSA_SHA_256" if pair == "ECDSA" else "RSASSA_PSS_SHA_256"}
        signature = kms.sign(KeyId=key_id, Message=b"x", **algorithm)["Signature"]
        uses.append(functools.partial(kms.verify, KeyId=key_id, Message=b"x", Signature=signature, **algorithm))
        uses.append(functools.partial(kms.sign, KeyId=key_id, Message=b"x", **algorithm))
    elif usage == "ENCRYPT_DECRYPT":
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionAlgorithm=OAEP)["CiphertextBlob"]
        uses.append(functools.partial(kms.encrypt, KeyId=key_id, Plaintext=b"x", EncryptionAlgorithm=OAEP))
        uses.append(functools.partial(kms.decrypt, KeyId=key_id, CiphertextBlob=blob, EncryptionAlgorithm=OAEP))
    (material_id,) = rows.material_ids(key_id)
    change = "UPDATE material SET public_key = :key WHERE material_id = :id"
    rows.change(change, key=public_key if other == "another" else b"", id=material_id)
    try:
        assert [code_of(use) for use in uses] == [INTERNAL] * len(uses)
        assert reconciled(harness).tampered == [material_id]
    finally:
        rows.change(change, key=own, id=material_id)
    assert [code_of(use) for use in uses] == [""] * len(uses)


# --- rows that fit elsewhere ------------------------------------------------------------------------


def test_material_of_known_value(harness: Harness, rows: Rows) -> None:
    """Somebody imports a key whose value they know, and puts it into the place of a victim's: it is refused."""
    kms = harness.client()
    own, victims = imported_key(kms, b"k" * 32), [imported_key(kms, os.urandom(32)), Victim(harness, rows).key_id]
    known = rows.wrapped(*rows.material_ids(own))
    for key_id in victims:
        (target,) = rows.material_ids(key_id)
        for columns in (("content",), ("content", "mac"), ("content", "mac", "mechanism", "domain_key_id")):
            with rows.written({**rows.wrapped(target), **{column: known[column] for column in columns}}):
                evict(harness, target)
                assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == INTERNAL
                assert code_of(kms.generate_data_key, KeyId=key_id, KeySpec="AES_256") == INTERNAL
        assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == ""


def test_material_that_changes_its_key(harness: Harness, rows: Rows) -> None:
    """A material is not used for the key that its row of `material` is made to name; nor as one of another origin."""
    own, victim = Victim(harness, rows), Victim(harness, rows)
    rows.change("UPDATE material SET key_id = :key WHERE material_id = :id", key=victim.key_id, id=own.material_id)
    point = "UPDATE key SET current_material = :material WHERE key_id = :key"
    rows.change(point, material=own.material_id, key=victim.key_id)
    try:
        for act in (own.evict, harness.restart):
            act()
            assert code_of(harness.client().encrypt, KeyId=victim.key_id, Plaintext=b"x") == INTERNAL
            assert harness.client().decrypt(CiphertextBlob=victim.blob)["Plaintext"] == b"text"
        assert code_of(harness.client().decrypt, CiphertextBlob=own.blob) == "InvalidCiphertextException"
        assert reconciled(harness).tampered == [own.material_id]
    finally:
        rows.change("UPDATE material SET key_id = :key WHERE material_id = :id", key=own.key_id, id=own.material_id)
        rows.change(point, material=victim.material_id, key=victim.key_id)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("key.origin", "EXTERNAL"), ("key.spec", "HMAC_256"), ("key.usage", "GENERATE_VERIFY_MAC")),
        *(("material.algorithm", 2), ("material.algorithm", 0)),
    ],
)
def test_material_of_another_kind(harness: Harness, rows: Rows, column: str, value: str | int) -> None:
    """Whatever the database says of a key, its material is used for what it was bound to, and nothing else."""
    victim, (table, _, name) = Victim(harness, rows), column.partition(".")
    before = rows.select(f"SELECT {name} FROM {table} WHERE key_id = ?", victim.key_id)[0][name]  # noqa: S608 (a constant)
    change = f"UPDATE {table} SET {name} = :value WHERE key_id = :key"  # noqa: S608 (a constant)
    rows.change(change, value=value, key=victim.key_id)
    try:
        harness.restart()
        kms = harness.client()
        mac = code_of(kms.generate_mac, KeyId=victim.key_id, Message=b"x", MacAlgorithm="HMAC_SHA_256")
        assert "" not in {*victim.codes(), mac}
    finally:
        rows.change(change, value=before, key=victim.key_id)
    assert victim.codes() == {""}
