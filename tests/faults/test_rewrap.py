"""Rewrapping while clients read, and killed at any time: nothing is lost, nothing is half, and the old key can go."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, provisioned
from tests.support.faulty_token import bent_daemon
from tests.support.key_ceremonies import act, listed
from tests.support.many_keys import make_keys, unopened
from tests.support.polling import until
from tests.support.shim import Function, Shim, compiler
from tests.support.wrapped_rows import Rows
from tests.support.write_cuts import Dying, Moment

KILLS = int(os.environ.get("KMSD_TEST_REWRAP_KILLS", "2"))
"""At random moments."""
WHOLE = "KMSD_TEST_EVERY_CALL" in os.environ
"""Each call and each write of the job: half an hour."""
MANY, FEW = 2000, 7
"""Keys that are rewrapped in twenty transactions, and in one."""
CALLS = (
    *(Function.WRAP_KEY, Function.UNWRAP_KEY, Function.SIGN, Function.DESTROY_OBJECT),
    *(Function.GENERATE_KEY, Function.GENERATE_KEY_PAIR, Function.CREATE_OBJECT, Function.SET_ATTRIBUTE_VALUE),
)
"""Of the job, and of the proof of its domain keys."""
SOME = ((Function.WRAP_KEY, -FEW), (Function.UNWRAP_KEY, -3), (Function.SIGN, -1))
"""In the default tier, counted from the last call of each."""
STRIDE = 1 if WHOLE else 20
KILLED = -signal.SIGKILL

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow


class Scene:
    """A daemon with keys, a blob of each, and two domain keys."""

    def __init__(self, daemon: Daemon, count: int) -> None:
        self.daemon, self.rows = daemon, Rows(daemon.data / "kmsd.sqlite")
        self.made = asyncio.run(make_keys(daemon, count))

    def left(self) -> int:
        """Materials under the retiring domain key; the counts of the database are right."""
        rows = self.rows.select(
            "SELECT state, coalesce(materials, 0) AS shown, (SELECT count(*) FROM wrapped_material AS one "
            "WHERE one.domain_key_id = domain_key.domain_key_id) AS materials "
            "FROM domain_key LEFT JOIN domain_key_count USING (domain_key_id)"
        )
        assert [row["shown"] for row in rows] == [row["materials"] for row in rows]
        assert sum(row["materials"] for row in rows) >= len(self.made)
        return sum(row["materials"] for row in rows if row["state"] == "retiring")

    def retire(self) -> None:
        """Let the two domain keys change places, as after a rotation to the other one, unless something is left."""
        if self.left() == 0:
            states = {row["state"]: row["domain_key_id"] for row in self.rows.select("SELECT * FROM domain_key")}
            retired = {"state": "retiring", "id": states["current"]}
            current = {"state": "current", "id": states.get("retiring") or states["next"]}
            self.rows.change("UPDATE domain_key SET state = :state WHERE domain_key_id = :id", retired, current)
        assert self.left() > 0

    def job(self) -> subprocess.Popen[bytes]:
        """`kmsd jobs run rewrap`."""
        command = [sys.executable, "-m", "kmsd", "--config", str(self.daemon.config), "jobs", "run", "rewrap"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def verify(self) -> None:
        """Every key opens its blob."""
        assert asyncio.run(unopened(self.daemon, self.made)) == []

    def finish(self) -> None:
        """All is rewrapped; the retired domain key is destroyed, and every key opens its blob."""
        self.daemon.cli("jobs", "run", "rewrap")
        assert self.left() == 0
        retired = next(one for one, (state, _, _) in listed(self.daemon).items() if state == "retiring")
        self.daemon.cli("backup", "--without-token", str(self.daemon.folder / "backups/"))
        self.daemon.cli("domain-key", "destroy", retired)
        assert listed(self.daemon)[retired][0] == "destroyed"


@pytest.fixture(name="many")
def _many(tmp_path: Path) -> Iterator[Scene]:
    with provisioned(tmp_path, workers=2, custody="wrapped") as daemon:
        yield Scene(daemon, MANY)


@dataclass
class Reading:
    """What clients were answered meanwhile."""

    calls: int
    failures: list[BaseException]

    def goes_on(self, calls: int = 50) -> None:
        """Wait for so many more answers."""
        enough = self.calls + calls
        until(lambda: self.calls >= enough or bool(self.failures))


@contextmanager
def reading(daemon: Daemon, made: Sequence[bytes]) -> Iterator[Reading]:
    """Clients that decrypt, compute MACs, sign and make keys until the end of the block."""
    found, over, chance = Reading(0, []), threading.Event(), random.Random(20261130)  # noqa: S311 (no secrets)
    uses = [lambda kms: kms.decrypt(CiphertextBlob=chance.choice(made)), *_other_uses(daemon.client()), _make_key]

    def work(use: Callable[[Any], object]) -> None:
        kms = daemon.client(read_timeout=60)
        while not over.is_set():
            try:
                use(kms)
            except BaseException as exc:  # noqa: BLE001 (carried to the test)
                found.failures.append(exc)
                return
            found.calls += 1

    threads = [threading.Thread(target=work, args=(use,)) for use in uses]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert found.failures == []


def _other_uses(kms: Any) -> Iterator[Callable[[Any], object]]:
    mac = {"KeyId": _key(kms, "HMAC_256", "GENERATE_VERIFY_MAC"), "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    tag = kms.generate_mac(**mac)["Mac"]
    yield lambda kms: kms.verify_mac(**mac, Mac=tag)
    signed = {"KeyId": _key(kms, "ECC_NIST_P256", "SIGN_VERIFY"), "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    yield lambda kms: kms.verify(**signed, Signature=kms.sign(**signed)["Signature"])


def _key(kms: Any, spec: str, usage: str) -> str:
    return str(kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])


def _make_key(kms: Any) -> None:
    """Make a key, use it, rotate it, and use both materials."""
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blobs = [kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"]]
    kms.rotate_key_on_demand(KeyId=key_id)
    blobs.append(kms.encrypt(KeyId=key_id, Plaintext=b"new")["CiphertextBlob"])
    assert [kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in blobs] == [b"old", b"new"]


def test_clients_beside_it_notice_nothing(many: Scene) -> None:
    """Through two rotations, the job, and the destruction of what has retired; nor does a new daemon."""
    daemon = many.daemon
    daemon.start()
    with reading(daemon, many.made) as clients:
        for _ in range(2):
            act(daemon, "create")
            clients.goes_on()
            daemon.cli("domain-key", "rotate")
            clients.goes_on()
            many.finish()
            clients.goes_on()
    daemon.stop()
    many.verify()
    daemon.cli("check")


@pytest.mark.timeout(300 + 20 * KILLS)
def test_killed_at_random(many: Scene) -> None:
    """Again and again, while clients read; the next run goes on with what is left."""
    daemon, chance, killed, turns = many.daemon, random.Random(20261130), 0, 0  # noqa: S311 (moments, no secrets)
    daemon.start()
    with reading(daemon, many.made) as clients:
        while killed < KILLS:
            turns += 1
            assert turns < 20 * KILLS
            many.retire()
            before = many.left()
            job = many.job()
            until(lambda before=before, job=job: many.left() < before or job.poll() is not None)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.05))
            job.kill()
            killed += job.wait() == KILLED
            clients.goes_on(5)
        many.finish()
    daemon.stop()
    many.verify()
    log.info("%d kills in %d turns, among %d calls", killed, turns, clients.calls)


@pytest.fixture(name="few")
def _few(tmp_path: Path) -> Iterator[tuple[Scene, Shim]]:
    if compiler() is None:
        pytest.skip("what kills needs a C compiler")
    with bent_daemon(tmp_path / "daemon", custody="wrapped") as (daemon, shim):
        yield Scene(daemon, FEW), shim


@pytest.mark.timeout(7200 if WHOLE else 600)
def test_killed_at_each_call_of_the_token(few: tuple[Scene, Shim]) -> None:
    """Right before and right after each."""
    (scene, shim), deaths = few, 0
    scene.retire()
    shim.reset()
    assert scene.job().wait() == 0
    last = {function: shim.calls(function) for function in CALLS}
    every = [(function, call) for function in CALLS for call in range(1, last[function] + 1)]
    wanted = every if WHOLE else [(function, last[function] + 1 + call) for function, call in SOME]
    assert set(wanted) <= set(every)
    for function, call in wanted:
        for unworked in (True, False):
            scene.retire()
            shim.reset()
            shim.die(function, call=call, unworked=unworked)
            deaths += scene.job().wait() == KILLED
            shim.reset()
            scene.verify()
    log.info("%d deaths at %d calls", deaths, len(wanted))
    assert deaths >= 2 * len(SOME)
    scene.retire()
    scene.finish()
    scene.verify()


@pytest.mark.timeout(7200 if WHOLE else 600)
def test_killed_at_each_write_to_the_database(
    few: tuple[Scene, Shim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, amid and after each."""
    (tmp_path / "library").mkdir()
    (scene, _), dying, deaths = few, Dying(tmp_path / "library"), 0
    for moment in Moment:
        number, status = 1, KILLED
        while status == KILLED:
            scene.retire()
            with monkeypatch.context() as patch:
                for name, value in dying.environment("kmsd.sqlite", number, moment).items():
                    patch.setenv(name, value)
                status = scene.job().wait()
            assert status in (0, KILLED)
            deaths += status == KILLED
            scene.verify()
            number += STRIDE
    log.info("%d deaths", deaths)
    assert deaths > len(Moment)
    scene.retire()
    scene.finish()
    scene.verify()
