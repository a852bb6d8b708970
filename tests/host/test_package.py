"""The Debian package on a bare host that has no network: installed, upgraded under load, removed, purged.

The tests are in the order of the package's life, and go on from each other.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.host import image, packages
from tests.host.knocking import Knocking
from tests.host.machine import Machine, machine
from tests.host.pages import walk
from tests.host.shell import login
from tests.support.clients import Credentials, client
from tests.support.polling import until

TRIAL = "/root/trial"
BARE = ("systemd", "systemd-sysv", "dbus", "python3", "ca-certificates")
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install --yes"
DATA = "find /var/lib/kmsd /etc/kmsd -type f -print0 | sort -z | xargs -0 sha256sum"


@dataclass
class Trial:
    """What `deploy/debian/tests/encrypt`, or docs/install.md, has set up on a host."""

    host: Machine
    access_key: str = f"{TRIAL}/admin.env"
    authority: str = f"{TRIAL}/certificate.pem"

    def client(self) -> Any:
        """boto3, of the administrator; its sockets are the host's within `host.network()` alone."""
        text = (self.host.root / self.access_key.lstrip("/")).read_text()
        values = dict(re.findall(r"^export (\w+)=(\S+)$", text, re.MULTILINE))
        return client(
            values["AWS_ENDPOINT_URL"],
            Credentials(values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]),
            authority=self.host.root / self.authority.lstrip("/"),
            region=values["AWS_REGION"],
        )


@pytest.fixture(scope="module", name="host")
def _host(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("package")
    with machine(folder / "host", [debian], image.wheels()) as found:
        bring(found, packages.deb(), "kmsd.deb")
        bring(found, packages.next_deb(folder / "checkout"), "next.deb")
        shutil.copy(image.ROOT / "deploy/debian/tests/encrypt", found.root / "root")
        found.boot()
        yield found


def bring(host: Machine, package: Path, name: str) -> None:
    """Copy a package to root's home."""
    shutil.copy(package, host.root / "root" / name)


def version(host: Machine) -> str:
    """The version that the running daemon's process has in its path."""
    command = host.run(f"cat /proc/{host.unit('kmsd.service', 'MainPID')}/cmdline | tr '\\0' ' '").stdout
    found = re.search(r"/usr/lib/kmsd/([^/]+)/bin/", command)
    assert found is not None, command
    return found[1]


def test_it_is_installed_and_encrypts(host: Machine) -> None:
    """`apt-get install` of the file, then the package's own test: SoftHSM2, init, start, an encryption over TLS."""
    said = host.run(f"{INSTALL} ./kmsd.deb").stdout
    assert "wrote /etc/kmsd/kmsd.toml" in said
    assert host.run("stat --format '%A %U %G' /etc/kmsd/kmsd.toml").stdout == "-rw-r----- root kmsd\n"
    assert host.unit("kmsd.service", "ActiveState") == "inactive"
    assert "encrypted and decrypted under" in host.run(f"mkdir {TRIAL} && AUTOPKGTEST_TMP={TRIAL} ./encrypt").stdout
    assert version(host) == packages.VERSION
    assert host.run("systemctl reload kmsd.service").stdout == ""
    assert "FAIL" not in host.run("kmsd check", check=False).stdout
    assert host.run("dpkg --verify kmsd").stdout == ""


def test_an_upgrade_fails_no_request(host: Machine) -> None:
    """Ten clients encrypt while the next version is installed; the first answer of each call is the right one."""
    trial = Trial(host)
    host.run("echo '# mine' >>/etc/kmsd/kmsd.toml")
    with host.network():
        kms = trial.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.close()
    with Knocking(trial, key_id) as clients:
        until(lambda: clients.total() > 100)
        said = host.run(f"{INSTALL} ./next.deb").stdout
        before = clients.total()
        until(lambda: clients.total() > before + 100)
    print(f"calls during the upgrade: {dict(clients.answers)}")
    assert set(clients.answers) == {"ok"}, said
    assert version(host) == packages.NEXT
    assert host.run("ls /usr/lib/kmsd").stdout == f"{packages.NEXT}\n"
    assert host.run("tail -n 1 /etc/kmsd/kmsd.toml").stdout == "# mine\n"


def test_a_stopped_daemon_stays_stopped(host: Machine) -> None:
    """An installation over the same version starts nothing that the operator has stopped."""
    host.run("systemctl stop kmsd.socket kmsd.service")
    host.run(f"{INSTALL} --reinstall ./next.deb")
    assert host.unit("kmsd.service", "ActiveState") == "inactive"
    host.run("systemctl start kmsd.service")


def test_removal_and_purge_leave_the_data(host: Machine) -> None:
    """The program and its units go; configuration, PIN and data stay to the last file; purge names them."""
    host.run("apt-get remove --yes kmsd")
    kept = host.run(DATA).stdout
    assert host.unit("kmsd.socket", "LoadState") == "not-found"
    assert host.run("command -v kmsd", check=False).returncode != 0
    assert host.run("find /usr /etc/systemd -name '*kmsd*'").stdout == ""
    said = host.run("apt-get purge --yes kmsd").stdout
    for folder in ("/etc/kmsd", "/var/lib/kmsd"):
        assert f"\n    {folder}\n" in said
    assert host.run(DATA).stdout == kept
    for file in ("/var/lib/kmsd/kmsd.sqlite", "/etc/kmsd/kmsd.toml", "/etc/kmsd/credentials/pin"):
        assert f"  {file}\n" in kept


def test_the_page(debian: Path, tmp_path: Path) -> None:
    """docs/install.md, "Try it on a bare host" with the package: at most 15 commands, and a ciphertext over TLS."""
    steps = ["package-install", "package-token", "try-tls", "try-start"]
    with machine(tmp_path, [debian], image.wheels()) as host:
        bring(host, packages.deb(), packages.deb().name)
        host.boot()
        with login(host) as shell:
            walk(shell, "docs/install.md", steps)
        trial = Trial(host, "/root/trial.env", "/root/certificate.pem")
        with host.network():
            kms = trial.client()
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            blob = kms.encrypt(KeyId=key_id, Plaintext=b"packaged")["CiphertextBlob"]
            assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"packaged"
            kms.close()


@pytest.mark.skipif("KMSD_TEST_DEBIAN_13" not in os.environ, reason="takes long; set KMSD_TEST_DEBIAN_13")
@pytest.mark.usefixtures("debian")
def test_debian_13(tmp_path: Path) -> None:
    """It takes its own package alone; a new installation restarts the running daemon there too."""
    (package,) = packages.run_package(
        image.ROOT, "deb", "--debian", "13", "--output", str(tmp_path / "built"), offline=False
    )
    newer = image.debian("trixie", (*BARE, "softhsm2", "openssl", "curl", "procps"))
    with machine(tmp_path / "host", [newer], image.wheels()) as host:
        bring(host, packages.deb(), "of-12.deb")
        bring(host, package, "kmsd.deb")
        shutil.copy(image.ROOT / "deploy/debian/tests/encrypt", host.root / "root")
        host.boot()
        assert "python3 (< 3.12)" in host.run(f"{INSTALL} ./of-12.deb", check=False).stdout
        host.run(f"{INSTALL} ./kmsd.deb")
        assert "encrypted and decrypted under" in host.run("./encrypt").stdout
        process = host.unit("kmsd.service", "MainPID")
        host.run(f"{INSTALL} --reinstall ./kmsd.deb")
        assert host.unit("kmsd.service", "MainPID") not in {process, "0"}
        assert "FAIL" not in host.run("kmsd check", check=False).stdout


def test_a_host_of_the_install_script_is_refused(installed: list[Path], tmp_path: Path) -> None:
    """Its units would hide those of the package: nothing is changed, and the message says what to do first."""
    with machine(tmp_path, installed, image.wheels()) as host:
        bring(host, packages.deb(), "kmsd.deb")
        host.boot()
        refused = host.run(f"{INSTALL} ./kmsd.deb", check=False)
        assert refused.returncode != 0
        assert "scripts/uninstall" in refused.stdout
        assert host.run("dpkg-query --show kmsd", check=False).stdout.strip().split("\t")[1:] in ([], [""])
        assert host.run("kmsd --version").stdout == f"kmsd {packages.VERSION}\n"
