"""The README's commands, run as they stand, by a new user in a new folder; and what it says of its users and role."""

from __future__ import annotations

import os
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.session
import pytest

from tests.support.daemon import free_port
from tests.support.page_commands import ROOT, commands


@dataclass(frozen=True)
class NewUser:
    """A folder that looks like a clone, with `scripts/run` running."""

    folder: Path

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run commands as a user types them, in one shell; nothing of this process's AWS settings shines through."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={
                **inherited,
                "PATH": path,
                "HOME": str(self.folder),
                "AWS_PAGER": "",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture(name="new_user", scope="module")
def _new_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewUser]:
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    port = free_port()
    command = [str(ROOT / "scripts" / "run"), "--listen", f"127.0.0.1:{port}", "--data", str(folder / "var" / "dev")]
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/readyz", process, folder / "run.log")
        yield NewUser(folder)
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 170
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own address)
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_first_encryption(new_user: NewUser) -> None:
    """The last command prints the plaintext; the system's aws CLI, which may ignore the endpoint, is not asked."""
    old = new_user.folder / "bin" / "aws"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'the CLI of the system' >&2\nexit 9\n")
    old.chmod(0o755)
    script = "".join(commands("README.md", name) for name in ("first-key", "first-encryption"))
    done = new_user.shell(script, PATH=f"{old.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("arn:aws:kms:us-local-1:000000000000:key/")
    assert done.stdout.endswith("attack at dawn")


def test_a_first_signature(new_user: NewUser) -> None:
    """The public key is enough for openssl to verify it."""
    done = new_user.shell("source var/dev/client.env\n" + commands("README.md", "first-signature"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Verified OK\n"


def test_a_client_that_ignores_the_endpoint_finds_no_host(new_user: NewUser) -> None:
    """The region of `scripts/run`, and those that the examples of kmsd.toml name, are none of AWS's."""
    session = botocore.session.get_session()
    partitions = session.get_available_partitions()
    known = {region for one in partitions for region in session.get_available_regions("kms", one)}
    assert "us-east-1" in known
    files = (new_user.folder / "var/dev/kmsd.toml", *(ROOT / "systemd").glob("*.toml.example"))
    regions = {tomllib.loads(path.read_text())["region"] for path in files}
    assert len(regions) == len(files)
    assert regions & known == set()


def test_env_files_undo_what_would_send_a_client_elsewhere(new_user: NewUser) -> None:
    """Variables of before name another endpoint, a session, or have the endpoint ignored; the file ends that."""
    before = {
        "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:9",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_SESSION_TOKEN": "of another login",
    }
    done = new_user.shell("source var/dev/client.env; aws kms list-keys", **before)
    assert done.returncode == 0, done.stderr


def test_who_may_do_what(new_user: NewUser) -> None:
    """Alice encrypts, Bob decrypts, the auditor looks: each does that, by the aws CLI, and nothing else."""
    done = new_user.shell("source var/dev/client.env\n" + commands("README.md", "who-may"))
    assert done.returncode == 0, done.stderr
    assert "ALLOWED by identity-policy:" in done.stdout
    encrypt = "aws kms encrypt --key-id $ARN --plaintext fileb://secret.txt"
    decrypt = "aws kms decrypt --ciphertext-blob fileb://secret.blob --encryption-context purpose=demo"
    acts = {
        "encrypt": encrypt,
        "decrypt": decrypt,
        "describe": "aws kms describe-key --key-id $ARN",
        "list": "aws kms list-keys",
        "policy": "aws kms get-key-policy --key-id $ARN",
        "create": "aws kms create-key",
        "disable": "aws kms disable-key --key-id $ARN",
        "grant": "aws kms create-grant --key-id $ARN --grantee-principal $ME --operations Decrypt",
    }
    arn = new_user.shell(
        "source var/dev/client.env; aws kms describe-key --key-id alias/first --query KeyMetadata.Arn --output text"
    ).stdout.strip()
    profile = new_user.folder / "aws-config"
    profile.write_text(
        "[profile auditor]\nrole_arn = arn:aws:iam::000000000000:role/auditor\ncredential_source = Environment\n"
    )
    who = {
        "alice": ("source alice.env", {}, {"encrypt"}),
        "bob": ("source bob.env", {}, {"decrypt"}),
        "auditor": (
            'source var/dev/client.env; aws() { command aws --profile auditor "$@"; }',
            {"AWS_CONFIG_FILE": str(profile)},
            {"describe", "list", "policy"},
        ),
    }
    for name, (login, environment, allowed) in who.items():
        done_by = set()
        for act, command in acts.items():
            ran = new_user.shell(
                f"{login}; ARN={arn}; ME=arn:aws:iam::000000000000:user/{name}; {command}", **environment
            )
            if ran.returncode == 0:
                done_by.add(act)
            else:
                assert "AccessDenied" in ran.stderr, ran.stderr
        assert done_by == allowed, name


def test_run_again_finds_what_it_made(new_user: NewUser) -> None:
    """Configuration, token and credentials are as they were; secrets are the owner's alone."""
    data = new_user.folder / "var" / "dev"
    for name in ("client.env", "kmsd.toml", "softhsm/pin", "softhsm/so-pin"):
        assert (data / name).stat().st_mode & 0o077 == 0, name
    assert "AWS_DEFAULT_REGION" in (data / "client.env").read_text()
