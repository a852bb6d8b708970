"""Signed requests without a client: whatever method, path and body a test wants, as plain HTTP."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from tests.support.clients import REGION, Credentials


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None if there is none."""
        return json.loads(self.body) if self.body else None


def send(
    endpoint: str,
    credentials: Credentials,
    target: str | None,
    body: bytes = b"{}",
    *,
    method: str = "POST",
    path: str = "/",
    service: str = "kms",
    presigned: bool = False,
) -> Answered:
    """The answer to a request that is signed in its header or, if `presigned`, in its query."""
    headers = {"Host": urlsplit(endpoint).netloc}
    if target is not None:
        headers |= {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest(method, endpoint + path, data=body, headers=headers)
    identity = BotoCredentials(credentials.access_key_id, credentials.secret, credentials.session_token)
    signer = (
        SigV4QueryAuth(identity, service, REGION, expires=60) if presigned else SigV4Auth(identity, service, REGION)
    )
    signer.add_auth(request)
    connection = http.client.HTTPConnection(headers["Host"], timeout=10)
    try:
        connection.request(method, request.url.removeprefix(endpoint), body, dict(request.headers))
        answer = connection.getresponse()
        return Answered(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()
