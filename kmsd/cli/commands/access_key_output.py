"""Output of a new access key: printed once, or written to a file that only its owner may read."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from typing import Any

from kmsd.cli.named_files import SecretFile
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.custody.provisioning import NewAccessKey
from kmsd.exit_codes import TryLater

_GUARD = """# For the aws CLI from 1.29 or 2.13, boto3 from 1.28: older ones ignore AWS_ENDPOINT_URL and talk to AWS.
unset AWS_SESSION_TOKEN AWS_IGNORE_CONFIGURED_ENDPOINT_URLS
unset AWS_ENDPOINT_URL_KMS AWS_ENDPOINT_URL_STS AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"""
"""First lines of an env file: earlier variables must not redirect a client (docs/decisions/0033-endpoint-guard.md)."""


def add_output(command: argparse.ArgumentParser) -> None:
    """Add the options for format and destination."""
    command.add_argument(
        "--format",
        choices=("text", "env", "json"),
        default="text",
        help="of the access key; env: for `source FILE`; default: %(default)s",
    )
    command.add_argument(
        "--output",
        type=SecretFile,
        metavar="FILE",
        help="write the access key to this new file (mode 0600) instead of printing it",
    )


def access_key_elements(new_key: NewAccessKey) -> dict[str, Any]:
    """Return the audit record's elements for a new credential, as in IAM's CreateAccessKey; without the secret."""
    return {"accessKey": {"userName": new_key.user.name, "accessKeyId": new_key.access_key_id, "status": "Active"}}


def require_client_url(config: Config, options: argparse.Namespace) -> None:
    """Raise `ConfigError` if an env file would name no endpoint: a client that sources it would connect to AWS.

    Call it before anything is created.
    """
    if options.format == "env" and config.client_url is None:
        raise ConfigError(
            f"clients cannot connect to [listen] address {config.listen.address!r} as it stands: set public_url in "
            "kmsd.toml, such as https://kms.example.com:8443, or take another --format"
        )


def hand_over(new_key: NewAccessKey, config: Config, options: argparse.Namespace) -> None:
    """Print or write a new credential, once. Raises `TryLater` if the file cannot be written; the secret is lost."""
    text = _shown(new_key, config, options.format)
    output: SecretFile | None = options.output
    if output is None:
        print(text)
        return
    try:
        output.write(f"{text}\n")
    except OSError as exc:
        remedy = f"delete it (kmsd access-key delete {new_key.access_key_id}) and create another"
        raise TryLater(f"{output}: {exc.strerror}; the secret of {new_key.access_key_id} is lost: {remedy}") from exc
    print(f"access key {new_key.access_key_id} of {new_key.user.arn}: the secret is in {output}")


def _shown(new_key: NewAccessKey, config: Config, form: str) -> str:
    if form == "env":
        exports = [f"export {name}={shlex.quote(value)}" for name, value in _variables(new_key, config).items()]
        return "\n".join([_GUARD, *exports])
    if form == "json":
        fields = {"UserName": new_key.user.name, "Arn": new_key.user.arn, "AccessKeyId": new_key.access_key_id}
        return json.dumps({**fields, "SecretAccessKey": new_key.secret}, indent=2)
    return f"User: {new_key.user.arn}\nAccessKeyId: {new_key.access_key_id}\nSecretAccessKey: {new_key.secret}"


def _variables(new_key: NewAccessKey, config: Config) -> Mapping[str, str]:
    return {
        "AWS_ENDPOINT_URL": config.client_url or "",
        "AWS_ACCESS_KEY_ID": new_key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": new_key.secret,
        "AWS_REGION": config.region,
        "AWS_DEFAULT_REGION": config.region,
    }
