"""A mixed load at a given rate, cheap enough to run beside what it measures."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from tests.support.clients import REGION, Credentials

_TARGETS = {"kms": "TrentService", "logs": "Logs_20140328"}
RETRYABLE = {
    *("KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException", "ServiceUnavailableException")
}
"""What an SDK tries again; nothing else may be answered, whatever the token does."""

MAX_UNDONE = 20
"""Grants and aliases that are there at a time."""
ALIASES = 120
"""Names of aliases, used by turns, each for one key: of the names and pairs that it has met a process remembers some
thousand, which random ones would fill for half an hour."""


@dataclass
class Answers:
    """What came of the requests."""

    good: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    """Errors that must not be, and broken exchanges."""
    slowest: float = 0.0


@dataclass
class Work:
    """What the requests are about."""

    endpoint: str
    credentials: Credentials
    keys: list[str]
    blobs: list[str]
    chance: random.Random
    answers: Answers = field(default_factory=Answers)
    count: int = 0
    aliases: int = 0
    undone: deque[tuple[str, str, dict[str, Any]]] = field(default_factory=deque)
    """Requests that take back what was made; few at a time, so that there is never more than at the start."""

    def choose(self) -> tuple[str, str, dict[str, Any]]:
        """Service, operation and members of the next request. Nothing lasting is made more of, but log events."""
        self.count += 1
        if len(self.undone) > MAX_UNDONE:
            return self.undone.popleft()
        key = self.chance.choice(self.keys)
        context = {"tenant": str(self.chance.randrange(50))}
        text = base64.b64encode(self.chance.randbytes(64)).decode()
        kind = self.chance.random()
        if kind < 0.35:
            return "kms", "Encrypt", {"KeyId": key, "Plaintext": text, "EncryptionContext": context}
        if kind < 0.63:
            return "kms", "Decrypt", {"CiphertextBlob": self.chance.choice(self.blobs)}
        if kind < 0.64:
            blob = self.chance.choice(self.blobs)
            return "kms", "ReEncrypt", {"CiphertextBlob": blob, "DestinationKeyId": key}
        if kind < 0.645:
            grant = {"GranteePrincipal": self.credentials.arn, "Operations": ["Decrypt"]}
            return "kms", "CreateGrant", {"KeyId": key, **grant, "Name": f"soak-{self.count}"}
        if kind < 0.65:
            self.aliases = (self.aliases + 1) % ALIASES
            always = self.keys[self.aliases % len(self.keys)]
            return "kms", "CreateAlias", {"AliasName": f"alias/soak-{self.aliases}", "TargetKeyId": always}
        if kind < 0.80:
            return "kms", "GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}
        if kind < 0.88:
            return "kms", "GenerateRandom", {"NumberOfBytes": 64}
        if kind < 0.93:
            return "kms", "DescribeKey", {"KeyId": key}
        if kind < 0.96:
            return "kms", "UpdateKeyDescription", {"KeyId": key, "Description": f"soak {self.count % 100}"}
        if kind < 0.98:
            return "kms", "ListAliases", {"KeyId": key}
        event = {"timestamp": int(time.time() * 1000), "message": f"event {self.count}"}
        return "logs", "PutLogEvents", {"logGroupName": "/soak", "logStreamName": "s", "logEvents": [event]}

    def made(self, operation: str, members: dict[str, Any], answer: bytes) -> None:
        """Remember how to take back what a request has made."""
        if operation == "CreateGrant":
            grant_id = json.loads(answer)["GrantId"]
            self.undone.append(("kms", "RevokeGrant", {"KeyId": members["KeyId"], "GrantId": grant_id}))
        elif operation == "CreateAlias":
            self.undone.append(("kms", "DeleteAlias", {"AliasName": members["AliasName"]}))

    def signed(self, service: str, operation: str, members: dict[str, Any]) -> bytes:
        """The bytes of a request."""
        body = json.dumps(members).encode()
        headers = {"X-Amz-Target": f"{_TARGETS[service]}.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"{self.endpoint}/", data=body, headers=headers)
        identity = BotoCredentials(self.credentials.access_key_id, self.credentials.secret)
        SigV4Auth(identity, service, REGION).add_auth(request)
        lines = [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "content-length"]
        head = ["POST / HTTP/1.1", f"Host: {urlsplit(self.endpoint).netloc}", *lines, f"Content-Length: {len(body)}"]
        return "\r\n".join((*head, "", "")).encode() + body


async def _exchange(work: Work, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    """One request; whether the connection may be used again."""
    reader, writer = streams
    service, operation, members = work.choose()
    begun = time.monotonic()
    writer.write(work.signed(service, operation, members))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    body = await asyncio.wait_for(reader.readexactly(int(headers[b"Content-Length"])), 30)
    work.answers.slowest = max(work.answers.slowest, time.monotonic() - begun)
    if head.startswith(b"HTTP/1.1 200 "):
        work.answers.good[operation] += 1
        work.made(operation, members, body)
    else:
        code = str(json.loads(body).get("__type", "?")).rpartition("#")[2]
        (work.answers.errors if code in RETRYABLE else work.answers.wrong)[f"{operation} {code}"] += 1
    return headers.get(b"Connection") != b"close"


async def _client(work: Work, pause: float, end: float) -> None:
    """One connection after another, each for a while: connections that come and go are part of the load."""
    parts = urlsplit(work.endpoint)
    while time.monotonic() < end:
        try:
            streams = await asyncio.open_connection(parts.hostname, parts.port)
            for _ in range(work.chance.randrange(20, 400)):
                if time.monotonic() >= end or not await _exchange(work, streams):
                    break
                await asyncio.sleep(work.chance.expovariate(1 / pause))
            streams[1].close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            work.answers.wrong[repr(error)] += 1
            await asyncio.sleep(0.1)


async def run(work: Work, *, rate: float, connections: int, seconds: float) -> None:
    """About `rate` requests a second for so long."""
    end = time.monotonic() + seconds
    await asyncio.gather(*(_client(work, connections / rate, end) for _ in range(connections)))
