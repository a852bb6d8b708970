"""The users of docs/integrations.md, made by its own commands, and what their policies let them do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.aws_cli import AWS, environment
from tests.support.clients import Credentials, code_of
from tests.support.daemon import Daemon
from tests.support.model_requests import NAMES, method_of, request_of
from tests.support.page_commands import ROOT, commands

PAGE = "docs/integrations.md"


def blocks() -> list[str]:
    """The names of the page's blocks, in order."""
    return re.findall(r"<!-- test: (\S+) -->", (ROOT / PAGE).read_text())


@dataclass
class Site:
    """A daemon with the page's key and users; `folder` is where the commands were typed."""

    daemon: Daemon
    folder: Path
    client_of: Callable[[Credentials], Any]
    """A boto3 client of somebody."""
    environ: dict[str, str]
    """What the administrator exports."""

    @property
    def key(self) -> str:
        """ARN of the page's key."""
        return (self.folder / "key").read_text().strip()

    def shell(self, script: str) -> list[str]:
        """A command that types `script` in the folder."""
        kmsd = f'kmsd() {{ {sys.executable} -m kmsd --config {self.daemon.config} "$@"; }}\n'
        return ["bash", "-euo", "pipefail", "-c", kmsd + script]

    def typed(self, script: str, **more: str) -> str:
        """What the shell prints. Raises AssertionError with what it complains of."""
        environ = {**self.environ, **more}
        done = subprocess.run(
            self.shell(script), cwd=self.folder, env=environ, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make_users(self) -> None:
        """Type the page's first block and all that make a user, from top to bottom."""
        made = [commands(PAGE, name) for name in blocks() if name == "key" or name.endswith("-user")]
        self.typed("\n".join([*made, 'printf %s "$KEY" >key']))

    def user(self, name: str) -> Credentials:
        """The access key that the page's commands wrote."""
        text = (self.folder / f"{name}.env").read_text()
        values = dict(re.findall(r"(AWS_[A-Z_]+)=['\"]?([^'\"\n]+)", text))
        return Credentials(values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"], name)

    def client(self, name: str) -> Any:
        """A boto3 client of a user of the page."""
        return self.client_of(self.user(name))

    def statements(self, name: str) -> list[dict[str, Any]]:
        """The policy of a user, as the page's commands wrote it."""
        found: list[dict[str, Any]] = json.loads((self.folder / f"{name}.json").read_text())["Statement"]
        return found

    def allowed(self, name: str) -> set[str]:
        """The operations that a policy names."""
        return {action.removeprefix("kms:") for one in self.statements(name) for action in _list(one["Action"])}

    def calls(self, name: str) -> Iterator[dict[str, Any]]:
        """The records of a user's calls of KMS."""
        for record in self.daemon.audit_records():
            who = record.get("userIdentity", {})
            if who.get("userName") == name and record["eventSource"] == "kms.amazonaws.com":
                yield record

    def used(self, name: str) -> set[str]:
        """The operations that succeeded for a user."""
        return {record["eventName"] for record in self.calls(name) if "errorCode" not in record}

    def check_policy(self, name: str, context: dict[str, str]) -> None:
        """What a user did is what the policy names; all else is refused, and so is another encryption context.

        Raises AssertionError with the operations that differ.
        """
        assert self.used(name) == self.allowed(name), (self.used(name), self.allowed(name))
        admin, kms = self.client_of(self.daemon.admin), self.client(name)
        blob = admin.encrypt(KeyId=self.key, Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
        grant = admin.create_grant(KeyId=self.key, GranteePrincipal=self.daemon.admin.arn, Operations=["Decrypt"])
        codes = {}
        for operation in NAMES - self.allowed(name):
            members = request_of(operation, self.key, blob, "alias/shop", grant["GrantId"])
            codes[operation] = code_of(method_of(kms, operation), **members)
        wrong = {one: code for one, code in codes.items() if code != "AccessDeniedException"}
        assert not wrong, wrong
        if context:
            self._check_context(name, context)

    def _check_context(self, name: str, context: dict[str, str]) -> None:
        admin, kms = self.client_of(self.daemon.admin), self.client(name)
        for other in ({}, {key: f"not-{value}" for key, value in context.items()}, {"other": "x"}):
            blob = admin.encrypt(KeyId=self.key, Plaintext=b"x", EncryptionContext=other)["CiphertextBlob"]
            tries = {
                "Decrypt": lambda: kms.decrypt(CiphertextBlob=blob, EncryptionContext=other),  # noqa: B023
                "Encrypt": lambda: kms.encrypt(KeyId=self.key, Plaintext=b"x", EncryptionContext=other),  # noqa: B023
                "GenerateDataKey": lambda: kms.generate_data_key(
                    KeyId=self.key,
                    KeySpec="AES_256",
                    EncryptionContext=other,  # noqa: B023
                ),
            }
            codes = {name: code_of(act) for name, act in tries.items()}
            assert set(codes.values()) == {"AccessDeniedException"}, codes


def path_with_aws() -> str:
    """The folder of the aws CLI, for PATH."""
    return str(AWS.parent)


def site_of(daemon: Daemon, folder: Path, client_of: Callable[[Credentials], Any], **more: str) -> Site:
    """Make the page's users on a daemon that runs."""
    environ = environment(daemon)
    environ["PATH"] = f"{path_with_aws()}:{environ['PATH']}"
    made = Site(daemon, folder, client_of, {**environ, **more})
    made.make_users()
    return made


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
