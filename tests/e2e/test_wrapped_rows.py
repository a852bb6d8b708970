"""Wrapped material in a daemon of several processes: what its commands find, and what its workers forget."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.daemon import Daemon, free_port, provisioned
from tests.support.key_import import external_key, parameters
from tests.support.polling import until
from tests.support.wrapped_rows import Rows

WORKERS = 2


class Watched:
    """A daemon that runs, its database, and its page of metrics."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.daemon, self.port = daemon, port
        self.rows = Rows(daemon.data / "kmsd.sqlite")

    def held(self) -> int:
        """Unwrapped keys in all workers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            found = re.findall(r"^kmsd_token_held_keys\S* (\S+)$", page.read().decode(), re.MULTILINE)
        return round(sum(map(float, found)))

    def restart(self) -> None:
        """Let all workers forget what they hold. The page of metrics is up to a second behind them."""
        self.daemon.stop()
        self.daemon.start()
        until(lambda: self.held() == 0)

    def by_all_workers(self, act: Callable[[Any], object], held: int) -> None:
        """Repeat an act, on connections of their own, until so many keys are held."""

        def try_it() -> bool:
            act(self.daemon.client())
            return self.held() == held

        until(try_it, 60, otherwise=lambda: f"{self.held()} keys are held\n{self.daemon.log()}")


@pytest.fixture(scope="module", name="watched")
def _watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    port = free_port()
    extra = f'[metrics]\naddress = "127.0.0.1:{port}"\n'
    folder = tmp_path_factory.mktemp("daemon")
    with provisioned(folder, workers=WORKERS, extra=extra, custody="wrapped") as daemon:
        daemon.start()
        yield Watched(daemon, port)
        daemon.cli("check")


def test_commands_find_a_changed_row(watched: Watched) -> None:
    """`kmsd check` and `kmsd jobs run reconcile` name the material and end with an alarm; so do log and trail."""
    daemon, rows, kms = watched.daemon, watched.rows, watched.daemon.client()
    mine, other = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    (mine_id,), (other_id,) = rows.material_ids(mine), rows.material_ids(other)
    with rows.written({**rows.wrapped(other_id), "material_id": mine_id}):
        checked = daemon.cli("check", check=False)
        assert checked.returncode == 2
        (finding,) = [line for line in checked.stdout.decode().splitlines() if "were changed by" in line]
        assert finding.startswith("FAIL")
        assert mine_id.hex() in finding
        assert other_id.hex() not in finding
        run = daemon.cli("jobs", "run", "reconcile", check=False)
        assert (run.returncode, run.stdout) == (1, f"row of wrapped material CHANGED: {mine_id.hex()}\n".encode())
        recorded = [record for record in daemon.audit_records() if record["eventName"] == "RunJob"]
        assert recorded[-1]["responseElements"]["tampered"] == [mine_id.hex()]
        daemon.stop()
        daemon.start()
        assert code_of(daemon.client().encrypt, KeyId=mine, Plaintext=b"x") == "KMSInternalException"
        assert mine in [event.get("key") for event in daemon.events("wrapped_material_tampered")]
        assert code_of(daemon.client().encrypt, KeyId=other, Plaintext=b"x") == ""
    assert "rows under domain key" in daemon.cli("check").stdout.decode()
    assert daemon.cli("jobs", "run", "reconcile").stdout == b"reconcile: there was nothing to do\n"


def due_now(watched: Watched, key_id: str) -> None:
    """Delete a key, whose seven days are over, by a further process."""
    watched.daemon.client().schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    watched.rows.change("UPDATE key SET deletion_at = created_at WHERE key_id = :key", key=key_id)
    assert key_id in watched.daemon.cli("jobs", "run", "deletion").stdout.decode()


def lose(watched: Watched, key_id: str) -> None:
    """Delete the material, by one of the workers."""
    watched.daemon.client().delete_imported_key_material(KeyId=key_id)


def expire(watched: Watched, key_id: str) -> None:
    """Destroy the material, whose time is over, by a further process."""
    watched.rows.change("UPDATE imported_material SET valid_to = imported_at WHERE key_id = :key", key=key_id)
    watched.rows.change("UPDATE key SET valid_to = created_at WHERE key_id = :key", key=key_id)
    assert key_id in watched.daemon.cli("jobs", "run", "expiry").stdout.decode()


@pytest.mark.parametrize("end", [due_now, lose, expire], ids=["deletion", "deletion of material", "expiry"])
def test_all_workers_forget(watched: Watched, end: Callable[[Watched, str], None]) -> None:
    """No worker keeps the unwrapped key beyond its next request."""
    watched.restart()
    kms = watched.daemon.client()
    if end is due_now:
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    else:
        key_id = external_key(kms)
        members = parameters(kms, key_id).members(os.urandom(32))
        if end is expire:
            members |= {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": time.time() + 86400}
        kms.import_key_material(**members)
    watched.by_all_workers(lambda kms: kms.encrypt(KeyId=key_id, Plaintext=b"x"), WORKERS)
    end(watched, key_id)
    watched.by_all_workers(lambda kms: kms.generate_random(NumberOfBytes=1), 0)
