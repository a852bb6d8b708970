"""The container image: any user, a root file system that is read-only, no capabilities, no network but its own.

Built by buildah and run by podman, on a base that mmdebstrap makes: nothing is pulled.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import kmsd
from tests.golden import chart
from tests.host import image, packages
from tests.host.machine import network_of
from tests.support.clients import Credentials, client
from tests.support.polling import until

TOOLS = ("buildah", "podman", "runc", "mmdebstrap", "softhsm2-util", "openssl")
IN_THE_BASE = ("ca-certificates", "libstdc++6", "python3", "tini", "softhsm2", "openssl")
"""What the Containerfile installs: with it in the base, a build needs no network."""
MAX_BYTES = 120_000_000
"""Of the image beyond its base; the package has 66 MB unpacked, and 20 MB of compiled modules."""
USER = 23456
CONFINED = (
    *("--user", f"{USER}:0", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--network", "none", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
)
SOFTHSM = "/var/lib/kmsd/softhsm"
LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
TOML = """data_dir = "/var/lib/kmsd/data"
region = "eu-trial-1"
public_url = "https://127.0.0.1:8443"
[listen]
address = "0.0.0.0:8443"
tls_certificate = "/etc/kmsd/certificate.pem"
tls_key = "/run/secrets/key.pem"
[token]
module = "/usr/lib/vendor/libpkcs11.so"
label = "production"
pin_file = "/run/secrets/pin"
dir_sync = "/var/lib/kmsd/softhsm/tokens"
environment = { SOFTHSM2_CONF = "/var/lib/kmsd/softhsm/softhsm2.conf" }
"""
pytestmark = [
    pytest.mark.skipif("KMSD_TEST_IMAGE" not in os.environ, reason="takes minutes; set KMSD_TEST_IMAGE"),
    pytest.mark.skipif(os.geteuid() != 0, reason="building and running images takes root"),
    pytest.mark.timeout(1800),
    pytest.mark.slow,
]


@dataclass(frozen=True)
class Engine:
    """buildah and podman with images and containers of their own."""

    folder: Path

    def run(self, tool: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command; what it says."""
        places = ["--root", str(self.folder / "images"), "--runroot", str(self.folder / "run")]
        runtime = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"] if tool == "podman" else []
        command = [tool, *places, *runtime, *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=600)
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def start(self, name: str, *arguments: str) -> Container:
        """A confined container that runs until it is stopped."""
        self.run("podman", "run", "--detach", "--name", name, *CONFINED, *arguments)
        return Container(self, name)


@dataclass(frozen=True)
class Container:
    """One that runs."""

    engine: Engine
    name: str

    def executed(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        return self.engine.run("podman", "exec", self.name, *command, check=False)

    def until_healthy(self, configuration: str) -> None:
        """Wait until the image's own check succeeds."""
        check = ("/usr/bin/python3", "/usr/share/kmsd/healthcheck.py", configuration)
        try:
            until(lambda: self.executed(*check).returncode == 0, 60)
        except AssertionError as error:
            raise AssertionError(self.engine.run("podman", "logs", self.name, check=False)) from error

    def encrypts(self, credentials: Credentials, authority: Path) -> None:
        """boto3 encrypts and decrypts over TLS."""
        process = int(self.engine.run("podman", "inspect", "--format", "{{.State.Pid}}", self.name).stdout)
        with network_of(process):
            kms = client("https://127.0.0.1:8443", credentials, authority=authority, region="eu-trial-1")
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            blob = kms.encrypt(KeyId=key_id, Plaintext=b"contained")["CiphertextBlob"]
            assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"contained"
            kms.close()

    def stop(self) -> int:
        """Its exit status after SIGTERM; killed if it has not ended after a while."""
        self.engine.run("podman", "stop", "--time", "40", self.name)
        return int(self.engine.run("podman", "inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Both images of the Containerfile, as `kmsd` and `kmsd-trial`."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("engine")
    found = Engine(folder)
    base = image.debian(packages=IN_THE_BASE)
    subprocess.run(["tar", "-C", base, "-cf", folder / "base.tar", "."], check=True)
    found.run("podman", "import", str(folder / "base.tar"), "base")
    checkout = folder / "checkout"
    image.checkout(checkout)
    (checkout / "dist").mkdir()
    shutil.copy(packages.deb(), checkout / "dist")
    for target, tag in (("kmsd", "kmsd"), ("trial", "kmsd-trial")):
        build = ["--format", "docker", "--isolation", "chroot", "--build-arg", "BASE=localhost/base", "--layers"]
        file = ["--file", str(checkout / "deploy/container/Containerfile"), str(checkout)]
        found.run("buildah", "build", *build, "--target", target, "--tag", tag, *file)
    yield found
    found.run("podman", "rm", "--all", "--force", check=False)
    found.run("podman", "rmi", "--all", "--force", check=False)


def test_the_archive_of_a_release(engine: Engine, tmp_path: Path) -> None:
    """`scripts/package image` makes one file, which podman loads under the tag of the version."""
    driver = engine.run("podman", "info", "--format", "{{.Store.GraphDriverName}}").stdout.strip()
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{engine.folder}/images"\nrunroot = "{engine.folder}/run"\n'
    )
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(image.wheels())}
    command = [str(image.ROOT / "scripts/package"), "image", "--base", "localhost/base", "--output", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("kmsd-image-*.tar.gz")
    tag = f"localhost/kmsd:{kmsd.__version__}"
    engine.run("podman", "rmi", "--force", tag)
    subprocess.run(["gunzip", archive], check=True)
    engine.run("podman", "load", "--input", str(archive.with_suffix("")))
    (shown,) = json.loads(engine.run("podman", "inspect", tag).stdout)
    assert (shown["Config"]["User"], "Healthcheck" in shown) == ("10001:10001", True)
    assert shown["Config"]["Entrypoint"] == ["/usr/bin/tini", "--", "/usr/bin/kmsd"]


def test_the_trial_serves_as_any_user(engine: Engine, tmp_path: Path) -> None:
    """It makes what it needs in its volume, encrypts over TLS, leaves no process behind, and stops on request."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, USER, 0)
    container = engine.start("trial", "--volume", f"{volume}:/var/lib/kmsd", "kmsd-trial")
    container.until_healthy("/var/lib/kmsd/trial/kmsd.toml")
    values = dict(re.findall(r"^export (\w+)=(\S+)$", (volume / "trial/admin.env").read_text(), re.MULTILINE))
    credentials = Credentials(values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"])
    container.encrypts(credentials, volume / "trial/certificate.pem")
    checked = container.executed("kmsd", "--config", "/var/lib/kmsd/trial/kmsd.toml", "check", "--no-token")
    assert "0 failures" in checked.stdout
    container.executed("sh", "-c", "(true &)")
    until(lambda: "Z" not in engine.run("podman", "top", "trial", "state").stdout.split()[1:])
    assert container.stop() == 0


def site(folder: Path) -> list[str]:
    """What an operator mounts: configuration, certificate, secrets as files, the vendor's library, the token."""
    volume, secrets, configuration = (folder / name for name in ("volume", "secrets", "configuration"))
    for path in (volume, secrets, configuration):
        path.mkdir()
    subprocess.run([image.ROOT / "softhsm/make-token", volume / "softhsm", "production"], check=True)
    conf = volume / "softhsm/softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(volume), "/var/lib/kmsd"))
    shutil.move(volume / "softhsm/pin", secrets / "pin")
    (configuration / "kmsd.toml").write_text(TOML)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(secrets / "key.pem"))
    names = ("-subj", "/CN=kmsd", "-addext", "subjectAltName=IP:127.0.0.1")
    request = ["openssl", "req", "-x509", *key, "-days", "2", *names, "-out", str(configuration / "certificate.pem")]
    subprocess.run(request, check=True, capture_output=True)
    subprocess.run(["chown", "-R", f"{USER}:0", volume, secrets], check=True)
    (folder / "nothing").touch(mode=0o644)
    mounts = {
        volume: "/var/lib/kmsd",
        secrets: "/run/secrets:ro",
        configuration: "/etc/kmsd:ro",
        Path(LIBRARY): "/usr/lib/vendor/libpkcs11.so:ro",
        # There is no shell: what would start one gets "Permission denied".
        folder / "nothing": "/usr/bin/dash:ro",
    }
    return [word for path, place in mounts.items() for word in ("--volume", f"{path}:{place}")]


def test_the_image_serves_without_a_shell(engine: Engine, tmp_path: Path) -> None:
    """The vendor's library is mounted, secrets are files, /bin/sh cannot be run; SIGHUP reloads the configuration."""
    mounts = site(tmp_path)
    made = engine.run("podman", "run", "--rm", *CONFINED, *mounts, "kmsd", "init", "--format", "json").stdout
    fields = json.loads(made[made.index("{") :])
    credentials = Credentials(fields["AccessKeyId"], fields["SecretAccessKey"])
    container = engine.start("kmsd", *mounts, "kmsd")
    container.until_healthy("/etc/kmsd/kmsd.toml")
    assert container.executed("/bin/sh", "-c", "true").returncode != 0
    authority = tmp_path / "configuration/certificate.pem"
    container.encrypts(credentials, authority)
    engine.run("podman", "kill", "--signal", "HUP", "kmsd")
    until(lambda: '"event": "reloaded"' in logs(engine, "kmsd"), 60)
    container.encrypts(credentials, authority)
    assert container.stop() == 0


def pod(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The pod of the chart with SoftHSM2 as its token, and what Kubernetes would mount in it."""
    site(folder)
    token = f"module=/usr/lib/vendor/libpkcs11.so,label=production,dir_sync={SOFTHSM}/tokens"
    environment = f"config.token.environment.SOFTHSM2_CONF={SOFTHSM}/softhsm2.conf"
    changes = [f"config.token.{one}" for one in token.split(",")] + [environment, "metrics.enabled=true"]
    peers = "networkPolicy.prometheus[0].podSelector.a=b"
    region = "config.region=eu-trial-1"
    done = chart.rendered("single", *(word for one in (*changes, peers, region) for word in ("--set", one)))
    assert done.returncode == 0, done.stderr
    found = {one["kind"]: one for one in yaml.safe_load_all(done.stdout) if one}
    secrets = folder / "secrets"
    (secrets / "tls").mkdir()
    shutil.copy(folder / "configuration/certificate.pem", secrets / "tls/tls.crt")
    shutil.copy(secrets / "key.pem", secrets / "tls/tls.key")
    (folder / "configmap").mkdir()
    for name, text in found["ConfigMap"]["data"].items():
        (folder / "configmap" / name).write_text(text)
    # As the kubelet does it: root's, for the group.
    subprocess.run(["chown", "-R", "0:0", secrets, folder / "configmap"], check=True)
    subprocess.run(["chmod", "-R", "u=rX,g=rX,o=", secrets], check=True)
    mounts = {
        folder / "volume": "/var/lib/kmsd",
        secrets / "tls": "/run/secrets/tls:ro",
        secrets / "pin": "/run/secrets/pin/pin:ro",
        folder / "configmap": "/etc/kmsd:ro",
        Path(LIBRARY): "/usr/lib/vendor/libpkcs11.so:ro",
    }
    volumes = [word for path, place in mounts.items() for word in ("--volume", f"{path}:{place}")]
    return found["StatefulSet"]["spec"]["template"]["spec"], [*volumes, "--tmpfs", "/tmp"]  # noqa: S108


def test_a_pod_of_the_chart(engine: Engine, tmp_path: Path) -> None:
    """The chart's commands, scripts and paths fit the image: it waits, is made, serves, is scraped, and stops."""
    try:
        spec, mounts = pod(tmp_path)
    except image.UnavailableError as error:
        pytest.skip(f"no helm: {error}")
    waits, serves = spec["initContainers"][-1], spec["containers"][0]
    variables = ("--env", "JOIN=false", "--env", "POD=kmsd-0")
    entry = ("--entrypoint", json.dumps(waits["command"]))
    provision = engine.start("provision", *entry, *variables, *mounts, "kmsd")
    until(lambda: "sh /etc/kmsd/provision init" in logs(engine, "provision"), 30)
    made = provision.executed("sh", "/etc/kmsd/provision", "init", "--format", "json").stdout
    fields = json.loads(made[made.index("{") :])
    assert engine.run("podman", "wait", "provision").stdout.strip() == "0"
    container = engine.start("pod", *mounts, "kmsd", *serves["args"])
    container.until_healthy("/etc/kmsd/kmsd.toml")
    authority = tmp_path / "secrets/tls/tls.crt"
    container.encrypts(Credentials(fields["AccessKeyId"], fields["SecretAccessKey"]), authority)
    process = int(engine.run("podman", "inspect", "--format", "{{.State.Pid}}", "pod").stdout)
    with network_of(process):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert fetched(8443, serves[probe]["httpGet"]["path"], authority)[0] == 200
        assert "kmsd_ready 1.0" in fetched(9480, "/metrics", authority)[1]
    assert container.executed(*serves["lifecycle"]["preStop"]["exec"]["command"]).returncode == 0
    assert "0 failures" in container.executed("kmsd", "check", "--no-token").stdout
    assert container.executed("sh", "-c", "kill -HUP 1").returncode == 0
    until(lambda: '"event": "reloaded"' in logs(engine, "pod"), 60)
    assert container.stop() == 0


def fetched(port: int, path: str, authority: Path) -> tuple[int, str]:
    """Status and text of a page over TLS."""
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def logs(engine: Engine, name: str) -> str:
    """All that a container has written."""
    done = engine.run("podman", "logs", name)
    return done.stdout + done.stderr


def test_what_the_image_is(engine: Engine) -> None:
    """The program of the package and little else; a user that is not root; a health check that starts no shell."""
    inspected = json.loads(engine.run("podman", "image", "inspect", "kmsd").stdout)[0]
    assert inspected["Config"]["User"] == "10001:10001"
    assert inspected["Config"]["Entrypoint"] == ["/usr/bin/tini", "--", "/usr/bin/kmsd"]
    assert inspected["HealthCheck" if "HealthCheck" in inspected else "Healthcheck"]["Test"][0] == "CMD"
    assert inspected["Size"] - base_size(engine) < MAX_BYTES
    version = engine.run("podman", "run", "--rm", *CONFINED, "kmsd", "--version").stdout
    assert version == f"kmsd {kmsd.__version__}\n"


def base_size(engine: Engine) -> int:
    """Bytes of the base."""
    size: int = json.loads(engine.run("podman", "image", "inspect", "base").stdout)[0]["Size"]
    return size
