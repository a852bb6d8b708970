"""Clients that write, and remember what was acknowledged; and whether all of that is there."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.support.daemon import Daemon

RETRYABLE = {
    "DependencyTimeoutException",
    "KeyUnavailableException",
    "KMSInternalException",
    "ServiceUnavailableException",
}
"""The documented answers of a daemon that cannot do now what it is asked: nothing was changed, try again."""
GROUP, STREAM = "/survives", "stream"


@dataclass
class Acknowledged:
    """What a client was told is done. Appended to after the answer, never before."""

    blobs: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """Key id, plaintext, ciphertext blob."""
    aliases: list[tuple[str, str]] = field(default_factory=list)
    grants: list[tuple[str, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    """Acts that worked, and names of errors."""

    def copy(self) -> Acknowledged:
        """As it is at this moment."""
        return Acknowledged(list(self.blobs), list(self.aliases), list(self.grants), list(self.events))


class Writers:
    """Threads that make keys, aliases, grants, blobs and log events until they are told to stop."""

    def __init__(self, daemon: Daemon, threads: int = 3) -> None:
        self.done = Acknowledged()
        self._daemon = daemon
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._unexpected: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def start(self) -> None:
        """Begin."""
        logs = self._daemon.client("logs")
        logs.create_log_group(logGroupName=GROUP)
        logs.create_log_stream(logGroupName=GROUP, logStreamName=STREAM)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """On return they have ended. Raises what none of them should have met."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        if self._unexpected:
            raise self._unexpected[0]

    def copy(self) -> Acknowledged:
        """What was acknowledged up to now."""
        with self._lock:
            return self.done.copy()

    def _run(self, number: int) -> None:
        kms = self._daemon.client(connect_timeout=2, read_timeout=10)
        logs = self._daemon.client("logs", connect_timeout=2, read_timeout=10)
        rounds = 0
        while not self._stopping.is_set():
            rounds += 1
            key_id = self._try("CreateKey", lambda: kms.create_key()["KeyMetadata"]["KeyId"])
            if key_id is None:
                time.sleep(0.01)
                continue
            self._use(kms, logs, key_id, f"{number}-{rounds}")

    def _use(self, kms: Any, logs: Any, key_id: str, name: str) -> None:
        text = secrets.token_bytes(20)
        blob = self._try("Encrypt", lambda: kms.encrypt(KeyId=key_id, Plaintext=text)["CiphertextBlob"])
        if blob is not None:
            self._keep(self.done.blobs, (key_id, text, blob))
        alias = f"alias/{name}"
        if self._try("CreateAlias", lambda: kms.create_alias(AliasName=alias, TargetKeyId=key_id)) is not None:
            self._keep(self.done.aliases, (alias, key_id))
        arn = self._daemon.admin.arn
        grant = self._try(
            "CreateGrant",
            lambda: kms.create_grant(KeyId=key_id, GranteePrincipal=arn, Operations=["Decrypt"])["GrantId"],
        )
        if grant is not None:
            self._keep(self.done.grants, (key_id, grant))
        event = [{"timestamp": int(time.time() * 1000), "message": name}]
        put = self._try(
            "PutLogEvents", lambda: logs.put_log_events(logGroupName=GROUP, logStreamName=STREAM, logEvents=event)
        )
        if put is not None:
            self._keep(self.done.events, name)

    def _keep(self, where: list[Any], what: Any) -> None:
        with self._lock:
            where.append(what)

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        try:
            answer = act()
        except ClientError as error:
            name = error.response["Error"]["Code"]
            if name not in RETRYABLE:
                self._unexpected.append(error)
                self._stopping.set()
            answer = None
        except BotoCoreError as error:
            name, answer = type(error).__name__, None
        with self._lock:
            self.done.answered[name] += 1
        return answer


def assert_all_there(daemon: Daemon, done: Acknowledged) -> None:
    """Every key opens its blob, every alias and grant is there, every event once."""
    kms, logs = daemon.client(), daemon.client("logs")
    for key_id, text, blob in done.blobs:
        answer = kms.decrypt(CiphertextBlob=blob)
        assert (answer["Plaintext"], answer["KeyId"].endswith(key_id)) == (text, True)
    pages = kms.get_paginator("list_aliases").paginate()
    found = {one["AliasName"]: one.get("TargetKeyId") for page in pages for one in page["Aliases"]}
    assert {alias: found.get(alias) for alias, _ in done.aliases} == dict(done.aliases)
    for key_id, grant_id in done.grants:
        assert grant_id in [one["GrantId"] for one in kms.list_grants(KeyId=key_id)["Grants"]]
    if done.events:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=GROUP)
        messages = Counter(event["message"] for page in pages for event in page["events"])
        assert {name: messages[name] for name in done.events} == dict.fromkeys(done.events, 1)


def seconds_until(works: Callable[[], Any], most: float = 10.0) -> float:
    """How long it takes until `works` raises nothing more."""
    begun = time.monotonic()
    while True:
        try:
            works()
        except (ClientError, BotoCoreError):
            if time.monotonic() - begun > most:
                raise
            time.sleep(0.005)
        else:
            return time.monotonic() - begun
