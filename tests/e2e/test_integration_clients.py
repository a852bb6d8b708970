"""docs/integrations.md with the clients themselves, over TLS with an authority of its own: each command as it stands.

Where a section's client runs, the audit trail shows exactly the operations of its policy, and all others are refused.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.certificates import self_signed
from tests.support.clients import Credentials, client
from tests.support.daemon import free_port, free_ports, provisioned
from tests.support.integration_clients import programs
from tests.support.integration_site import PAGE, Site, site_of
from tests.support.page_commands import commands
from tests.support.polling import until

pytestmark = pytest.mark.skipif(
    "KMSD_TEST_CLIENTS" not in os.environ, reason="KMSD_TEST_CLIENTS is not set (500 MB of clients)"
)
SCRIPTS = Path(__file__).parent / "clients"


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("daemon")
    certificate, key = self_signed(folder)
    clients = programs()
    with provisioned(folder) as daemon:
        text = daemon.config.read_text()
        tls = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n[token]'
        daemon.config.write_text(text.replace("[token]", tls))
        daemon.start(ready=False)
        endpoint = f"https://127.0.0.1:{daemon.port}"

        def client_of(who: Credentials) -> Any:
            return client(endpoint, who, authority=certificate)

        until(lambda: _answers(client_of(daemon.admin)), 60, otherwise=daemon.log)
        trusted = {"AWS_CA_BUNDLE": str(certificate), "SSL_CERT_FILE": str(certificate), "AWS_ENDPOINT_URL": endpoint}
        # python3 and the programs are the clients'; the aws CLI is the one of requirements-cli.txt.
        path = f"{clients}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        site = site_of(daemon, tmp_path_factory.mktemp("typed"), client_of, **trusted, PATH=path)
        site.environ["KEY"] = site.key
        yield site


def _answers(kms: Any) -> bool:
    try:
        kms.list_keys()
    except (BotoCoreError, ClientError):
        return False
    return True


def moved(name: str, places: dict[str, str]) -> str:
    """A block of the page, with its ports exchanged for ports that are free here."""
    text = commands(PAGE, name)
    for old, new in places.items():
        text = text.replace(old, new)
    return text


@contextmanager
def running(site: Site, script: str, log: str) -> Iterator[Path]:
    """Type a command that does not end; end it, with what it has started. The file of what it prints."""
    path = site.folder / log
    with path.open("ab") as output:
        process = subprocess.Popen(
            site.shell(script),
            cwd=site.folder,
            env=site.environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield path
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def succeeds(site: Site, script: str) -> Callable[[], bool]:
    """A question for `until`: whether a command ends with status 0."""
    return lambda: (
        subprocess.run(
            site.shell(script), cwd=site.folder, env=site.environ, capture_output=True, check=False, timeout=60
        ).returncode
        == 0
    )


def test_sops(site: Site) -> None:
    """A file is encrypted, rotated and decrypted, and is no plaintext in between."""
    assert site.typed(commands(PAGE, "sops")) == "password: hunter2\n"
    assert "hunter2" not in (site.folder / "secret.yaml").read_text()
    site.check_policy("sops", {"app": "shop"})


def test_encryption_sdk(site: Site) -> None:
    """A message is encrypted and decrypted; its records have the SDK's own pair in the context."""
    assert site.typed(commands(PAGE, "encryption-sdk")) == "attack at dawn\n"
    contexts = [record["requestParameters"]["encryptionContext"] for record in site.calls("encryption-sdk")]
    assert [set(context) for context in contexts] == [{"app", "aws-crypto-public-key"}] * 2
    site.check_policy("encryption-sdk", {"app": "shop"})


def test_mongodb(site: Site) -> None:
    """A data key is made, and another client decrypts with it."""
    script = f"source mongodb.env\npython3 {SCRIPTS / 'libmongocrypt.py'}\n"
    assert site.typed(script) == "attack at dawn\n"
    site.check_policy("mongodb", {})


def test_openbao(site: Site) -> None:
    """It is initialised, ends, and unseals itself when it starts again; what it kept is there."""
    first = free_ports(2)
    places = {":8200": f":{first}", ":8201": f":{first + 1}"}
    site.typed(moved("openbao-config", places))
    serve = moved("openbao-serve", places)
    status = f"export BAO_ADDR=http://127.0.0.1:{first}\nbao status"
    answers = f"{status} || [ $? = 2 ]"
    with running(site, serve, "bao.log") as log:
        until(succeeds(site, answers), 60, otherwise=log.read_text)
        site.typed(moved("openbao-init", places))
        until(succeeds(site, status), 60, otherwise=log.read_text)
    token = json.loads((site.folder / "bao-init.json").read_text())["root_token"]
    with running(site, serve, "bao.log") as log:
        until(succeeds(site, status), 60, otherwise=log.read_text)
        found = site.typed(f"export BAO_ADDR=http://127.0.0.1:{first}\nbao token lookup -format=json", BAO_TOKEN=token)
        assert json.loads(found)["data"]["policies"] == ["root"]
    site.check_policy("openbao", {})


def test_seaweedfs(site: Site) -> None:
    """An object goes in and out, and is not on the server's disk; its name is in the context."""
    port, ports = free_port(), free_ports(3)
    site.typed(commands(PAGE, "seaweedfs-config"))
    (site.folder / "weed").mkdir()
    serve = (
        # An access key in its environment would be an administrator's of its S3 API.
        "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY\n"
        "weed server -dir=weed -ip=127.0.0.1 -ip.bind=127.0.0.1 -volume.max=8 -s3 -s3.config=s3.json"
        " -s3.port.iceberg=0 -s3.port.lance=0"
        f" -s3.port={port} -master.port={ports} -volume.port={ports + 1} -filer.port={ports + 2}"
        f" -s3.port.grpc={free_port()} -master.port.grpc={free_port()} -volume.port.grpc={free_port()}"
        f" -filer.port.grpc={free_port()}\n"
    )
    access = "AWS_ACCESS_KEY_ID=app AWS_SECRET_ACCESS_KEY=change-me"
    s3 = f's3() {{ {access} aws s3api --endpoint-url http://127.0.0.1:{port} "$@"; }}\n'
    with running(site, serve, "weed.log") as log:
        until(succeeds(site, f"{s3}s3 list-buckets"), 60, otherwise=log.read_text)
        assert site.typed(s3 + commands(PAGE, "seaweedfs")) == "attack at dawn\n"
    stored = b"".join(path.read_bytes() for path in (site.folder / "weed").rglob("*") if path.is_file())
    assert stored
    assert b"attack at dawn" not in stored
    contexts = [one["requestParameters"].get("encryptionContext") for one in site.calls("seaweedfs")]
    assert [one for one in contexts if one] == [{"aws:s3:arn": "arn:aws:s3:::docs/report.txt"}] * 2
    site.check_policy("seaweedfs", {"aws:s3:arn": "arn:aws:s3:::docs/report.txt"})
