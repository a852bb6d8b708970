"""`systemctl reload kmsd` fails when the daemon refuses what it is told, and the old configuration goes on serving."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from tests.host.service import CERTIFICATE, CONFIGURATION, KEY, PORT, TOML, TRUSTED, Service, make_certificate
from tests.host.site import write

AUTHORITY = "/etc/kmsd/tls/authority.pem"
GARBAGE = "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n"
EXPIRED = make_certificate(days=-1)
OTHER = make_certificate(name="other")
Files = dict[str, str | None]


def toml(old: str, new: str) -> Files:
    """The configuration with one change."""
    assert TOML.count(old) == 1
    return {CONFIGURATION: TOML.replace(old, new)}


BROKEN: dict[str, Files] = {
    "unparsable-toml": toml('region = "us-east-1"', "region = us-east-1"),
    "unknown-setting": toml("workers = 2", "wrokers = 2"),
    "impossible-value": toml("workers = 2", "workers = 0"),
    "impossible-rates": toml("[metrics]", "[rates]\ncryptographic = -1\n[metrics]"),
    "needs-a-restart": toml('region = "us-east-1"', 'region = "eu-central-1"'),
    "pin-file-missing": toml("credential:pin", "/etc/kmsd/no-such-pin"),
    "client-authority-garbage": toml("drain_seconds", f'tls_client_ca = "{AUTHORITY}"\ndrain_seconds'),
    "certificate-garbage": {CERTIFICATE: "garbage\n"},
    "certificate-missing": {CERTIFICATE: None},
    "certificate-expired": dict(zip((CERTIFICATE, KEY), EXPIRED, strict=True)),
    "key-garbage": {KEY: "garbage\n"},
    "key-of-another-certificate": {KEY: OTHER[1]},
}
"""Twelve ways in which an operator, or a tool, leaves files that cannot be taken over; None: the file is gone."""

WORDS = {
    "unparsable-toml": "is not TOML",
    "unknown-setting": "wrokers",
    "impossible-value": "workers",
    "impossible-rates": "rates",
    "needs-a-restart": "restart",
    "pin-file-missing": "no-such-pin",
    "client-authority-garbage": AUTHORITY,
    **dict.fromkeys(("certificate-garbage", "certificate-missing"), CERTIFICATE),
    "certificate-expired": "expired",
    **dict.fromkeys(("key-garbage", "key-of-another-certificate"), KEY),
}
"""What the line in the journal names."""


def put(service: Service, files: Files) -> None:
    """Leave the files so; owner and mode of one that exists stay."""
    for path, text in files.items():
        file = service.host.root / path.lstrip("/")
        if text is None:
            file.unlink()
        else:
            file.write_text(text)


@pytest.fixture(scope="module", name="running")
def _running(shared_service: Service) -> Service:
    host = shared_service.host
    write(host, AUTHORITY, GARBAGE)
    host.boot()
    shared_service.until_ready()
    shared_service.key_id = shared_service.create_key()
    return shared_service


@pytest.fixture(name="restored")
def _restored(running: Service) -> Iterator[Service]:
    """The files are put back after each test."""
    host = running.host
    host.run("rm -rf /root/kept && cp -a /etc/kmsd /root/kept")
    yield running
    host.run("cp -a --remove-destination /root/kept/. /etc/kmsd/")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_refused_reload_fails(restored: Service, kind: str) -> None:
    """The command fails; Encrypt goes on; the journal has it among the errors; the metric counts it."""
    host = restored.host
    refused = restored.metric('kmsd_reloads_total{outcome="refused"}')
    errors = len(restored.errors())
    put(restored, BROKEN[kind])
    done = host.run("systemctl reload kmsd", check=False)
    assert done.returncode != 0
    assert restored.encrypt(restored.key_id)
    assert WORDS[kind] in "".join(restored.errors()[errors:])
    assert restored.metric('kmsd_reloads_total{outcome="refused"}') == refused + 1
    assert host.unit("kmsd.service", "ActiveState") == "active"


def shown(service: Service) -> str:
    """The certificate that a new connection sees."""
    with service.host.network():
        return ssl.get_server_certificate(("127.0.0.1", PORT), timeout=10)


def test_certificate_and_key_are_renewed_by_one_reload(restored: Service) -> None:
    """Both files are replaced, and one reload later clients see the new certificate; no restart."""
    host = restored.host
    before, done = shown(restored), restored.metric('kmsd_reloads_total{outcome="done"}')
    process = host.unit("kmsd.service", "MainPID")
    wanted, key = make_certificate(name="second")
    put(restored, {CERTIFICATE: wanted, KEY: key, TRUSTED: wanted})
    host.run("systemctl reload kmsd")
    assert ssl.PEM_cert_to_DER_cert(shown(restored)) == ssl.PEM_cert_to_DER_cert(wanted)
    assert shown(restored) != before
    assert restored.encrypt(restored.key_id)
    assert restored.metric('kmsd_reloads_total{outcome="done"}') == done + 1
    assert host.unit("kmsd.service", "MainPID") == process
