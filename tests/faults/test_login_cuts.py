"""kill -9 during a login to SoftHSM2, which rewrites the token's own file in place: no token is lost.

At each write to that file and its copies, by a preloaded library; and at random moments of processes that log in
without a pause. `KMSD_TEST_LOGIN_KILLS` sets the number of these.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kmsd.adapters.pkcs11.softhsm_token_copy import BEFORE_LOGIN, COPY, DAMAGED, NAME
from kmsd.domain.material import Algorithm
from tests.faults.login_cuts import AAD, Case, Report
from tests.support.softhsm_files import change_pin, token_object
from tests.support.tokens import PIN, TokenPlace, softhsm
from tests.support.write_cuts import Dying

KILLS = int(os.environ.get("KMSD_TEST_LOGIN_KILLS", "8"))
NEW_PIN = b"another-pin-5678"
REPOSITORY = Path(__file__).parents[2]
XAES = Algorithm.XAES_256_GCM

log = logging.getLogger(__name__)

LOGINS = """
import asyncio, sys, time
from pathlib import Path
from kmsd.adapters.pkcs11 import login
from kmsd.adapters.pkcs11.module import Module
from kmsd.adapters.pkcs11.settings import TokenSettings

module, label, lock, objects = sys.argv[1:5]
settings = TokenSettings(
    module=Path(module), pin=sys.stdin.buffer.read(), label=label, start_lock=Path(lock), token_dir_sync=Path(objects)
)
loaded = Module.acquire(settings.module, None)
while True:
    opened = login.start(loaded, settings, time.monotonic, loaded.epoch or None, tries=1)
    opened.connection.discard()
    opened.close()
    print("in", flush=True)
"""


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[TokenPlace]:
    with softhsm(tmp_path / "site") as found:
        yield found


async def sealed_keys(place: TokenPlace) -> dict[str, bytes]:
    """Fresh keys, by the hex of their ids, and a text that each has sealed; no copy is made."""
    found = {}
    async with place.open(token_dir_sync=None) as token:
        for _ in range(3):
            key = secrets.token_bytes(16)
            await token.generate_key(key, XAES)
            found[key.hex()] = await token.encrypt(key, XAES, b"text", AAD)
    return found


async def open_all(place: TokenPlace, keys: dict[str, bytes]) -> None:
    """Log in; every key is there."""
    async with place.open() as token:
        for key, sealed in keys.items():
            assert await token.decrypt(bytes.fromhex(key), XAES, sealed, AAD) == b"text"


def cuts(place: TokenPlace, keys: dict[str, bytes], pin: bytes, folder: Path) -> Report:
    """What `tests.faults.login_cuts` reports of the token as it is now."""
    assert place.objects is not None
    template, described = folder / "template", folder / "case.json"
    shutil.copytree(place.objects, template)
    lock = place.folder / "start.lock"
    case = Case(str(place.module), place.label, pin, str(place.objects), str(template), str(lock), keys)
    described.write_bytes(msgspec.json.encode(case))
    command = [sys.executable, "-m", "tests.faults.login_cuts", str(described)]
    environment = {**os.environ, **Dying(folder).environment(NAME)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(done.stdout.splitlines()[-1], type=Report)
    log.info("%s", report)
    return report


@pytest.mark.timeout(600)
def test_the_first_login(place: TokenPlace, tmp_path: Path) -> None:
    """Before, amid and after each write, of a token that has no copy yet."""
    report = cuts(place, asyncio.run(sealed_keys(place)), PIN, tmp_path)
    assert report.wrong == []
    assert report.emptied > 0


@pytest.mark.timeout(600)
def test_a_further_login(place: TokenPlace, tmp_path: Path) -> None:
    """Of a token that has a copy."""
    keys = asyncio.run(sealed_keys(place))
    asyncio.run(open_all(place, keys))
    report = cuts(place, keys, PIN, tmp_path)
    assert report.wrong == []
    assert report.emptied > 0


@pytest.mark.timeout(600)
def test_the_first_login_by_another_pin(place: TokenPlace, tmp_path: Path) -> None:
    """The PIN was changed by another program, and the copy has the old one. The new one opens what is left."""
    keys = asyncio.run(sealed_keys(place))
    asyncio.run(open_all(place, keys))
    asyncio.run(change_pin(place, NEW_PIN))
    report = cuts(place, keys, NEW_PIN, tmp_path)
    assert report.wrong == []
    assert report.emptied > 0


@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes long; set KMSD_TEST_SLOW")
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_while_it_is_restored(place: TokenPlace, tmp_path: Path) -> None:
    """Of a token whose file was emptied, and not restored yet."""
    keys = asyncio.run(sealed_keys(place))
    asyncio.run(open_all(place, keys))
    token_object(place).write_bytes(b"")
    report = cuts(place, keys, PIN, tmp_path)
    assert report.wrong == []
    assert report.emptied > 0


@pytest.mark.timeout(60 + 10 * KILLS)
def test_at_random_moments(place: TokenPlace) -> None:
    """Of a process that does nothing but log in. Every key is there after each kill."""
    keys, chance = asyncio.run(sealed_keys(place)), random.Random(7)  # noqa: S311
    arguments = map(str, (place.module, place.label, place.folder / "start.lock", place.objects))
    command = [sys.executable, "-c", LOGINS, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(KILLS):
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(place.pin)
        process.stdin.close()
        assert process.stdout.readline() == b"in\n"
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        asyncio.run(open_all(place, keys))
    folder = token_object(place).parent
    names = [path.name for path in folder.iterdir()]
    log.info("%d kills: %d emptied the file", KILLS, sum(name.startswith(DAMAGED) for name in names))
    assert COPY in names
    assert BEFORE_LOGIN not in names
