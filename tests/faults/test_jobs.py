"""Jobs on objects when the token fails, before and after it has acted: other keys go on, and the books balance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import force_setattr

from kmsd.jobs import deletion, reconcile, rotation
from kmsd.ports import Tokens, TokenUnavailable
from tests.support.harness import Harness, harness
from tests.support.material_ids import held_ids


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), custody="object") as found:
        yield found


class Failing:
    """The real token, whose `method` fails the first time: before it acts, or after it has acted."""

    def __init__(self, token: Any, method: str, *, after: bool) -> None:
        self._token = token
        self._method = method
        self._after = after
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._token, name)
        if name != self._method or self.failures:
            return real

        async def fail(*arguments: Any) -> Any:
            self.failures += 1
            if self._after:
                await real(*arguments)
            raise TokenUnavailable("injected")

        return fail


def settle(harness: Harness) -> reconcile.ReconcileReport:
    """What the next reconcile does."""
    harness.clock.advance(minutes=11)
    return harness.run(reconcile.run_once(harness.components.store, harness.components.token, harness.clock.now()))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", ["generate_key", "destroy"])
def test_rotation_survives_a_bad_key(harness: Harness, method: str, *, after: bool) -> None:
    """Of two due keys one fails; the other is rotated now, the failed one with the next run; nothing stays behind."""
    kms = harness.client()
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    for key_id in keys:
        kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    harness.clock.advance(days=91)
    before = held_ids(harness)
    failing: Any = Failing(harness.components.token, method, after=after)

    def run(token: Any) -> rotation.RotationReport:
        now, record = harness.clock.now(), harness.components.record_job
        return harness.run(rotation.run_once(harness.components.store, Tokens(token), now, record))

    first = run(failing)
    expected = 1 if method == "generate_key" else 2
    assert (len(first.rotated), len(first.failed)) == (expected, 2 - expected)
    second = run(harness.components.token)
    assert len(second.rotated) == 2 - expected
    settle(harness)
    assert len(held_ids(harness) - before) == 2
    for key_id in keys:
        assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 1
        kms.disable_key_rotation(KeyId=key_id)


@pytest.mark.parametrize("after", [False, True])
def test_deletion_survives_a_bad_key(harness: Harness, *, after: bool) -> None:
    """A key whose object cannot be destroyed now is gone for its users all the same; reconcile finishes it."""
    kms = harness.client()
    before = held_ids(harness)
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    for key_id in keys:
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=8)
    failing: Any = Failing(harness.components.token, "destroy", after=after)
    report = harness.run(
        deletion.run_once(harness.components.store, Tokens(failing), harness.clock.now(), harness.components.record_job)
    )
    assert (len(report.deleted), len(report.failed)) == (1, 1)
    assert len(settle(harness).destroyed) == 1
    assert held_ids(harness) == before
    again = harness.run(
        deletion.run_once(
            harness.components.store, harness.components.tokens, harness.clock.now(), harness.components.record_job
        )
    )
    assert (again.deleted, again.failed) == ([], [])


@pytest.mark.parametrize("after", [False, True])
def test_create_key_leaves_nothing_when_the_token_fails(harness: Harness, *, after: bool) -> None:
    """A refused CreateKey has no effect: no key, no row, and after reconcile no object."""
    reader = harness.run(harness.components.store.read())
    before, keys = held_ids(harness), harness.run(reader.count_keys("000000000000"))
    tokens = harness.components.tokens
    failing: Any = Failing(tokens.main, "generate_key", after=after)
    force_setattr(tokens, "main", failing)
    try:
        with pytest.raises(Exception, match="DependencyTimeoutException"):
            harness.client().create_key()
    finally:
        force_setattr(tokens, "main", failing._token)
    settle(harness)
    assert held_ids(harness) == before
    reader = harness.run(harness.components.store.read())
    assert harness.run(reader.count_keys("000000000000")) == keys
    harness.client().create_key()


def test_unknown_objects_are_reported_and_left_alone(harness: Harness) -> None:
    """They may be another daemon's; and a missing object makes its key unavailable, and is never forgotten."""
    unknown = bytes(range(16))
    harness.run(
        harness.components.token.generate_key(unknown, next(iter(harness.components.token.capabilities.algorithms)))
    )
    assert unknown in [found.object_id for found in settle(harness).unknown]
    assert unknown in held_ids(harness)
    harness.run(harness.components.token.destroy(unknown))
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    harness.run(harness.components.token.destroy(blob[18:34]))
    assert settle(harness).missing == [blob[18:34]]
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Unavailable"
    for act in (lambda: kms.decrypt(CiphertextBlob=blob), lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x")):
        _refused(act, "KeyUnavailableException")
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=8)
    harness.tick()


def _refused(act: Callable[[], Any], code: str) -> None:
    with pytest.raises(Exception, match=code):
        act()
