"""Metrics of the daemon as Prometheus sees them: exact, of all workers together, through deaths, under load."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.daemon import Daemon, eventually, free_port, further_section, provisioned
from tests.support.metrics_page import ON_POSTGRESQL, Samples, Watched, of, parse
from tests.support.tokens import another_softhsm

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module", name="watched")
def _watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    port = free_port()
    extra = f'[metrics]\naddress = "127.0.0.1:{port}"\n'
    with provisioned(tmp_path_factory.mktemp("daemon"), workers=2, extra=extra) as daemon:
        daemon.start()
        yield Watched(daemon, port)


def requests(samples: Samples, operation: str, code: str = "OK") -> float:
    """How many were answered so."""
    return of(samples, "kmsd_requests_total", operation=operation, code=code)


def test_known_calls_give_exact_numbers(watched: Watched) -> None:
    """Over connections that both workers serve: each call is counted once, by operation and error, and timed."""
    before = watched.samples()
    key_id = watched.daemon.client().create_key()["KeyMetadata"]["KeyId"]
    for _ in range(20):
        kms = watched.daemon.client()  # a connection of its own
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        for _ in range(2):
            kms.decrypt(CiphertextBlob=blob)
        with pytest.raises(ClientError, match="InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(ClientError, match="NotFoundException"):
        kms.describe_key(KeyId="alias/none")
    watched.daemon.client("sts").get_caller_identity()
    after = watched.samples()
    grown = {
        ("kms", "CreateKey", "OK"): 1,
        ("kms", "Encrypt", "OK"): 20,
        ("kms", "Decrypt", "OK"): 40,
        ("kms", "Decrypt", "InvalidCiphertextException"): 20,
        ("kms", "DescribeKey", "NotFoundException"): 1,
        ("sts", "GetCallerIdentity", "OK"): 1,
    }
    for (service, operation, code), number in grown.items():
        labels = {"service": service, "operation": operation, "code": code}
        assert of(after, "kmsd_requests_total", **labels) - of(before, "kmsd_requests_total", **labels) == number
    total = of(after, "kmsd_requests_total") - of(before, "kmsd_requests_total")
    assert total == sum(grown.values())
    assert of(after, "kmsd_request_seconds_count") - of(before, "kmsd_request_seconds_count") == total
    mean = of(after, "kmsd_request_seconds_sum", operation="Encrypt") / requests(after, "Encrypt")
    assert 0.00005 < mean < 2
    errors = of(before, "kmsd_token_errors_total", call="open")
    found = watched.when("kmsd_token_errors_total", errors + 20, call="open")
    # Beside the 60 texts: the secret of the access key, once for each worker and service.
    opened = of(found, "kmsd_token_seconds_count", call="open") - of(before, "kmsd_token_seconds_count", call="open")
    assert 60 <= opened <= 64
    assert of(found, "kmsd_keys", state="Enabled") == 1
    assert of(found, "kmsd_token_objects", status="missing") == 0
    assert of(found, "kmsd_token_sessions", state="free") > 0
    assert of(found, "kmsd_ready") == 1
    assert (of(found, "kmsd_workers", state="alive"), of(found, "kmsd_workers", state="ready")) == (2, 2)
    watched.when("kmsd_audit_records_total", len(_worker_lines(watched.daemon)))


def _worker_lines(daemon: Daemon) -> list[str]:
    """What workers have written to the trail, but for its files' first lines."""
    lines = [line for path in (daemon.data / "audit").glob("worker-*") for line in path.read_text().splitlines()]
    return [line for line in lines if line.split(" ", 2)[2][:14] not in {'{"kmsd":"open"', '{"kmsd":"start'}]


def test_strangers_make_no_series(watched: Watched) -> None:
    """Names that a client makes up are counted together; nothing that a client sends becomes a label."""
    before = watched.samples()
    secret = "arn-or-key-id-or-secret"
    for number in range(30):
        connection = http.client.HTTPConnection("127.0.0.1", watched.daemon.port, timeout=10)
        connection.request("POST", "/", b"{}", {"X-Amz-Target": f"TrentService.{secret}{number}"})
        connection.getresponse().read()
        connection.close()
    with socket.create_connection(("127.0.0.1", watched.daemon.port)) as raw:
        raw.sendall(b"no http at all\r\n\r\n")
        raw.recv(1000)
    after = watched.samples()
    assert (
        of(after, "kmsd_requests_total", operation="Unknown") - of(before, "kmsd_requests_total", operation="Unknown")
        == 30
    )
    text = watched.text()
    assert secret not in text
    assert watched.daemon.admin.access_key_id not in text
    assert len(after) - len(before) < 30
    watched.when("kmsd_refused_total", 1, reason="MalformedHttpRequestException")


def test_a_killed_worker_takes_no_number_with_it(watched: Watched) -> None:
    """SIGKILL under load: no counter goes back, every answered request is counted, the restart shows."""
    daemon = watched.daemon
    kms = daemon.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    before = watched.samples()
    answered, unsure, stop = [0], [0], threading.Event()

    def load() -> None:
        while not stop.is_set():
            client = daemon.client()
            for _ in range(20):
                try:
                    client.encrypt(KeyId=key_id, Plaintext=b"x")
                    answered[0] += 1
                except Exception:  # noqa: BLE001 (a connection that broke: whether it was counted is open)
                    unsure[0] += 1

    thread = threading.Thread(target=load)
    thread.start()
    seen = before
    for worker in daemon.workers():
        enough = answered[0] + 20
        eventually(lambda enough=enough: answered[0] >= enough, daemon)  # type: ignore[misc]
        os.kill(worker, signal.SIGKILL)
        for _ in range(5):
            now = watched.samples()
            for (name, labels), value in seen.items():
                if name.endswith(("_total", "_count", "_bucket", "_sum")):
                    assert now[name, labels] >= value, (name, labels)
            seen = now
    watched.when("kmsd_worker_starts_total", of(before, "kmsd_worker_starts_total") + 2)
    stop.set()
    thread.join()
    after = watched.when("kmsd_workers", 2, state="ready")
    grown = requests(after, "Encrypt") - requests(before, "Encrypt")
    assert answered[0] <= grown <= answered[0] + unsure[0]
    assert of(after, "kmsd_worker_starts_total") == of(before, "kmsd_worker_starts_total") + 2


def test_a_reload_keeps_the_figures(watched: Watched) -> None:
    """While old and new workers run side by side, and after: nothing is counted twice, nothing goes back."""
    daemon = watched.daemon
    before = watched.samples()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    done, deadline = 0, time.monotonic() + 60
    while of(watched.samples(), "kmsd_worker_starts_total") < of(before, "kmsd_worker_starts_total") + 2:
        daemon.client().list_keys()
        done += 1
        assert time.monotonic() < deadline
    for _ in range(10):
        daemon.client().list_keys()
    after = watched.samples()
    assert requests(after, "ListKeys") - requests(before, "ListKeys") == done + 10
    assert requests(after, "Encrypt") == requests(before, "Encrypt")


def test_figures_of_each_token(tmp_path: Path) -> None:
    """Each token has series of its own. A reload that would add a token is refused, and all workers go on counting."""
    port = free_port()
    extra = f'[metrics]\naddress = "127.0.0.1:{port}"\n'
    with provisioned(tmp_path, workers=2, extra=extra) as daemon:
        section = further_section(tmp_path, another_softhsm(daemon.place, "second"), "second", ["HMAC_256"])
        daemon.config.write_text(f"{daemon.config.read_text()}\n{section}")
        daemon.start()
        watched, kms = Watched(daemon, port), daemon.client()
        key_id = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
        message = {"KeyId": key_id, "Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}
        for _ in range(5):
            kms.generate_mac(**message)
        found = watched.when("kmsd_token_seconds_count", 5, token="second", call="mac")
        assert of(found, "kmsd_token_seconds_count", token="main", call="mac") == 0
        assert of(found, "kmsd_token_seconds_count", token="main", call="open") > 0
        for name in ("main", "second"):
            assert of(found, "kmsd_token_sessions", token=name, state="free") > 0
        assert of(found, "kmsd_token_objects", token="second", status="ready") == 2
        before = daemon.config.read_text()
        daemon.config.write_text(before + further_section(tmp_path, daemon.place, "third", ["HMAC_384"]))
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        watched.when("kmsd_reloads_total", 1, outcome="refused")
        os.kill(daemon.workers()[0], signal.SIGKILL)
        watched.when("kmsd_worker_starts_total", 3)
        watched.when("kmsd_workers", 2, state="ready")
        daemon.client().generate_mac(**message)
        watched.when("kmsd_token_seconds_count", 6, token="second", call="mac")
        assert daemon.events("metrics_unavailable") == []


def test_a_scrape_holds_up_no_request(watched: Watched) -> None:
    """The parent answers scrapes by itself: while it stands still within one, the workers answer, and count."""
    daemon = watched.daemon
    kms = daemon.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    before = watched.samples()
    assert daemon.process is not None
    with ThreadPoolExecutor(1) as other:
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            scrape = other.submit(watched.samples)
            for _ in range(20):
                kms.encrypt(KeyId=key_id, Plaintext=b"x")
            assert not scrape.done()
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert requests(scrape.result(), "Encrypt") == requests(before, "Encrypt") + 20


def test_what_goes_wrong_shows(watched: Watched) -> None:
    """The trail cannot be written: the probe fails, nobody is ready, the log names the call; then all is well again."""
    folder = watched.daemon.data / "audit"
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    try:
        watched.when("kmsd_probe_failed_workers", 2, probe="audit")
        samples = watched.samples()
        assert of(samples, "kmsd_ready") == 0
        assert of(samples, "kmsd_source_failed", source="disk") == 1
        with pytest.raises(ClientError, match="KMSInternalException") as caught:
            watched.daemon.client().list_keys()
        request_id = caught.value.response["ResponseMetadata"]["RequestId"]
        told = [json.loads(line) for line in watched.daemon.log().splitlines() if request_id in line]
        assert [(line["event"], line["request_id"]) for line in told] == [("call_failed", request_id)]
    finally:
        hidden.rename(folder)
    watched.when("kmsd_ready", 1)


def test_the_listener_answers_nothing_else(watched: Watched, tmp_path: Path) -> None:
    """No other path, no other method; not on the API's port; and only where nobody else can reach it."""
    for method, path, status in (("GET", "/", 404), ("POST", "/metrics", 405), ("GET", "/metrics?x=1", 200)):
        page = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=10)
        page.request(method, path)
        assert page.getresponse().status == status
        page.close()
    api = http.client.HTTPConnection("127.0.0.1", watched.daemon.port, timeout=10)
    api.request("GET", "/metrics")
    assert api.getresponse().status >= 400
    api.close()
    config = tmp_path / "kmsd.toml"
    text = watched.daemon.config.read_text().replace(f"127.0.0.1:{watched.port}", f"0.0.0.0:{free_port()}")
    text = text.replace(f"127.0.0.1:{watched.daemon.port}", f"127.0.0.1:{free_port()}")
    config.write_text(re.sub(r'data_dir = ".*"', f'data_dir = "{tmp_path / "data"}"', text))
    elsewhere = Daemon(tmp_path, watched.daemon.place, 0, config)
    elsewhere.cli("init", "--beside")
    refused = elsewhere.cli("serve", check=False)
    assert refused.returncode == 78
    assert b"plain HTTP is served on loopback addresses and Unix sockets only" in refused.stderr


def test_a_unix_socket_and_the_last_backup(tmp_path: Path) -> None:
    """The page by a socket file that its owner alone can open; it tells of which time the last backup is."""
    with ExitStack() as stack:
        # The path of a socket must be shorter than those of pytest's folders may be.
        path = Path(stack.enter_context(TemporaryDirectory(prefix="kmsd-"))) / "metrics.sock"
        daemon = stack.enter_context(provisioned(tmp_path, extra=f'[metrics]\naddress = "unix:{path}"\n'))
        daemon.start()
        daemon.cli("backup", str(tmp_path / "b.backup"))
        begun = time.time()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert path.stat().st_mode & 0o777 == 0o600
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        samples = parse(answer.partition(b"\r\n\r\n")[2].decode())
        assert abs(of(samples, "kmsd_last_backup_timestamp_seconds") - begun) < 60
        assert of(samples, "kmsd_last_backup_bytes") == (tmp_path / "b.backup").stat().st_size


def _names(document: Any) -> set[str]:
    """Metrics named in the expressions of a dashboard."""
    if isinstance(document, dict):
        own = set(
            re.findall(r"kmsd_[a-z_]+", document.get("expr", "") if isinstance(document.get("expr"), str) else "")
        )
        return own.union(*(_names(value) for value in document.values()))
    return set().union(*(_names(value) for value in document)) if isinstance(document, list) else set()


def test_dashboard_and_alerts_name_what_there_is(watched: Watched) -> None:
    """Each metric in the documents is one that the daemon serves, or one that needs a certificate or a backup."""
    watched.daemon.client().list_keys()
    served = {name for name, _ in watched.samples()}
    assert served & ON_POSTGRESQL == set()
    there = served | ON_POSTGRESQL
    conditional = {
        "kmsd_certificate_not_after_timestamp_seconds",
        "kmsd_last_backup_timestamp_seconds",
        "kmsd_last_backup_bytes",
        "kmsd_next_due_timestamp_seconds",
    }
    dashboard = _names(json.loads((DOCS / "grafana-dashboard.json").read_text()))
    alerts = set(re.findall(r"kmsd_[a-z_]+", (DOCS / "alerts.yaml").read_text()))
    page = set(re.findall(r"`(kmsd_[a-z_]+)", (DOCS / "monitoring.md").read_text()))
    for named in (dashboard, alerts, page):
        assert len(named) > 10
        assert {name for name in named if name not in there | conditional and f"{name}_count" not in there} == set()
    documented = page | {f"{name}{suffix}" for name in page for suffix in ("_bucket", "_sum", "_count")}
    assert there - documented == set()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("127.0.0.1", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("attacker.example:{port}", 421),
        ("127.0.0.1.attacker.example", 421),
        ("127.0.0.2:{port}", 421),
        ("[::1]:{port}", 421),
        ("localhost:x", 421),
    ],
)
def test_a_page_of_another_host_gets_no_figures(watched: Watched, host: str, status: int) -> None:
    """A browser on this host that is sent to a loopback address by a name of somebody else's names that host."""
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Host": host.format(port=watched.port)})
    answer = connection.getresponse()
    assert answer.status == status
    assert (b"kmsd_" in answer.read()) is (status == 200)
    connection.close()
