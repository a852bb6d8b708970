"""Wrapped material where token or store fails, before it acted or after: it is made or is not, and nothing is left."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kmsd.custody import imported_material
from kmsd.domain.domain_key import DomainKeyState
from kmsd.jobs import reconcile, rotation
from kmsd.ports import Tokens, Transaction
from tests.support.clients import code_of
from tests.support.failing_ports import AFTER, RETRIABLE, Failing, FailingStore, Meanwhile, bent, settle
from tests.support.harness import Harness, harness
from tests.support.key_import import (
    Parameters,
    add_material,
    external_key,
    imported_key,
    materials_of,
    parameters,
    refusals_at_once,
    state_of,
)
from tests.support.material_ids import wrapped_ids


@pytest.fixture(name="harness", scope="module")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """With an import token."""
    folder = tmp_path_factory.mktemp("harness")
    with harness(folder, import_token=True, custody="wrapped") as found, refusals_at_once():
        yield found


class FailingCustody:
    """The token, whose n-th call of a method about wrapped material fails, before or after the real one has acted."""

    def __init__(self, real: Any, method: str, *, after: bool) -> None:
        self._real, self.custody = real, Failing(real.custody, method, 1, after=after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def failed(self) -> bool:
        """True once it has."""
        return self.custody.failed


class Case:
    """A key whose old blob must open whatever happens, and fresh import parameters."""

    def __init__(self, harness: Harness, *, again: bool) -> None:
        self.harness, self.kms = harness, harness.client()
        self.material = os.urandom(32)
        self.key_id = imported_key(self.kms, self.material) if again else external_key(self.kms)
        self.blob = self.kms.encrypt(KeyId=self.key_id, Plaintext=b"old")["CiphertextBlob"] if again else b""
        if again:
            self.kms.delete_imported_key_material(KeyId=self.key_id)
        self.given: Parameters = parameters(self.kms, self.key_id)

    def bring(self) -> str:
        """Import."""
        return code_of(self.kms.import_key_material, **self.given.members(self.material))

    def opens(self) -> None:
        """The old blob opens, if there is one."""
        if self.blob:
            assert self.kms.decrypt(CiphertextBlob=self.blob)["Plaintext"] == b"old"

    def check(self, state: str) -> None:
        """The key is in that state and remains so; after that the import works, and what was sealed opens."""
        assert state_of(self.kms, self.key_id) == state
        settle(self.harness)
        assert state_of(self.kms, self.key_id) == state
        assert self.bring() == ""
        self.kms.encrypt(KeyId=self.key_id, Plaintext=b"new")
        self.opens()
        settle(self.harness)


AGAIN = pytest.mark.parametrize("again", [False, True], ids=["first import", "import again"])


@AFTER
@AGAIN
def test_the_token_fails_in_an_import(harness: Harness, *, again: bool, after: bool) -> None:
    """When it wraps what it has proven: the import was none, and no row is left."""
    case = Case(harness, again=again)
    before = wrapped_ids(harness.config)
    failing: Any = FailingCustody(harness.components.token, "import_material", after=after)
    with bent(harness, "main", failing):
        assert case.bring() in RETRIABLE
    assert failing.failed
    assert wrapped_ids(harness.config) == before
    case.check("PendingImport")


@AFTER
@AGAIN
def test_the_store_fails_in_an_import(harness: Harness, *, again: bool, after: bool) -> None:
    """There is one transaction: it has given the material to the key, or there is no material."""
    case = Case(harness, again=again)
    with bent(harness, "store", FailingStore(harness.components.store, 1, after=after)) as failing:
        assert case.bring() in RETRIABLE
    assert failing.failed
    case.check("Enabled" if after else "PendingImport")


def make(kms: Any, name: str, key_id: str) -> str:
    """The answer to a call that makes material."""
    return code_of(kms.create_key) if name == "CreateKey" else code_of(kms.rotate_key_on_demand, KeyId=key_id)


@AFTER
@pytest.mark.parametrize("port", ["main", "store"])
@pytest.mark.parametrize("name", ["CreateKey", "RotateKeyOnDemand"])
def test_new_material_fails(harness: Harness, name: str, port: str, *, after: bool) -> None:
    """Nothing is left of it, but what a commit has done of which nobody hears; the key goes on."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"]
    before = wrapped_ids(harness.config)
    failing: Any = FailingStore(harness.components.store, 1, after=after)
    if port == "main":
        failing = FailingCustody(harness.components.token, "generate", after=after)
    with bent(harness, port, failing):
        assert make(kms, name, key_id) in RETRIABLE
    assert failing.failed
    settle(harness)
    made = wrapped_ids(harness.config) - before
    assert len(made) == int(port == "store" and after)
    assert make(kms, name, key_id) == ""
    kms.encrypt(KeyId=key_id, Plaintext=b"x")
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"old"


@AFTER
def test_the_rotation_job_goes_on(harness: Harness, *, after: bool) -> None:
    """Of two due keys one fails; the other is rotated now, the failed one with the next run."""
    kms, components = harness.client(), harness.components
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    for key_id in keys:
        kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    harness.clock.advance(days=91)
    before = wrapped_ids(harness.config)
    failing: Any = FailingCustody(components.token, "generate", after=after)
    counts = []
    for _ in range(2):
        tokens = Tokens(failing, wraps=components.tokens.wraps)
        run = rotation.run_once(components.store, tokens, harness.clock.now(), components.record_job)
        report = harness.run(run)
        counts.append((len(report.rotated), len(report.failed)))
    assert counts == [(1, 1), (1, 0)]
    assert len(wrapped_ids(harness.config) - before) == 2
    for key_id in keys:
        assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 1
        kms.disable_key_rotation(KeyId=key_id)
    settle(harness)


def test_the_material_is_deleted_while_it_is_imported_again(harness: Harness) -> None:
    """What was proven to be there is no longer: the call is carried out again, and wraps it."""
    case = Case(harness, again=True)
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
    case.opens()
    settle(harness)


@AFTER
def test_deletion_fails(harness: Harness, *, after: bool) -> None:
    """It is done with its transaction, which waits for nothing in the token."""
    case = Case(harness, again=True)
    assert case.bring() == ""
    with bent(harness, "store", FailingStore(harness.components.store, 1, after=after)) as failing:
        assert code_of(case.kms.delete_imported_key_material, KeyId=case.key_id) in RETRIABLE
    assert failing.failed
    assert state_of(case.kms, case.key_id) == ("PendingImport" if after else "Enabled")
    assert code_of(case.kms.delete_imported_key_material, KeyId=case.key_id) == ""
    case.check("PendingImport")


def test_material_under_a_lost_domain_key_comes_back(harness: Harness) -> None:
    """Imported once more, it is wrapped under the domain key that is current then; however many bring it at once."""
    case = Case(harness, again=True)
    assert case.bring() == ""
    waiting = os.urandom(32)
    pending = add_material(case.kms, case.key_id, waiting)
    generated = case.kms.create_key()["KeyMetadata"]["KeyId"]
    lost = harness.run(rotate(harness))
    harness.run(harness.components.token.destroy(lost))
    assert reconciled(harness).domain_keys_missing == [lost]
    assert state_of(case.kms, case.key_id) == state_of(case.kms, generated) == "Unavailable"
    other = case.given.members(os.urandom(32))
    assert code_of(case.kms.import_key_material, **other) == "IncorrectKeyMaterialException"
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(case.bring())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [""] * 8
    assert state_of(case.kms, case.key_id) == "Enabled"
    case.opens()
    assert code_of(case.kms.rotate_key_on_demand, KeyId=case.key_id) == "KMSInvalidStateException"
    case.kms.import_key_material(**case.given.members(waiting))
    case.kms.rotate_key_on_demand(KeyId=case.key_id)
    assert materials_of(case.kms, case.key_id)[1] == (pending, "CURRENT", "IMPORTED")
    case.opens()
    assert state_of(case.kms, generated) == "Unavailable"
    assert reconciled(harness).domain_keys_missing == [lost]


async def rotate(harness: Harness) -> bytes:
    """What `kmsd domain-key rotate` does. The id of the domain key that retires."""
    async with harness.components.store.write() as transaction:
        now, rows = harness.clock.now(), {row.state: row.domain_key_id for row in await transaction.domain_keys()}
        old, new = rows[DomainKeyState.CURRENT], rows[DomainKeyState.NEXT]
        await transaction.set_domain_key_state(old, DomainKeyState.CURRENT, DomainKeyState.RETIRING, now)
        await transaction.set_domain_key_state(new, DomainKeyState.NEXT, DomainKeyState.CURRENT, now)
    return old


def reconciled(harness: Harness) -> reconcile.ReconcileReport:
    """The report of a run."""
    components = harness.components
    return harness.run(reconcile.run_once(components.store, components.token, harness.clock.now()))
