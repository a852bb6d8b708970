"""Clients that call again and again, whatever they are answered."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from tests.host.machine import Machine

CLIENTS = 10
PAUSE_SECONDS = 0.1
RETRYABLE = {500, 502, 503, 504}
"""Statuses after which the AWS SDKs try again by themselves."""


class Site(Protocol):
    """A daemon on a host."""

    host: Machine

    def client(self) -> Any:
        """boto3; its sockets are the host's within `host.network()` alone."""


@dataclass
class Knocking:
    """Ten clients, each of which encrypts every 100 ms; a context manager."""

    service: Site
    key_id: str
    answers: Counter[str] = field(default_factory=Counter)
    """Calls by what became of them: `ok`, an error's status and name, or what botocore says of a connection."""
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Knocking:  # noqa: PYI034 (no subclass)
        self._threads = [threading.Thread(target=self._knock) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _knock(self) -> None:
        with self.service.host.network():
            kms = self.service.client()
            while not self._over.wait(PAUSE_SECONDS):
                answer = self._call(kms)
                with self._lock:
                    self.answers[answer] += 1
            kms.close()

    def _call(self, kms: object) -> str:
        try:
            kms.encrypt(KeyId=self.key_id, Plaintext=b"x")  # type: ignore[attr-defined] # boto3 makes methods at run time
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return f"{status} {error.response['Error']['Code']}"
        except BotoCoreError as error:
            return f"{type(error).__name__}"
        return "ok"

    def total(self, answer: str | None = None) -> int:
        """Calls that were answered so, or all."""
        with self._lock:
            return self.answers.total() if answer is None else self.answers[answer]

    def unfit(self) -> dict[str, int]:
        """What a client would not try again after, with the number of such calls."""
        with self._lock:
            return {
                answer: number
                for answer, number in self.answers.items()
                if answer != "ok" and answer.split()[0] not in map(str, RETRYABLE)
            }
