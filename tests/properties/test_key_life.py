"""The life of keys as a random history, against a plain model that knows nothing of tokens, stores or clocks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.harness import Harness, harness


@dataclass
class PlainKey:
    """What the reference says of a key, and nothing else. Times are days."""

    key_id: str
    enabled: bool = True
    deletion_day: float | None = None
    rotation_days: int | None = None
    next_rotation: float | None = None
    rotations: int = 0
    on_demand: int = 0
    blobs: list[tuple[bytes, bytes]] = field(default_factory=list)

    def refusal(self, day: float) -> str:
        """The error of a cryptographic operation on this day; empty: it works."""
        if self.deletion_day is not None:
            return "NotFoundException" if day >= self.deletion_day else "KMSInvalidStateException"
        return "" if self.enabled else "DisabledException"

    def due(self, day: float) -> bool:
        """Whether the rotation job must give it a new material."""
        return (
            self.enabled and self.deletion_day is None and self.next_rotation is not None and day >= self.next_rotation
        )


class KeyLife(RuleBasedStateMachine):
    """Drives the daemon and the plain model side by side."""

    place: Harness

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[PlainKey] = []
        self.day = 0.0
        self.start = self.place.clock.offset
        self.kms = self.place.client()

    def outcome(self, call: Any, **members: Any) -> tuple[str, Any]:
        """Error name and answer."""
        try:
            return "", call(**members)
        except ClientError as error:
            return error.response["Error"]["Code"], None

    def pick(self, number: int) -> PlainKey:
        """One of the keys."""
        return self.keys[number % len(self.keys)]

    @precondition(lambda self: len(self.keys) < 6)
    @rule()
    def create(self) -> None:
        """A new key is enabled."""
        self.keys.append(PlainKey(self.kms.create_key()["KeyMetadata"]["KeyId"]))

    @precondition(lambda self: self.keys)
    @rule(number=st.integers(0, 5), plaintext=st.binary(min_size=1, max_size=64))
    def encrypt(self, number: int, plaintext: bytes) -> None:
        """Works exactly in the enabled state."""
        key = self.pick(number)
        code, answer = self.outcome(self.kms.encrypt, KeyId=key.key_id, Plaintext=plaintext)
        assert code == key.refusal(self.day)
        if answer:
            key.blobs.append((answer["CiphertextBlob"], plaintext))

    @precondition(lambda self: any(key.blobs for key in self.keys))
    @rule(number=st.integers(0, 5), which=st.integers(0, 1000))
    def decrypt(self, number: int, which: int) -> None:
        """Every blob ever made opens, whatever was rotated since, if the key is enabled."""
        key = self.pick(number)
        if key.blobs:
            blob, plaintext = key.blobs[which % len(key.blobs)]
            code, answer = self.outcome(self.kms.decrypt, CiphertextBlob=blob)
            refusal = key.refusal(self.day)
            # A blob does not tell whether its key was ever here.
            assert code == ("AccessDeniedException" if refusal == "NotFoundException" else refusal)
            assert answer is None or answer["Plaintext"] == plaintext

    @precondition(lambda self: self.keys)
    @rule(number=st.integers(0, 5), enable=st.booleans())
    def switch(self, number: int, *, enable: bool) -> None:
        """EnableKey, DisableKey."""
        key = self.pick(number)
        code, _ = self.outcome(self.kms.enable_key if enable else self.kms.disable_key, KeyId=key.key_id)
        refusal = key.refusal(self.day)
        assert code == (refusal if refusal != "DisabledException" else "")
        if not code:
            key.enabled = enable

    @precondition(lambda self: self.keys)
    @rule(number=st.integers(0, 5), days=st.integers(7, 30))
    def schedule(self, number: int, days: int) -> None:
        """ScheduleKeyDeletion."""
        key = self.pick(number)
        code, _ = self.outcome(self.kms.schedule_key_deletion, KeyId=key.key_id, PendingWindowInDays=days)
        refusal = key.refusal(self.day)
        assert code == (refusal if refusal != "DisabledException" else "")
        if not code:
            key.deletion_day = self.day + days

    @precondition(lambda self: self.keys)
    @rule(number=st.integers(0, 5))
    def cancel(self, number: int) -> None:
        """CancelKeyDeletion: disabled afterwards."""
        key = self.pick(number)
        code, _ = self.outcome(self.kms.cancel_key_deletion, KeyId=key.key_id)
        if key.deletion_day is None:
            assert code == "KMSInvalidStateException"
        elif self.day >= key.deletion_day:
            assert code == "NotFoundException"
        else:
            assert code == ""
            key.deletion_day, key.enabled = None, False

    @precondition(lambda self: self.keys)
    @rule(number=st.integers(0, 5), days=st.one_of(st.none(), st.integers(90, 400)))
    def rotation(self, number: int, days: int | None) -> None:
        """EnableKeyRotation with a period, or DisableKeyRotation."""
        key = self.pick(number)
        if days is None:
            code, _ = self.outcome(self.kms.disable_key_rotation, KeyId=key.key_id)
        else:
            code, _ = self.outcome(self.kms.enable_key_rotation, KeyId=key.key_id, RotationPeriodInDays=days)
        assert code == key.refusal(self.day)
        if not code and days != key.rotation_days:
            key.rotation_days = days
            key.next_rotation = None if days is None else self.day + days

    @precondition(lambda self: self.keys)
    @rule(number=st.integers(0, 5))
    def rotate_now(self, number: int) -> None:
        """RotateKeyOnDemand."""
        key = self.pick(number)
        code, _ = self.outcome(self.kms.rotate_key_on_demand, KeyId=key.key_id)
        expected = key.refusal(self.day) or ("LimitExceededException" if key.on_demand >= 25 else "")
        assert code == expected
        if not code:
            key.rotations += 1
            key.on_demand += 1

    @rule(days=st.one_of(st.integers(1, 8), st.integers(20, 500)), tick=st.booleans())
    def pass_time(self, days: int, *, tick: bool) -> None:
        """Days go by; the job runs, or is late: what can be seen is the same, but for rotation, which the job does."""
        # A minute more than whole days, so that no date is met to the second.
        self.place.clock.advance(days=days, minutes=1)
        self.day += days + 1 / 1440
        if tick:
            self.place.tick()
            for key in self.keys:
                if key.due(self.day) and key.rotation_days is not None:
                    key.rotations += 1
                    key.next_rotation = self.day + key.rotation_days

    @rule()
    def restart(self) -> None:
        """The daemon is stopped and started again."""
        self.place.restart()
        self.kms = self.place.client()

    @invariant()
    def descriptions_agree(self) -> None:
        """DescribeKey and the rotations say what the plain model says."""
        for key in self.keys:
            code, answer = self.outcome(self.kms.describe_key, KeyId=key.key_id)
            if key.refusal(self.day) == "NotFoundException":
                assert code == "NotFoundException"
                continue
            state = {"": "Enabled", "DisabledException": "Disabled", "KMSInvalidStateException": "PendingDeletion"}
            assert answer["KeyMetadata"]["KeyState"] == state[key.refusal(self.day)]
            status = self.kms.get_key_rotation_status(KeyId=key.key_id)
            assert status["KeyRotationEnabled"] is (key.rotation_days is not None and key.deletion_day is None)

    @invariant()
    def rotations_agree(self) -> None:
        """No material is lost or made twice."""
        for key in self.keys:
            if key.refusal(self.day) != "NotFoundException":
                made = self.kms.list_key_rotations(KeyId=key.key_id, Limit=1000)["Rotations"]
                assert len(made) == key.rotations

    def teardown(self) -> None:
        """The next history begins at its own day."""
        self.place.clock.offset = max(self.place.clock.offset, self.start + timedelta(days=self.day))


@pytest.fixture(scope="module", autouse=True)
def _place() -> Iterator[None]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        KeyLife.place = stack.enter_context(harness(Path(folder)))
        yield


TestKeyLife = KeyLife.TestCase
TestKeyLife.settings = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
