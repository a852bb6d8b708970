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
from tests.support.clients import REGION, Credentials, client
from tests.support.daemon import free_port
from tests.support.fake_systemd import Unit
from tests.support.previous_release import set_back

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
        "etc/kmsd/tls": "drwxr-x--- True",
        "var/lib/kmsd": "drwx------ False",
    }
    assert modes(host, *expected) == expected
    assert (host.root / "usr/local/sbin/kmsd").readlink() == Path("/opt/kmsd/bin/kmsd")
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


def test_pages_and_examples_are_installed(host: Host) -> None:
    """As in the checkout, so that links between pages lead somewhere; what an earlier release left there goes."""
    pages = host.root / "opt/kmsd/share/doc"
    for name in ("docs/alerts.yaml", "docs/grafana-dashboard.json", "docs/recipes.md", "docs/hsm/README.md"):
        assert (pages / name).read_bytes() == (ROOT / name).read_bytes()
    for page in pages.rglob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page
    examples = host.root / "opt/kmsd/examples"
    assert (examples / "kmsd.toml").read_bytes() == (ROOT / "systemd/kmsd.toml.example").read_bytes()
    assert (examples / "softhsm2.toml").exists()
    stale = pages / "docs" / "of-before.md"
    stale.write_text("")
    assert host.run("install") == f"install: removed {stale}\n"
    assert not stale.exists()


def test_fourteen_commands_lead_to_a_first_encryption() -> None:
    """From the checkout on a bare host to an answer over TLS: each is one command, and none is to be edited."""
    page = (ROOT / "docs/install.md").read_text()
    blocks = re.findall(r"<!-- test: try-[a-z]+ -->\n```sh\n(.*?)```", page, re.DOTALL)
    typed = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert typed[0] == "scripts/install"
    assert typed[-1].startswith("aws kms encrypt")
    assert not any(re.search(r"[;&|<]", line) for line in typed)
    assert len(typed) == 14
    assert "14 commands" in page


def test_what_is_installed_serves_and_migrates(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the example for a trial; the unit as it stands: socket, TLS, notification; an older database; uninstall.

    tests/host runs the commands of the pages; here the folder of the test stands for /.
    """
    # Everything runs as root: there is no user kmsd on this host.
    os.chown(host.root / "var/lib/kmsd", 0, 0)
    bring_token_and_certificate(host)
    port = free_port()
    use_configuration(host, port)
    trial = host.root / "trial.env"
    assert b"the secret is in" in host.kmsd("init", "--format", "env", "--output", str(trial)).stdout
    environment = trial.read_text()
    printed = host.kmsd("check", check=False).stdout
    assert b"mechanism CKM_AES_GCM" in printed
    assert b"FAIL" not in printed
    values = dict(re.findall(r"^export (\w+)=(\S+)$", environment, re.MULTILINE))
    admin = Credentials(values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"])
    set_back(host.root / "var/lib/kmsd/kmsd.sqlite", 1)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(host.root / "etc/kmsd/tls/certificate.pem"))
    paths = {"/opt/kmsd": f"{host.root}/opt/kmsd", "/etc/kmsd": f"{host.root}/etc/kmsd"}
    unit = Unit(host.root / "usr/local/lib/systemd/system/kmsd.service", host.root, port, paths)
    try:
        unit.systemctl("systemctl enable --now kmsd.socket kmsd.service")
        assert values["AWS_ENDPOINT_URL"] == f"https://127.0.0.1:{port}"
        kms = client(values["AWS_ENDPOINT_URL"], admin)
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"installed")["CiphertextBlob"]
        for line in ("systemctl reload kmsd.service", "systemctl restart kmsd.service"):
            unit.systemctl(line)
            assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"installed"
        kms.close()
        assert unit.stop() == 0
    finally:
        unit.close()
    assert connection.schema(host.root / "var/lib/kmsd/kmsd.sqlite") == connection.newest()
    before = host.state("etc", "var")
    systemd = host.root / "etc/systemd/system"
    for name in ("kmsd.socket.d", "kmsd.service.d"):
        (systemd / name).mkdir(parents=True)
    for name in ("kmsd-metrics.socket", "kmsd-metrics.service", "kmsd-backup.timer"):
        (systemd / name).touch()
    said = host.run("uninstall")
    assert {name: entry for name, entry in host.state("etc", "var").items() if "systemd" not in name} == before
    assert not (host.root / "opt/kmsd").exists()
    assert list((host.root / "usr").rglob("kmsd*")) == []
    for left in ("etc/kmsd", "var/lib/kmsd", *(f"etc/systemd/system/{path.name}" for path in systemd.iterdir())):
        assert f"    {host.root / left}\n" in said


def bring_token_and_certificate(host: Host) -> None:
    """A SoftHSM2 token with its PIN as a credential, and a certificate for 127.0.0.1 that is its own authority."""
    folder, tls = host.root / "var/lib/kmsd/softhsm", host.root / "etc/kmsd/tls"
    subprocess.run([ROOT / "softhsm" / "make-token", folder, "production"], check=True, capture_output=True)
    credentials = host.root / "etc/kmsd/credentials"
    shutil.copy(folder / "pin", credentials / "pin")
    # The small systemd of the tests has no default for a credential without a file.
    (credentials / "tls-key").touch(mode=0o600)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    request = ["openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=kmsd"]
    files = ["-keyout", str(tls / "key.pem"), "-out", str(tls / "certificate.pem")]
    subprocess.run([*request, "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True)
    shutil.copy(host.root / "opt/kmsd/examples/softhsm2.toml", host.root / "etc/kmsd/kmsd.toml")


def use_configuration(host: Host, port: int) -> None:
    """The configuration for a trial, with this folder for /, and a port that is free."""
    path = host.root / "etc/kmsd/kmsd.toml"
    text = path.read_text()
    for name in ("/var/lib/kmsd", "/etc/kmsd"):
        text = text.replace(f'"{name}', f'"{host.root}{name}')
    for old, new in {
        '"eu-trial-1"': f'"{REGION}"',
        "127.0.0.1:8480": f"127.0.0.1:{port}",
        "# workers = 2": "workers = 1",
    }.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
