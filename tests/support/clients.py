"""Stock clients of the daemon: boto3 as its users configure it, with a clock that tests can move."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import botocore.config
from botocore.exceptions import ClientError

REGION = "us-east-1"
ACCOUNT = "000000000000"


@dataclass
class SigningClock:
    """What botocore takes for the time of day; a test that moves the daemon's clock moves this one with it."""

    offset: timedelta = timedelta(0)

    def now(self, *, remove_tzinfo: bool = True) -> datetime:
        """As `botocore.compat.get_current_datetime`."""
        now = datetime.now(UTC) + self.offset
        return now.replace(tzinfo=None) if remove_tzinfo else now


signing_clock = SigningClock()
botocore.auth.get_current_datetime = signing_clock.now


@dataclass(frozen=True)
class Credentials:
    """An access key as `kmsd init` and `kmsd user create` print it."""

    access_key_id: str
    secret: str
    arn: str = ""
    session_token: str | None = None


_session = boto3.session.Session()
"""One for all clients: reading the models takes four times as long as making a client."""
_making = threading.Lock()
"""A session may make one client at a time; a client serves any thread."""


def client(
    endpoint: str,
    credentials: Credentials,
    service: str = "kms",
    *,
    authority: Path | None = None,
    region: str = REGION,
    **options: Any,
) -> Any:
    """A boto3 client without retries: a test wants to see the first answer. `authority`: PEM file to trust, for TLS."""
    config = botocore.config.Config(retries={"total_max_attempts": 1}, **options)
    with _making:
        return _session.client(
            service,
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=credentials.access_key_id,
            aws_secret_access_key=credentials.secret,
            aws_session_token=credentials.session_token,
            verify=None if authority is None else str(authority),
            config=config,
        )


def code_of(call: Callable[..., Any], *arguments: Any, **members: Any) -> str:
    """The error name that a call answers with; empty if it works."""
    try:
        call(*arguments, **members)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""
