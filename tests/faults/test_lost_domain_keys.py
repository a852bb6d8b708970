"""A domain key that the token has lost: its keys are unavailable by one row, and come back with it."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.jobs import reconcile
from kmsd.jobs.reconcile import ReconcileReport
from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.key_import import state_of
from tests.support.wrapped_rows import Rows


@pytest.fixture(name="harness")
def _harness(tmp_path: Path) -> Iterator[Harness]:
    with harness(tmp_path, custody="wrapped") as found:
        yield found


async def domain_key(harness: Harness, state: DomainKeyState) -> DomainKey:
    """The domain key in this state."""
    rows = await (await harness.components.store.read()).domain_keys()
    return next(row for row in rows if row.state is state)


def reconciled(harness: Harness, token: Any = None) -> ReconcileReport:
    """The report of a run over the token, or one that stands before it."""
    components = harness.components
    return harness.run(reconcile.run_once(components.store, token or components.token, harness.clock.now()))


def test_the_token_loses_a_domain_key(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    """One row, one alarm; describing and using its keys says so; it returns, and all blobs open."""
    kms, rows = harness.client(), Rows(harness.config.database)
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(6)]
    mac_key = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
    mac = {"KeyId": mac_key, "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    tag = kms.generate_mac(**mac)["Mac"]
    blobs = [kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"] for key_id in keys]
    objects, kept = harness.config.token.dir_sync, harness.config.data_dir.with_name("kept")
    assert objects is not None
    shutil.copytree(objects, kept)
    lost = harness.run(domain_key(harness, DomainKeyState.CURRENT)).domain_key_id
    harness.run(harness.components.token.destroy(lost))
    before = rows.select("SELECT object_id, status FROM token_object")
    harness.restart()
    capsys.readouterr()
    harness.tick()
    alarms = [line for line in capsys.readouterr().out.splitlines() if "[error" in line]
    assert len(alarms) == 1
    assert "domain_key_missing" in alarms[0]
    assert lost.hex() in alarms[0]
    assert rows.select("SELECT object_id, status FROM token_object") == before
    kms = harness.client()
    assert {state_of(kms, key_id) for key_id in (*keys, mac_key)} == {"Unavailable"}
    uses: list[Callable[[], str]] = [
        lambda: code_of(kms.encrypt, KeyId=keys[0], Plaintext=b"x"),
        lambda: code_of(kms.decrypt, CiphertextBlob=blobs[1]),
        lambda: code_of(kms.generate_mac, **mac),
        lambda: code_of(kms.generate_data_key, KeyId=keys[2], KeySpec="AES_256"),
    ]
    assert [use() for use in uses] == ["KeyUnavailableException"] * len(uses)
    assert code_of(kms.create_key) != ""
    for path in kept.rglob("*.object"):
        if not (target := objects / path.relative_to(kept)).exists():
            shutil.copy(path, target)
    harness.restart()
    assert reconciled(harness).returned == [lost]
    kms = harness.client()
    assert {state_of(kms, key_id) for key_id in (*keys, mac_key)} == {"Enabled"}
    assert {kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in blobs} == {b"text"}
    assert kms.generate_mac(**mac)["Mac"] == tag
    kms.create_key()


def test_keys_under_another_domain_key_go_on(harness: Harness) -> None:
    """A next domain key that is lost is reported, and makes nothing unavailable."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    lost = harness.run(domain_key(harness, DomainKeyState.NEXT)).domain_key_id
    harness.run(harness.components.token.destroy(lost))
    for _ in range(2):
        assert reconciled(harness).domain_keys_missing == [lost]
    assert state_of(kms, key_id) == "Enabled"
    kms.encrypt(KeyId=key_id, Plaintext=b"x")


def test_before_reconcile_finds_it(harness: Harness) -> None:
    """A daemon that has lost the domain key in between refuses what it has not unwrapped, so that it is tried again."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    lost = harness.run(domain_key(harness, DomainKeyState.CURRENT)).domain_key_id
    harness.run(harness.components.token.destroy(lost))
    harness.restart()
    kms = harness.client()
    assert code_of(kms.decrypt, CiphertextBlob=blob) == "KeyUnavailableException"
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "KeyUnavailableException"
    assert reconciled(harness).domain_keys_missing == [lost]


# --- ceremonies beside reconcile --------------------------------------------------------------------


class Beside:
    """The token; something happens between its listing and the next look at the database."""

    def __init__(self, token: Any, act: Callable[[], Awaitable[object]]) -> None:
        self._token, self._act = token, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._token, name)

    async def list_objects(self) -> Any:
        """As `kmsd.ports.Token`."""
        found = await self._token.list_objects()
        await self._act()
        return found


def test_a_domain_key_is_made_meanwhile(harness: Harness) -> None:
    """It is not taken for a lost one: its keys stay available."""
    made = harness.run(domain_key(harness, DomainKeyState.NEXT))
    rows = Rows(harness.config.database)
    (row,) = rows.select("SELECT * FROM domain_key WHERE domain_key_id = ?", made.domain_key_id)

    class Unlisted(Beside):
        async def list_objects(self) -> Any:
            return [one for one in await super().list_objects() if one.object_id != made.domain_key_id]

    async def make() -> None:
        rows.replay({"domain_key": [row]})

    rows.change("DELETE FROM domain_key WHERE domain_key_id = :id", id=made.domain_key_id)
    report = reconciled(harness, Unlisted(harness.components.token, make))
    assert report == ReconcileReport()
    assert not harness.run(domain_key(harness, DomainKeyState.NEXT)).is_missing
    assert reconciled(harness) == ReconcileReport()


def test_a_domain_key_is_destroyed_meanwhile(harness: Harness) -> None:
    """By its command: that is no loss, and raises no alarm."""
    going = harness.run(domain_key(harness, DomainKeyState.NEXT))
    components = harness.components

    class Unlisted(Beside):
        async def list_objects(self) -> Any:
            return [one for one in await super().list_objects() if one.object_id != going.domain_key_id]

    async def destroy() -> None:
        await components.token.destroy(going.domain_key_id)
        async with components.store.write() as transaction:
            await transaction.set_domain_key_state(
                going.domain_key_id, DomainKeyState.NEXT, DomainKeyState.DESTROYED, harness.clock.now()
            )

    assert reconciled(harness, Unlisted(components.token, destroy)) == ReconcileReport()
    assert not harness.run(domain_key(harness, DomainKeyState.DESTROYED)).is_missing
