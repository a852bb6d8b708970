"""Who makes a load: one client that works on things of its own, one call at a time, and enters what was answered."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from tests.support.clients import Credentials
from tests.support.daemon import Daemon

MAX_ROTATIONS = 4


class Stopped(Exception):
    """The daemon did not answer: it is being killed."""


@dataclass
class Actor:
    """One client. `work` until it is stopped or the daemon dies; `settle` when it is back."""

    daemon: Daemon
    name: str
    chance: random.Random
    stranger: Credentials
    done: Counter[str] = field(default_factory=Counter)
    """Acknowledged calls, by operation."""
    refused: Counter[str] = field(default_factory=Counter)
    request_ids: list[str] = field(default_factory=list)
    """Of what was acknowledged: each must be in the audit trail."""
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        options = {"connect_timeout": 2, "read_timeout": 20}
        self.kms = self.daemon.client(**options)
        self.other = self.daemon.client(credentials=self.stranger, **options)

    def call(self, act: Callable[..., Any], **members: Any) -> dict[str, Any]:
        """The answer. Raises `ClientError` for a refusal, `Stopped` if there is none."""
        try:
            answer: dict[str, Any] = act(**members)
        except ClientError as error:
            self.refused[error.response["Error"]["Code"]] += 1
            raise
        except Exception as error:
            raise Stopped from error
        self.done[act.__name__] += 1
        self.request_ids.append(answer["ResponseMetadata"]["RequestId"])
        return answer

    def work(self, over: threading.Event) -> None:
        """Until `over`, or until the daemon does not answer."""
        try:
            while not over.is_set():
                self.step()
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 (raised by whoever waits)
            self.failure = error

    def step(self) -> None:
        """One act."""
        raise NotImplementedError

    def settle(self) -> None:
        """Raises AssertionError unless the daemon shows what the book says."""
        raise NotImplementedError
