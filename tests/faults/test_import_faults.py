"""Imports of objects where token or store fails, before it acted or after: the books balance, nothing is half done."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.custody import import_parameters, imported_material, token_objects
from kmsd.domain.material import TokenName
from kmsd.jobs import reconcile, wrapping_keys
from kmsd.ports import Tokens, Transaction
from tests.support.clients import code_of
from tests.support.failing_ports import AFTER, RETRIABLE, Failing, FailingStore, Meanwhile, bent, port_of, settle
from tests.support.harness import Harness, harness
from tests.support.key_import import Parameters, external_key, imported_key, parameters, refusals_at_once, state_of


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """With an import token."""
    with harness(tmp_path_factory.mktemp("harness"), import_token=True, custody="object") as found, refusals_at_once():
        yield found


class Case:
    """A key whose old blob must open whatever happens, and fresh import parameters."""

    def __init__(self, harness: Harness, algorithm: str, *, again: bool) -> None:
        self.kms = harness.client()
        self.material, self.again = os.urandom(32), again
        self.key_id = imported_key(self.kms, self.material) if again else external_key(self.kms)
        self.blob = self.kms.encrypt(KeyId=self.key_id, Plaintext=b"old")["CiphertextBlob"] if again else b""
        if again:
            self.kms.delete_imported_key_material(KeyId=self.key_id)
        self.given: Parameters = parameters(self.kms, self.key_id, algorithm)

    def bring(self) -> str:
        """Import."""
        return code_of(self.kms.import_key_material, **self.given.members(self.material))

    def check(self, harness: Harness, state: str) -> None:
        """The key is in that state; after reconcile, the import works, and what was sealed opens."""
        assert state_of(self.kms, self.key_id) == state
        settle(harness)
        assert state_of(self.kms, self.key_id) == state
        assert self.bring() == ""
        fresh = self.kms.encrypt(KeyId=self.key_id, Plaintext=b"new")["CiphertextBlob"]
        for blob, text in ((self.blob, b"old"), (fresh, b"new")):
            if blob:
                assert self.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == text
        settle(harness)


@AFTER
@pytest.mark.parametrize("again", [False, True], ids=["first import", "import again"])
@pytest.mark.parametrize(
    ("member", "method", "nth"),
    [
        *(("main", "unwrap_key", nth) for nth in (1, 2)),
        ("main", "transport_key", 1),
        ("imports", "rewrap_for", 1),
    ],
)
def test_the_token_fails(harness: Harness, member: str, method: str, nth: int, *, again: bool, after: bool) -> None:
    """At each of its calls: the import is refused so that it can be tried again, and was none."""
    case = Case(harness, "RSAES_OAEP_SHA_256", again=again)
    failing = Failing(port_of(harness, member), method, nth, after=after)
    with bent(harness, member, failing):
        assert case.bring() in RETRIABLE
    assert failing.failed
    case.check(harness, "PendingImport")


@AFTER
@pytest.mark.parametrize("again", [False, True], ids=["first import", "import again"])
@pytest.mark.parametrize("nth", [1, 2])
def test_the_store_fails(harness: Harness, nth: int, *, again: bool, after: bool) -> None:
    """At each transaction: the intent, and the one that gives the material to the key."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=again)
    with bent(harness, "store", FailingStore(harness.components.store, nth, after=after)) as failing:
        assert case.bring() in RETRIABLE
    assert failing.failed
    # A commit of which nobody hears has happened all the same.
    case.check(harness, "Enabled" if (nth, after) == (2, True) else "PendingImport")


@AFTER
def test_undoing_fails_too(harness: Harness, *, after: bool) -> None:
    """Then the doom stands in the store: the next import of the same carries it out and goes on."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    real = harness.components.token
    failing = Failing(Failing(real, "unwrap_key", 2, after=True), "destroy", 1, after=after)
    with bent(harness, "main", failing):
        assert case.bring() in RETRIABLE
    assert failing.failed
    assert case.bring() == ""
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


@pytest.mark.parametrize("alive", [False, True], ids=["ended", "alive"])
def test_an_intent_of_another_process(harness: Harness, *, alive: bool) -> None:
    """One that is alive is left alone, and the import put off; what an ended one left is settled at once."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    imported = harness.run(_imported(harness, case.key_id))

    async def intend_elsewhere() -> SqliteStore:
        store = SqliteStore(harness.config.database)
        await token_objects.record_intent(
            store, f"imported:{case.key_id}", harness.clock.now(), object_id=imported.material_id
        )
        await harness.components.token.generate_key(imported.material_id, imported.algorithm)
        return store

    other = harness.run(intend_elsewhere())
    if alive:
        before = len(harness.records())
        assert case.bring() == "ThrottlingException"
        (record,) = [one for one in harness.records()[before:] if one["eventName"] == "ImportKeyMaterial"]
        assert record["errorCode"] == "ThrottlingException"
        assert "another import into this key is under way" in record["additionalEventData"]["reason"]
        assert state_of(case.kms, case.key_id) == "PendingImport"
    harness.run(other.close())
    assert case.bring() == ""
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


def test_reconcile_knows_whose_intents_are_orphaned(harness: Harness) -> None:
    """Those of an ended process are settled without grace; those of a live one are not."""
    store, token, now = harness.components.store, harness.components.token, harness.clock.now()

    async def intend_elsewhere() -> bytes:
        other = SqliteStore(harness.config.database)
        try:
            return await token_objects.record_intent(other, "key:nobody", now)
        finally:
            await other.close()

    orphan = harness.run(intend_elsewhere())
    mine = harness.run(token_objects.record_intent(store, "key:nobody", now))
    report = harness.run(reconcile.run_once(store, token, now))
    assert (orphan in report.undone, mine in report.undone) == (True, False)
    harness.run(token_objects.roll_back(store, token, mine))


@AFTER
def test_deletion_fails(harness: Harness, *, after: bool) -> None:
    """Before the commit nothing happens; after it the doom is certain: another call or reconcile carries it out."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    assert case.bring() == ""
    with bent(harness, "main", Failing(harness.components.token, "check", 1, after=after)):
        assert code_of(case.kms.delete_imported_key_material, KeyId=case.key_id) in RETRIABLE
    assert state_of(case.kms, case.key_id) == "Enabled"
    with bent(harness, "main", Failing(harness.components.token, "destroy", 1, after=after)):
        assert code_of(case.kms.delete_imported_key_material, KeyId=case.key_id) in RETRIABLE
    assert state_of(case.kms, case.key_id) == "PendingImport"
    assert code_of(case.kms.delete_imported_key_material, KeyId=case.key_id) == ""
    case.check(harness, "PendingImport")


def test_an_unfinished_deletion_does_not_stop_the_import(harness: Harness) -> None:
    """It is carried out first."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    assert case.bring() == ""
    with bent(harness, "main", Failing(harness.components.token, "destroy", 1, after=False)):
        code_of(case.kms.delete_imported_key_material, KeyId=case.key_id)
    assert case.bring() == ""
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


@AFTER
@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_a_wrapping_key_cannot_be_made(harness: Harness, algorithm: str, *, after: bool) -> None:
    """GetParametersForImport is refused so that it can be tried again, and leaves nothing in either token."""
    kms = harness.client()
    harness.clock.advance(hours=25)
    harness.tick()
    key_id = external_key(kms)
    member = "main" if algorithm == "RSAES_OAEP_SHA_1" else "imports"
    failing = Failing(port_of(harness, member), "generate_wrapping_key", 1, after=after)
    want = {"WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_2048"}
    with bent(harness, member, failing):
        assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) in RETRIABLE
    settle(harness)
    assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) == ""


def test_the_material_is_deleted_while_it_is_imported_again(harness: Harness) -> None:
    """What was proven to be there is no longer: the call is carried out again, and makes it anew."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    assert case.bring() == ""

    async def delete(transaction: Transaction) -> None:
        key = await transaction.key(case.key_id)
        assert key is not None
        record = imported_material.current(await transaction.imported_materials(case.key_id))
        assert record is not None
        await imported_material.delete(transaction, key, record, harness.clock.now())

    with bent(harness, "store", Meanwhile(harness.components.store, 1, delete)) as meanwhile:
        assert case.bring() == ""
    assert meanwhile.failed
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


def test_the_parameters_end_while_they_are_used(harness: Harness) -> None:
    """By the clock, or by failures of others: then the import was none."""
    for end, error in (("failures", "InvalidImportTokenException"), ("clock", "ExpiredImportTokenException")):
        case = Case(harness, "RSAES_OAEP_SHA_1", again=False)

        async def doom(transaction: Transaction, case: Case = case, end: str = end) -> None:
            if end == "clock":
                harness.clock.advance(hours=24)
                return
            for key in await transaction.wrapping_keys():
                if key.key_id == case.key_id:
                    await import_parameters.mark_destroying(transaction, key.object_id)

        with bent(harness, "store", Meanwhile(harness.components.store, 2, doom)) as meanwhile:
            assert case.bring() == error
        assert meanwhile.failed
        assert state_of(case.kms, case.key_id) == "PendingImport"
        settle(harness)


def test_the_job_goes_on_when_a_token_fails(harness: Harness) -> None:
    """One wrapping key that cannot be destroyed or made does not stop the others; the next run does what is left."""
    kms = harness.client()
    harness.tick()
    for algorithm in ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"):
        parameters(kms, external_key(kms), algorithm)
    tokens = harness.components.tokens
    failing: Any = Failing(tokens.imports, "generate_wrapping_key", 1, after=False)
    broken = Tokens(tokens.main, {TokenName.IMPORT: failing})
    report = harness.run(wrapping_keys.run_once(harness.components.store, broken, harness.clock.now(), stock=3))
    assert (len(report.failed), {key.token for key in harness.run(_stock(harness))}) == (1, {TokenName.MAIN})
    harness.clock.advance(hours=24)
    failing_main: Any = Failing(tokens.main, "destroy", 1, after=False)
    broken = Tokens(failing_main, tokens.others)
    report = harness.run(wrapping_keys.run_once(harness.components.store, broken, harness.clock.now(), stock=3))
    assert len(report.failed) == 1
    assert harness.run(_stock(harness)) == []
    settle(harness)


async def _stock(harness: Harness) -> Any:
    return [key for key in await (await harness.components.store.read()).wrapping_keys() if key.key_id is None]


def test_a_late_destruction_spares_what_was_made_anew(harness: Harness) -> None:
    """Whoever comes to carry out a destruction that another has carried out already finds material of the same id."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    assert case.bring() == ""
    imported = harness.run(_imported(harness, case.key_id))
    harness.run(token_objects.destroy(harness.components.store, harness.components.token, imported.material_id))
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


def with_lost_material(harness: Harness) -> tuple[Case, bytes]:
    """A key whose imported material the token has lost, and the object's id."""
    case = Case(harness, "RSAES_OAEP_SHA_1", again=True)
    assert case.bring() == ""
    components = harness.components
    imported = harness.run(_imported(harness, case.key_id))
    harness.run(components.token.destroy(imported.material_id))
    report = harness.run(reconcile.run_once(components.store, components.token, harness.clock.now()))
    assert imported.material_id in report.missing
    assert state_of(case.kms, case.key_id) == "Unavailable"
    return case, bytes(imported.material_id)


def test_lost_material_is_made_once(harness: Harness) -> None:
    """However many bring it back at the same instant: all succeed, and the token has one object of its id."""
    case, object_id = with_lost_material(harness)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(case.bring())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [""] * 8
    present = [found.object_id for found in harness.run(harness.components.token.list_objects())]
    assert present.count(object_id) == 1
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


def test_lost_material_comes_back(harness: Harness) -> None:
    """A key that is Unavailable, because the token lost its object, takes the same material, and no other."""
    case, _ = with_lost_material(harness)
    components = harness.components
    other = case.given.members(os.urandom(32))
    assert code_of(case.kms.import_key_material, **other) == "IncorrectKeyMaterialException"
    with bent(harness, "store", FailingStore(components.store, 1, after=False)) as failing:
        assert case.bring() == "KMSInternalException"
    assert failing.failed
    assert state_of(case.kms, case.key_id) == "Unavailable"
    assert case.bring() == ""
    assert case.kms.decrypt(CiphertextBlob=case.blob)["Plaintext"] == b"old"
    settle(harness)


async def _imported(harness: Harness, key_id: str) -> Any:
    return imported_material.current(await (await harness.components.store.read()).imported_materials(key_id))
