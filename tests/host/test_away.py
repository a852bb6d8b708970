"""Token and data folder that come later than the host: the service waits, says so, and serves when they are there.

`KMSD_TEST_AWAY_SECONDS` is how long they are away.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from tests.host.knocking import CLIENTS, Knocking
from tests.host.service import CKR_TOKEN_NOT_PRESENT, Service
from tests.support.polling import until

AWAY_SECONDS = float(os.environ.get("KMSD_TEST_AWAY_SECONDS", "4"))
DISK = "/srv/disk"


def away(service: Service, key_id: str, missing: str, comes_back: Callable[[], object]) -> None:
    """Boot without `missing`, with clients that knock, and let it come back: nobody does more, and they are served."""
    host = service.host
    host.boot()
    with Knocking(service, key_id) as clients:
        until(lambda: service.get("/healthz")[0] == 200, 60)
        end = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < end:
            assert service.get("/healthz")[0] == 200
            status, body = service.get("/readyz")
            assert status == 503, body
            assert json.loads(body)[missing] != "ok"
        assert clients.total("ok") == 0
        assert clients.total() > CLIENTS
        comes_back()
        begun = time.monotonic()
        service.until_ready()
        print(f"{missing} away for {AWAY_SECONDS:.0f} s: ready {time.monotonic() - begun:.2f} s after its return")
        before = clients.total("ok")
        until(lambda: clients.total("ok") >= before + 5 * CLIENTS)
        print(f"the clients' answers: {dict(clients.answers)}")
    assert clients.unfit() == {}
    for unit in ("kmsd.service", "kmsd.socket"):
        assert host.unit(unit, "ActiveState") == "active"


def test_a_token_that_comes_later_than_the_host(service: Service) -> None:
    """`/healthz` 200, `/readyz` 503, errors that clients try again after; no restart, and service after its return."""
    host = service.host
    host.boot()
    service.until_ready()
    key_id = service.create_key()
    host.power_off()
    service.shim.gone(CKR_TOKEN_NOT_PRESENT)
    away(service, key_id, "token", lambda: service.shim.gone(0))
    assert host.unit("kmsd.service", "NRestarts") == "0"


def test_a_data_folder_that_is_mounted_later_than_the_host(service: Service) -> None:
    """The same for a database that is not there yet; nothing is made in the empty folder that hides later."""
    host = service.host
    host.boot()
    service.until_ready()
    key_id = service.create_key()
    host.run(f"systemctl stop kmsd.socket kmsd.service && mv /var/lib/kmsd {DISK}")
    host.run("install -d -o kmsd -g kmsd -m 0700 /var/lib/kmsd")
    host.power_off()
    away(service, key_id, "store", lambda: host.run(f"mount --bind {DISK} /var/lib/kmsd"))
    assert "kmsd.sqlite" not in host.run("umount --lazy /var/lib/kmsd && ls -A /var/lib/kmsd").stdout
