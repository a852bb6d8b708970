"""The rewrapping job where rows change and token or store fail: what it cannot do now, it does the next time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.custody import imported_material
from kmsd.domain.domain_key import DomainKeyState
from kmsd.jobs import rewrap
from kmsd.jobs.rewrap import RewrapReport
from kmsd.ports import Tokens, Transaction
from tests.support.failing_ports import AFTER, Failing, FailingStore, Meanwhile
from tests.support.harness import Harness, harness
from tests.support.key_import import external_key, import_again
from tests.support.wrapped_rows import Rows

COUNT = 5


class Scene:
    """Keys with a blob each, whose domain key has been retired."""

    def __init__(self, found: Harness) -> None:
        self.harness, self.kms, self.rows = found, found.client(), Rows(found.config.database)
        keys = [self.kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(COUNT - 1)]
        self.imported = external_key(self.kms)
        self.material = os.urandom(32)
        import_again(self.kms, self.imported, self.material)
        self.keys = [*keys, self.imported]
        self.blobs = {key: self.kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"] for key in self.keys}
        found.run(self._retire())

    async def _retire(self) -> None:
        async with self.harness.components.store.write() as transaction:
            now, rows = self.harness.clock.now(), {row.state: row for row in await transaction.domain_keys()}
            for old, new in (
                (DomainKeyState.CURRENT, DomainKeyState.RETIRING),
                (DomainKeyState.NEXT, DomainKeyState.CURRENT),
            ):
                await transaction.set_domain_key_state(rows[old].domain_key_id, old, new, now)

    def run(self, *, store: Any = None, token: Any = None) -> RewrapReport:
        """One run of the job, with ports in the place of the real ones."""
        components = self.harness.components
        tokens = Tokens(token or components.token, wraps=components.tokens.wraps)
        return self.harness.run(rewrap.run_once(store or components.store, tokens, self.harness.clock))

    def left(self) -> int:
        """Materials under the retired domain key."""
        query = (
            "SELECT material_id FROM wrapped_material JOIN domain_key USING (domain_key_id) WHERE state = 'retiring'"
        )
        return len(self.rows.select(query))

    def check(self) -> None:
        """Another run moves what is left; every key opens its blob, also for a new daemon."""
        assert not self.run().failed
        assert self.left() == 0
        assert self.run() == RewrapReport()
        for restarts in (False, True):
            if restarts:
                self.harness.restart()
            kms = self.harness.client()
            assert {kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in self.blobs.values()} == {b"text"}


@pytest.fixture(name="scene")
def _scene(tmp_path: Path) -> Iterator[Scene]:
    with harness(tmp_path, custody="wrapped") as found:
        yield Scene(found)


def test_a_changed_row_stays_where_it_is(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """It is reported, and never bound anew; the others move. The row as it was moves, too."""
    (mine,), (other,) = (scene.rows.material_ids(key) for key in scene.keys[:2])
    changed = {**scene.rows.wrapped(other), "material_id": mine}
    with scene.rows.written(changed):
        capsys.readouterr()
        scene.harness.tick()
        assert "wrapped_material_tampered" in capsys.readouterr().out
        assert scene.run().tampered == [mine]
        assert scene.rows.wrapped(mine) == changed
        assert scene.left() == 1
    scene.check()


def test_a_key_is_deleted_meanwhile(scene: Scene) -> None:
    """It stays deleted; the transaction that wanted to replace it is none, and the next run moves the rest."""

    async def delete(transaction: Transaction) -> None:
        key = await transaction.key(scene.imported)
        record = imported_material.current(await transaction.imported_materials(scene.imported))
        assert key is not None
        assert record is not None
        await imported_material.delete(transaction, key, record, scene.harness.clock.now())

    meanwhile = Meanwhile(scene.harness.components.store, 1, delete)
    assert scene.run(store=meanwhile) == RewrapReport()
    assert meanwhile.failed
    assert scene.left() == COUNT - 1
    del scene.blobs[scene.imported]
    scene.check()
    assert scene.rows.material_ids(scene.imported) == []
    import_again(scene.harness.client(), scene.imported, scene.material)


@AFTER
def test_the_store_fails(scene: Scene, *, after: bool) -> None:
    """All of a batch are moved, or none."""
    failing: Any = FailingStore(scene.harness.components.store, 1, after=after)
    assert len(scene.run(store=failing).failed) == 1
    assert failing.failed
    assert scene.left() == (0 if after else COUNT)
    scene.check()


@AFTER
def test_the_token_fails(scene: Scene, *, after: bool) -> None:
    """Nothing is moved."""
    token: Any = scene.harness.components.token

    class Custody:
        custody = Failing(token.custody, "rewrap", 1, after=after)

    assert len(scene.run(token=Custody()).failed) == 1
    assert scene.left() == COUNT
    scene.check()


def test_the_new_domain_key_is_lost(scene: Scene) -> None:
    """The material stays under the old one, and opens."""
    (current,) = scene.rows.select("SELECT * FROM domain_key WHERE state = 'current'")
    scene.harness.run(scene.harness.components.token.destroy(current["domain_key_id"]))
    for _ in range(2):
        assert len(scene.run().failed) == 1
        assert scene.left() == COUNT
    kms = scene.harness.client()
    assert {kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in scene.blobs.values()} == {b"text"}
