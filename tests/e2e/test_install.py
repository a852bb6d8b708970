"""scripts/install and scripts/uninstall, as root in a folder of its own; what they install runs as its unit says."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmsd.adapters.sqlite import connection
from tests.clients import client
from tests.daemon import credentials_of, free_port
from tests.e2e.test_readme import commands
from tests.older import set_back
from tests.tokens import softhsm
from tests.units import Unit, put_systemd_run

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="installing takes root"),
    pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed"),
]


@dataclass(frozen=True)
class Host:
    """A folder that stands for /."""

    root: Path

    def run(self, script: str, *arguments: str) -> str:
        """One of the scripts; what it says."""
        command = [str(ROOT / "scripts" / script), "--prefix", str(self.root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    def kmsd(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """The installed program, with the credentials that systemd would pass."""
        command = [str(self.root / "opt/kmsd/bin/kmsd"), "--config", str(self.root / "etc/kmsd/kmsd.toml"), *arguments]
        environment = {"PATH": "/usr/bin:/bin", "CREDENTIALS_DIRECTORY": str(self.root / "etc/kmsd/credentials")}
        done = subprocess.run(command, capture_output=True, check=False, timeout=120, env=environment)
        assert done.returncode == 0 or not check, done.stderr.decode() + done.stdout.decode()
        return done

    def page(self, name: str, stdin: bytes = b"") -> str:
        """A block of docs/install.md, run as it stands below this folder; what it prints."""
        script = commands("docs/install.md", name)
        for path in ("/etc/kmsd", "/opt/kmsd"):
            script = script.replace(path, f"{self.root}{path}")
        put_systemd_run(self.root / "bin")
        environment = {
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "KMSD_TEST_CONFIG": str(self.root / "etc/kmsd/kmsd.toml"),
        }
        command = ["bash", "-uo", "pipefail", "-c", script]
        done = subprocess.run(command, input=stdin, env=environment, capture_output=True, check=False, timeout=120)
        assert done.stderr == b""
        assert done.returncode < 2
        return done.stdout.decode()

    def state(self, *folders: str) -> dict[str, tuple[object, ...]]:
        """Mode, owner, size, time of change and target of everything there."""
        found = {}
        for folder in folders or (".",):
            for path in sorted((self.root / folder).rglob("*")):
                is_log = path.name.startswith(".pwd") or path.suffix == ".pyc"
                if not is_log and path.name != "__pycache__":
                    entry = path.lstat()
                    target = str(path.readlink()) if path.is_symlink() else ""
                    size = () if path.is_dir() else (entry.st_size, entry.st_mtime_ns)
                    name = str(path.relative_to(self.root))
                    found[name] = (stat.filemode(entry.st_mode), entry.st_uid, entry.st_gid, *size, target)
        return found


@pytest.fixture(name="host", scope="module")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    host = Host(tmp_path_factory.mktemp("host"))
    assert commands("docs/install.md", "install") == "scripts/install\n"
    assert commands("docs/install.md", "uninstall") == "scripts/uninstall\n"
    said = host.run("install")
    assert "setting up" in said
    assert "nothing to change" not in said
    return host


def modes(host: Host, *names: str) -> dict[str, str]:
    """Modes, and whether root is the owner."""
    found = {name: (host.root / name).stat() for name in names}
    return {name: f"{stat.filemode(entry.st_mode)} {entry.st_uid == 0}" for name, entry in found.items()}


def test_what_is_put_where(host: Host) -> None:
    """Code is root's and readable, credentials are root's alone, data is the daemon's alone."""
    expected = {
        "opt/kmsd/bin/kmsd": "-rwxr-xr-x True",
        "usr/local/lib/systemd/system/kmsd.service": "-rw-r--r-- True",
        "usr/local/lib/systemd/system/kmsd.socket": "-rw-r--r-- True",
        "etc/kmsd": "drwxr-x--- True",
        "etc/kmsd/kmsd.toml": "-rw-r----- True",
        "etc/kmsd/credentials": "drwx------ True",
        "var/lib/kmsd": "drwx------ False",
    }
    assert modes(host, *expected) == expected
    assert (host.root / "etc/passwd").read_text().startswith("kmsd:")
    group = (host.root / "var/lib/kmsd").stat().st_gid
    assert (host.root / "etc/kmsd").stat().st_gid == (host.root / "etc/kmsd/kmsd.toml").stat().st_gid == group
    writable = [p for p in (host.root / "opt").rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o022]
    assert writable == []


def test_again_changes_nothing(host: Host) -> None:
    """Nor does it touch a configuration that was edited."""
    configuration = host.root / "etc/kmsd/kmsd.toml"
    text = configuration.read_text()
    configuration.write_text(text + "# mine\n")
    before = host.state()
    assert host.run("install") == "install: nothing to change\n"
    assert host.state() == before
    configuration.write_text(text)


@pytest.mark.skipif("KMSD_TEST_WHEEL" not in os.environ, reason="takes long; set KMSD_TEST_WHEEL")
def test_from_a_wheel_and_back(host: Host, tmp_path: Path) -> None:
    """A release beside the other: the link changes, and back; the one before stays, for the way back."""
    first = (host.root / "opt/kmsd/current").readlink()
    build = [str(ROOT / ".venv/bin/pip"), "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "kmsd", source / "kmsd", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*build, str(source)], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    said = host.run("install", "--wheel", str(wheel))
    second = (host.root / "opt/kmsd/current").readlink()
    assert second != first
    assert "removed" not in said
    assert host.run("install", "--wheel", str(wheel)) == "install: nothing to change\n"
    assert f"current is now {first}" in host.run("install")
    assert host.kmsd("--help").stdout.startswith(b"usage: kmsd")


def test_what_is_installed_serves_and_migrates(host: Host) -> None:
    """`kmsd init`, then the unit as it stands: socket, credentials, notification; an older database; then uninstall."""
    with softhsm(host.root / "var/lib/kmsd/softhsm") as place:
        port = free_port()
        write_configuration(host, place.module, str(place.environment["SOFTHSM2_CONF"]), str(place.objects))
        # Here everything runs as root: the folder of this test is nobody else's.
        os.chown(host.root / "var/lib/kmsd", 0, 0)
        host.page("pin", stdin=place.pin)
        modes_of_secrets = set(modes(host, "etc/kmsd/credentials/pin", "etc/kmsd/credentials/tls-key").values())
        assert modes_of_secrets == {"-rw------- True"}
        printed = host.page("provision")
        assert "mechanism CKM_AES_GCM" in printed
        assert "FAIL" not in printed
        created = host.kmsd("access-key", "create", "admin", "--format", "json")
        admin = credentials_of(created.stdout)
        set_back(host.root / "var/lib/kmsd/kmsd.sqlite", 1)
        paths = {"/opt/kmsd": f"{host.root}/opt/kmsd", "/etc/kmsd": f"{host.root}/etc/kmsd"}
        service = host.root / "usr/local/lib/systemd/system/kmsd.service"
        unit = Unit(service, host.root, port, paths)
        enable, reload, restart = systemctl_lines()
        try:
            unit.systemctl(enable)
            kms = client(f"http://127.0.0.1:{port}", admin)
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            blob = kms.encrypt(KeyId=key_id, Plaintext=b"installed")["CiphertextBlob"]
            for line in (reload, restart):
                unit.systemctl(line)
                assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"installed"
            kms.close()
            assert unit.stop() == 0
        finally:
            unit.close()
        assert connection.schema(host.root / "var/lib/kmsd/kmsd.sqlite") == connection.newest()
        before = host.state("etc", "var")
        said = host.run("uninstall")
        assert host.state("etc", "var") == before
    assert not (host.root / "opt/kmsd").exists()
    assert list((host.root / "usr").rglob("kmsd*")) == []
    for left in ("etc/kmsd", "var/lib/kmsd"):
        assert str(host.root / left) in said


def systemctl_lines() -> list[str]:
    """What docs/install.md would have one type to start, reload and restart the service, in that order."""
    page = (ROOT / "docs" / "install.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("systemctl ")]


def write_configuration(host: Host, module: Path, softhsm_conf: str, objects: str) -> None:
    """The installed example, as an operator fills it in."""
    path = host.root / "etc/kmsd/kmsd.toml"
    text = path.read_text()
    for old, new in {
        '"/var/lib/kmsd"': f'"{host.root}/var/lib/kmsd"',
        "/usr/lib/vendor/libpkcs11.so": str(module),
        '"production"': '"kmsd-test"',
        "workers = 2": "workers = 1",
    }.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(f'{text}dir_sync = "{objects}"\nenvironment = {{ SOFTHSM2_CONF = "{softhsm_conf}" }}\n')
