"""A pod's way: a token in a file, two environment variables, the stock SDK, and no access key anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import ACCOUNT, REGION
from tests.support.daemon import Daemon, provisioned
from tests.support.web_identity import Issuer, served

SCRIPT = """
import boto3
kms = boto3.client("kms")
key_id = kms.create_key()["KeyMetadata"]["KeyId"]
blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
print(kms.decrypt(CiphertextBlob=blob)["Plaintext"].decode())
"""


@pytest.fixture(scope="module", name="site")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Issuer]]:
    """A daemon that trusts an issuer which it asks for its keys over TLS, and a role for its bearers."""
    folder = tmp_path_factory.mktemp("web")
    with served(folder) as (issuer, authority):
        table = f'[[web_identity]]\nissuer = "{issuer.url}"\nca = "{authority}"\n[rates]\nweb_identity = 5\n'
        with provisioned(folder, extra=table) as daemon:
            condition = {"StringEquals": {f"{issuer.name}:sub": "pod"}}
            statements = [
                {
                    "Effect": "Allow",
                    "Principal": {"Federated": issuer.arn(ACCOUNT)},
                    "Action": "sts:AssumeRoleWithWebIdentity",
                    "Condition": condition,
                },
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sts:*",
                    "Condition": {"StringLike": {f"{issuer.name}:sub": "root*"}},
                },
            ]
            write(folder / "trust.json", statements)
            write(folder / "policy.json", [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}])
            daemon.cli(
                *("role", "create", "pod", "--trust", str(folder / "trust.json")),
                *("--policy", str(folder / "policy.json")),
            )
            daemon.start()
            yield daemon, issuer
            daemon.cli("check")


def write(path: Path, statements: list[dict[str, object]]) -> None:
    """A policy, as a file."""
    path.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))


def as_pod(daemon: Daemon, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as a pod with this token would."""
    (folder / "token").write_text(token)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            **environment,
            "HOME": str(folder),
            "AWS_ENDPOINT_URL": daemon.endpoint,
            "AWS_ENDPOINT_URL_STS": daemon.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/pod",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token"),
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_static_key(site: tuple[Daemon, Issuer], tmp_path: Path) -> None:
    """The SDK gets credentials by itself; also while the issuer is down, once its keys are known."""
    daemon, issuer = site
    assert as_pod(daemon, issuer.token(sub="pod"), tmp_path).stdout == "text\n"
    issuer.is_down = True
    try:
        assert as_pod(daemon, issuer.token(sub="pod"), tmp_path).stdout == "text\n"
        done = as_pod(daemon, issuer.token(sub="another"), tmp_path)
        assert "AccessDenied" in done.stderr
    finally:
        issuer.is_down = False


def test_what_check_says(site: tuple[Daemon, Issuer]) -> None:
    """The number of keys; and what is wrong, where the issuer cannot be asked."""
    daemon, issuer = site
    assert f"{issuer.url}: 1 keys" in daemon.cli("check").stdout.decode()
    issuer.is_down = True
    try:
        text = daemon.cli("check").stdout.decode()
    finally:
        issuer.is_down = False
    assert f"{issuer.url}: no keys" in text
    assert "status 503" in text


def test_a_flood_is_throttled(site: tuple[Daemon, Issuer]) -> None:
    """Before the token is looked at."""
    daemon, _ = site
    sts, codes = daemon.client("sts"), set()
    for _ in range(50):
        try:
            sts.assume_role_with_web_identity(
                RoleArn=f"arn:aws:iam::{ACCOUNT}:role/pod", RoleSessionName="pod", WebIdentityToken="a.b.c"
            )
        except sts.exceptions.ClientError as error:
            codes.add(error.response["Error"]["Code"])
    assert codes == {"InvalidIdentityToken", "Throttling"}


def test_a_deny_must_name_a_configured_issuer(site: tuple[Daemon, Issuer], tmp_path: Path) -> None:
    """One of another issuer, or in another kind of policy, would never apply: it is refused by name."""
    daemon, issuer = site
    deny = {"Effect": "Deny", "Action": "sts:*", "Principal": "*"}
    condition = {"StringEquals": {"idp.example.com:sub": "x"}}
    write(tmp_path / "trust.json", [{**deny, "Condition": condition}])
    done = daemon.cli("role", "put-trust", "pod", "--trust", str(tmp_path / "trust.json"), check=False)
    assert done.returncode != 0
    assert b"idp.example.com:sub" in done.stderr
    write(
        tmp_path / "policy.json",
        [
            {
                "Effect": "Deny",
                "Action": "kms:*",
                "Resource": "*",
                "Condition": {"StringEquals": {f"{issuer.name}:sub": "x"}},
            }
        ],
    )
    done = daemon.cli("role", "put-policy", "pod", "--policy", str(tmp_path / "policy.json"), check=False)
    assert done.returncode != 0
