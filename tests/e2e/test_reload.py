"""SIGHUP and SIGTERM under load: no request fails, and what cannot be taken over is refused in words.

`KMSD_TEST_RELOADS` sets how often the daemon is reloaded under load (2 by default, 20 for a release), over plain HTTP
and over TLS (1); `KMSD_TEST_CONNECTIONS` the number of connections (16; 64 for a release).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench import load
from tests.support.certificates import self_signed
from tests.support.daemon import Daemon, eventually, provisioned
from tests.support.fake_systemd import Unit
from tests.support.http_load import Account, Load, Plan

RELOADS = int(os.environ.get("KMSD_TEST_RELOADS", "2"))
RELOADS_OVER_TLS = int(os.environ.get("KMSD_TEST_RELOADS", "1"))
CONNECTIONS = int(os.environ.get("KMSD_TEST_CONNECTIONS", "16"))
MAX_SECONDS = 60 + 10 * RELOADS
SERVICE = Path(__file__).parents[2] / "systemd" / "kmsd.service"


def events(daemon: Daemon, name: str) -> list[dict[str, object]]:
    """Its log lines of one event; a line that is being written counts when it is whole."""
    whole = daemon.log().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def start(daemon: Daemon) -> None:
    """Until all workers serve."""
    daemon.start()
    eventually(lambda: bool(events(daemon, "ready")), daemon)


def hang_up(daemon: Daemon, event: str = "reloaded") -> dict[str, object]:
    """Send SIGHUP; the log line that says what came of it."""
    before = len(events(daemon, event))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(events(daemon, event)) > before, daemon)
    return events(daemon, event)[-1]


def patient(daemon: Daemon) -> None:
    """As long as in production, on a host where clients may have to wait for the processor."""
    daemon.config.write_text(daemon.config.read_text().replace("drain_seconds = 0.1\n", ""))


def all_connected(daemon: Daemon) -> bool:
    """True if the workers that serve now have accepted every connection of the load."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[1].endswith(f":{daemon.port:04X}")]
    established, listening = "01", "0A"
    # proc(5), /proc/net/tcp: rx_queue of a listening socket is how many connections nobody has accepted yet.
    waiting = sum(int(row[4].partition(":")[2], 16) for row in ours if row[3] == listening)
    return sum(row[3] == established for row in ours) >= CONNECTIONS and not waiting


def new_key(daemon: Daemon) -> str:
    """A key of the administrator's; the daemon runs."""
    client = daemon.client()
    key_id: str = client.create_key()["KeyMetadata"]["KeyId"]
    client.close()
    return key_id


def encryption(daemon: Daemon, key_id: str, endpoint: str = "") -> bytes:
    """A signed request to encrypt under a key."""
    return load.signed(endpoint or daemon.endpoint, daemon.admin, "Encrypt", {"KeyId": key_id, "Plaintext": "AAAA"})


def show(what: str, account: Account) -> None:
    """The figures, for a release's notes."""
    print(f"{what}, {CONNECTIONS} connections: {account}")  # noqa: T201


def recorded(daemon: Daemon) -> int:
    """Encryptions in the audit trail."""
    return sum(record.get("eventName") == "Encrypt" for record in daemon.audit_records())


def with_tls(daemon: Daemon, folder: Path) -> Path:
    """Have the daemon speak TLS; the authority to trust."""
    certificate, key = self_signed(folder)
    lines = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n[token]'
    daemon.config.write_text(daemon.config.read_text().replace("[token]", lines))
    return certificate


@pytest.mark.timeout(MAX_SECONDS + 120)
def test_reload_under_load(tmp_path: Path) -> None:
    """No request fails, every worker is another, and each answer is in the trail, which holds."""
    with provisioned(tmp_path, workers=2) as daemon:
        start(daemon)
        with Load(Plan(daemon.endpoint, encryption(daemon, new_key(daemon)), CONNECTIONS, MAX_SECONDS)) as running:
            eventually(lambda: all_connected(daemon), daemon)
            first_workers = set(daemon.workers())
            for _ in range(RELOADS):
                assert hang_up(daemon)["unreplaced"] == 0
            # The clients go on until each has heard from the workers before that they close.
            eventually(lambda: first_workers.isdisjoint(daemon.workers()), daemon)
            account = running.result()
        show(f"{RELOADS} reloads", account)
        assert (account.failures, account.refused) == (Counter(), 0)
        assert account.closed >= CONNECTIONS
        eventually(lambda: len(daemon.workers()) == 2, daemon)
        assert daemon.stop() == 0
        assert recorded(daemon) == account.answered
        daemon.cli("audit", "verify")


@pytest.mark.timeout(MAX_SECONDS + 120)
def test_reload_under_load_over_tls(tmp_path: Path) -> None:
    """As over plain HTTP; and the certificate is another afterwards, the first one's clients noticing nothing."""
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.start()
        key_id = new_key(daemon)
        daemon.stop()
        first = with_tls(daemon, tmp_path)
        endpoint = daemon.endpoint.replace("http:", "https:")
        daemon.start(ready=False)
        eventually(lambda: answers_tls(daemon), daemon)
        # The clients trust both, as one does when an authority is exchanged.
        trusted = tmp_path / "trusted.pem"
        (tmp_path / "second").mkdir()
        second, second_key = self_signed(tmp_path / "second", "kmsd test 2")
        trusted.write_bytes(first.read_bytes() + second.read_bytes())
        plan = Plan(endpoint, encryption(daemon, key_id, endpoint), CONNECTIONS, MAX_SECONDS, str(trusted))
        before = served_certificate(daemon)
        with Load(plan) as running:
            eventually(lambda: all_connected(daemon), daemon)
            first_workers = set(daemon.workers())
            first.write_bytes(second.read_bytes())
            second_key.replace(tmp_path / "key.pem")
            for _ in range(RELOADS_OVER_TLS):
                assert hang_up(daemon)["unreplaced"] == 0
            # The clients go on until each has heard from the workers before that they close.
            eventually(lambda: first_workers.isdisjoint(daemon.workers()), daemon)
            account = running.result()
        show(f"{RELOADS_OVER_TLS} reloads over TLS", account)
        assert (account.failures, account.refused) == (Counter(), 0)
        assert account.closed >= CONNECTIONS
        assert before != served_certificate(daemon) == second.read_text().strip()


def answers_tls(daemon: Daemon) -> bool:
    """Whether somebody shakes hands on its port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", daemon.port), timeout=1) as plain:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain):
            return True
    return False


def served_certificate(daemon: Daemon) -> str:
    """What `openssl s_client` is shown."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-showcerts"]
    shown = subprocess.run(command, input=b"", capture_output=True, check=True, timeout=30).stdout.decode()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return shown[shown.index(begin) : shown.index(end) + len(end)]


def test_stop_under_load(tmp_path: Path) -> None:
    """Each connection has its last answer, and the daemon ends."""
    with provisioned(tmp_path, workers=2) as daemon:
        patient(daemon)
        daemon.start()
        plan = Plan(daemon.endpoint, encryption(daemon, new_key(daemon)), CONNECTIONS, 30, reconnect=False)
        with Load(plan) as running:
            time.sleep(1)
            assert daemon.stop() == 0
            account = running.result()
        show("stop", account)
        assert account.failures == Counter()
        assert account.closed == CONNECTIONS
        assert recorded(daemon) == account.answered


def test_restart_under_load_with_a_passed_socket(tmp_path: Path) -> None:
    """The socket is held meanwhile: a restart, which takes over everything, costs clients time and no request."""
    with provisioned(tmp_path, workers=2) as daemon:
        patient(daemon)
        paths = {
            "/opt/kmsd/bin/kmsd": f"{sys.executable} -m kmsd",
            "/etc/kmsd/kmsd.toml": str(daemon.config),
            "/etc/kmsd/credentials/pin": str(tmp_path / "pin"),
            "/etc/kmsd/credentials/tls-key": str(tmp_path / "pin"),
        }
        unit = Unit(SERVICE, tmp_path, daemon.port, paths)
        try:
            unit.start()
            with Load(Plan(daemon.endpoint, encryption(daemon, new_key(daemon)), CONNECTIONS, 60)) as running:
                time.sleep(0.5)
                unit.reload()
                assert unit.stop() == 0
                unit.start()
                time.sleep(0.5)
                account = running.result()
            show("reload and restart with a passed socket", account)
            assert (account.failures, account.refused) == (Counter(), 0)
        finally:
            unit.close()


def test_clients_that_pause(tmp_path: Path) -> None:
    """A connection that rests when the reload comes brings its next request to the worker that it knows."""
    with provisioned(tmp_path, workers=1) as daemon:
        daemon.start()
        plan = Plan(daemon.endpoint, encryption(daemon, new_key(daemon)), 8, 60, pause=1.0)
        with Load(plan) as running:
            eventually(lambda: recorded(daemon) >= 8, daemon)
            assert hang_up(daemon)["unreplaced"] == 0
            eventually(lambda: len(daemon.workers()) == 1, daemon)
            account = running.result()
        assert account.failures == Counter()
        assert account.closed == 8


def test_what_reload_takes_over(tmp_path: Path) -> None:
    """Limits and the number of workers change, in both directions; the log names what changed."""
    with provisioned(tmp_path, workers=1) as daemon:
        daemon.start()
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("workers = 1", "workers = 2") + "[limits]\nkeys_per_account = 1\n")
        assert hang_up(daemon)["changed"] == ["limits.keys_per_account", "workers"]
        eventually(lambda: len(daemon.workers()) == 2, daemon)
        client = daemon.client()
        client.create_key()
        with pytest.raises(client.exceptions.LimitExceededException):
            client.create_key()
        client.close()
        daemon.config.write_text(text)
        hang_up(daemon)
        eventually(lambda: len(daemon.workers()) == 1, daemon)
        assert daemon.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("workers = 1", "workers = nine", "kmsd.toml"),
        ("workers = 1", "workers = 0", "workers must be 1 to 64"),
        ("workers = 1", "wrokers = 1", "wrokers"),
        ('[listen]\naddress = "127.0.0.1:', '[listen]\naddress = "127.0.0.2:', "listen.address changed, which needs"),
        ('region = "us-east-1"', 'region = "eu-west-1"', "region changed, which needs a restart"),
        ('label = "kmsd-test"', 'label = "other"', "token.label changed, which needs a restart"),
        ("[token]", 'tls_certificate = "/nowhere"\ntls_key = "/nowhere"\n[token]', "/nowhere cannot be read"),
    ],
)
def test_what_reload_refuses(refusing: Daemon, old: str, new: str, says: str) -> None:
    """One clear line, and everything goes on as it was."""
    text = refusing.config.read_text()
    assert old in text
    workers = refusing.workers()
    refusing.config.write_text(text.replace(old, new))
    try:
        line = hang_up(refusing, "reload_refused")
        assert says in str(line["detail"])
        assert "Traceback" not in refusing.log()
        assert refusing.workers() == workers
    finally:
        refusing.config.write_text(text)


def test_a_worker_that_dies_while_the_file_is_broken(refusing: Daemon) -> None:
    """Comes back with what was accepted last."""
    text = refusing.config.read_text()
    refusing.config.write_text("broken")
    try:
        hang_up(refusing, "reload_refused")
        workers = refusing.workers()
        os.kill(workers[0], signal.SIGKILL)
        eventually(lambda: refusing.workers() not in ([], workers) and refusing.get("/readyz")[0] == 200, refusing)
    finally:
        refusing.config.write_text(text)


@pytest.fixture(name="refusing", scope="module")
def _refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("refusing"), workers=1) as daemon:
        daemon.start()
        yield daemon


def test_a_key_that_does_not_fit_its_certificate(tmp_path: Path) -> None:
    """Half of a renewal is refused by name, at the start and at reload; the old certificate goes on."""
    with provisioned(tmp_path, workers=1) as daemon:
        certificate = with_tls(daemon, tmp_path)
        daemon.start(ready=False)
        eventually(lambda: answers_tls(daemon), daemon)
        before = served_certificate(daemon)
        (tmp_path / "second").mkdir()
        second, second_key = self_signed(tmp_path / "second", "kmsd test 2")
        certificate.write_bytes(second.read_bytes())
        detail = str(hang_up(daemon, "reload_refused")["detail"])
        assert f"{certificate} with {tmp_path / 'key.pem'}" in detail
        assert "/proc" not in detail
        assert served_certificate(daemon) == before
        second_key.replace(tmp_path / "key.pem")
        hang_up(daemon)
        assert served_certificate(daemon) != before
        daemon.stop()
        (tmp_path / "key.pem").write_text("no key")
        done = daemon.cli("serve", check=False)
        assert done.returncode == 78
        assert str(tmp_path / "key.pem") in done.stderr.decode()
        assert b"Traceback" not in done.stderr


def test_a_wrong_pin_at_reload_is_offered_once(tmp_path: Path) -> None:
    """The old workers go on; when one dies, nobody offers the PIN again, until a reload finds the right one."""
    with provisioned(tmp_path, workers=2) as daemon:
        start(daemon)
        right = (tmp_path / "pin").read_bytes()
        (tmp_path / "pin").write_bytes(b"wrong-pin-1234")
        hang_up(daemon, "reload_refused")
        assert daemon.get("/readyz")[0] == 200
        (one, other) = daemon.workers()
        os.kill(one, signal.SIGKILL)
        eventually(lambda: bool(events(daemon, "worker_not_started")), daemon)
        assert daemon.workers() == [other]
        assert len(events(daemon, "token_pin_refused")) == 1
        (tmp_path / "pin").write_bytes(right)
        hang_up(daemon)
        eventually(lambda: len(daemon.workers()) == 2 and other not in daemon.workers(), daemon)
        assert daemon.get("/readyz")[0] == 200
