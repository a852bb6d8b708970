"""kmsd on a booted host, with TLS, and a SoftHSM2 token behind a module that counts calls and goes away on demand."""

from __future__ import annotations

import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.host.machine import Machine, machine
from tests.host.site import write
from tests.support.clients import ACCOUNT, REGION, Credentials, client
from tests.support.daemon import credentials_of
from tests.support.polling import until
from tests.support.shim import Shim, build

HSM = "/srv/hsm"
"""Where the token and its module lie; the unit may write there, as it may reach an HSM."""
PORT = 8443
ENDPOINT = f"https://127.0.0.1:{PORT}"
PIN, WRONG_PIN = "user-pin-0001", "wrong-pin-0001"
PIN_FILE = "/etc/kmsd/credentials/pin"
CONFIGURATION = "/etc/kmsd/kmsd.toml"
CERTIFICATE, KEY = "/etc/kmsd/tls/certificate.pem", "/etc/kmsd/tls/key.pem"
TRUSTED = "/root/trusted.pem"
CKR_TOKEN_NOT_PRESENT = 0xE0
DROP_IN = f"[Service]\nReadWritePaths={HSM}\n"
SOCKET = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{PORT}\n"
SOFTHSM_CONF = f"directories.tokendir = {HSM}/tokens\nlog.level = ERROR\nlibrary.reset_on_fork = true\n"
TOML = f"""data_dir = "/var/lib/kmsd"
region = "{REGION}"
account = "{ACCOUNT}"
workers = 2
[listen]
tls_certificate = "{CERTIFICATE}"
tls_key = "{KEY}"
drain_seconds = 0.1
[token]
module = "{HSM}/shim.so"
label = "kmsd"
pin_file = "credential:pin"
dir_sync = "{HSM}/tokens"
environment = {{ SOFTHSM2_CONF = "{HSM}/softhsm2.conf", KMSD_SHIM_MODULE = "/usr/lib/softhsm/libsofthsm2.so", \
KMSD_SHIM_CONTROL = "{HSM}/control" }}
[metrics]
address = "unix:/var/lib/kmsd/metrics.sock"
"""
MAKE_TOKEN = f"""set -e
export SOFTHSM2_CONF={HSM}/softhsm2.conf
mkdir -m 0700 {HSM}/tokens
softhsm2-util --init-token --free --label kmsd --so-pin so-pin-0001 --pin {PIN}
chown -R kmsd:kmsd {HSM}
"""


def make_certificate(*, name: str = "first", days: int = 30) -> tuple[str, str]:
    """A certificate, its own authority, that ends in so many days, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    unsealed = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = serialization.Encoding.PEM
    return built.public_bytes(pem).decode(), key.private_bytes(pem, *unsealed).decode()


def provision(host: Machine) -> None:
    """Configure, initialise and enable the service; the host is off afterwards, and the service has not run."""
    folder = host.root / HSM.lstrip("/")
    folder.mkdir(parents=True)
    build(folder)
    (folder / "softhsm2.conf").write_text(SOFTHSM_CONF)
    (folder / "control").touch()
    write(host, CONFIGURATION, TOML)
    write(host, "/etc/systemd/system/kmsd.service.d/hsm.conf", DROP_IN)
    write(host, "/etc/systemd/system/kmsd.socket.d/address.conf", SOCKET)
    write(host, PIN_FILE, PIN, 0o600)
    host.boot()
    host.run(MAKE_TOKEN)
    host.run("install -d -g kmsd -m 0750 /etc/kmsd/tls")
    shown, key = make_certificate()
    write(host, CERTIFICATE, shown)
    write(host, KEY, key, 0o640)
    write(host, TRUSTED, shown)
    host.run(f"chgrp kmsd {CERTIFICATE} {KEY}")
    host.run("cd / && kmsd init --format json --output /root/admin.json")
    host.run("systemctl enable kmsd.socket kmsd.service")
    host.power_off()


@contextmanager
def installed_service(folder: Path, layers: Sequence[Path], wheels: Path) -> Iterator[Service]:
    """The service of a host that is not booted yet; what is done to it is gone with the block."""
    with machine(folder, layers, wheels) as host:
        found = Service(host)
        found.shim.reset()  # what was counted until now
        yield found


class Service:
    """kmsd on a host."""

    def __init__(self, host: Machine) -> None:
        self.host = host
        self.shim = Shim(self._inside(f"{HSM}/shim.so"), self._inside(f"{HSM}/control"))
        """What the HSM does, and how often it was asked."""
        self.trusted = self._inside(TRUSTED)
        """Certificates that clients trust; each is its own authority."""
        self.key_id = ""
        """A key of the module's."""
        self.admin: Credentials = credentials_of(self._inside("/root/admin.json").read_bytes())

    def _inside(self, path: str) -> Path:
        return self.host.root / path.lstrip("/")

    def get(self, path: str, seconds: float = 5) -> tuple[int, str]:
        """Status and body of an unsigned GET; status 0, with the reason, if nobody answers."""
        context = ssl.create_default_context(cafile=self.trusted)
        try:
            with self.host.network():
                answer = urllib.request.urlopen(ENDPOINT + path, timeout=seconds, context=context)  # noqa: S310 (ours)
                with answer:
                    return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def client(self, **options: Any) -> Any:
        """boto3, of the administrator; its sockets are the host's within `host.network()` alone."""
        return client(ENDPOINT, self.admin, authority=self.trusted, read_timeout=10, connect_timeout=10, **options)

    def encrypt(self, key_id: str) -> bytes:
        """A ciphertext."""
        with self.host.network():
            kms = self.client()
            try:
                return bytes(kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"])
            finally:
                kms.close()

    def create_key(self) -> str:
        """A key's id."""
        with self.host.network():
            kms = self.client()
            try:
                return str(kms.create_key()["KeyMetadata"]["KeyId"])
            finally:
                kms.close()

    def until_ready(self, seconds: float = 90) -> float:
        """Wait for `/readyz` 200; the seconds that it took. Raises AssertionError with what was answered last."""
        begun, last = time.monotonic(), (0, "")
        while last[0] != 200:
            assert time.monotonic() - begun < seconds, f"not ready within {seconds} s: {last}"
            last = self.get("/readyz")
            if last[0] != 200:
                time.sleep(0.02)
        return time.monotonic() - begun

    def until_state(self, unit: str, *states: str, seconds: float = 30) -> str:
        """Wait until a unit's ActiveState is one of these; the state."""
        found = ""

        def reached() -> bool:
            nonlocal found
            found = self.host.unit(unit, "ActiveState")
            return found in states

        until(reached, seconds)
        return found

    def metric(self, name: str) -> float:
        """A sample of the exposition; 0.0 if it is not there."""
        text = self.host.run("curl --silent --unix-socket /var/lib/kmsd/metrics.sock http://localhost/metrics").stdout
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def errors(self) -> list[str]:
        """What `journalctl -p err -u kmsd` shows of kmsd itself, one entry a line; systemd's own lines are left out."""
        command = "journalctl --no-pager --quiet --boot --priority=err --unit=kmsd --output=json"
        entries = [json.loads(line) for line in self.host.run(command).stdout.splitlines()]
        return [str(entry["MESSAGE"]) for entry in entries if entry["SYSLOG_IDENTIFIER"] == "kmsd"]
