"""Jobs when the token fails, before and after it has acted: the other keys go on, and the books balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import force_setattr

from kmsd.jobs import deletion, reconcile, rotation
from kmsd.ports import TokenUnavailable
from tests.support.harness import House


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


def object_ids(house: House) -> set[bytes]:
    """What the token holds."""
    return {found.object_id for found in house.run(house.components.token.list_objects())}


def settle(house: House) -> reconcile.ReconcileReport:
    """What the next reconcile does."""
    house.clock.advance(minutes=11)
    return house.run(reconcile.run_once(house.components.store, house.components.token, house.clock.now()))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", ["generate_key", "destroy"])
def test_rotation_survives_a_bad_key(house: House, method: str, *, after: bool) -> None:
    """Of two due keys one fails; the other is rotated now, the failed one with the next run; nothing stays behind."""
    kms = house.client()
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    for key_id in keys:
        kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    house.clock.advance(days=91)
    before = object_ids(house)
    failing: Any = Failing(house.components.token, method, after=after)

    def run(token: Any) -> rotation.RotationReport:
        return house.run(
            rotation.run_once(house.components.store, token, house.clock.now(), house.components.record_job)
        )

    first = run(failing)
    expected = 1 if method == "generate_key" else 2
    assert (len(first.rotated), len(first.failed)) == (expected, 2 - expected)
    second = run(house.components.token)
    assert len(second.rotated) == 2 - expected
    settle(house)
    assert len(object_ids(house) - before) == 2
    for key_id in keys:
        assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 1
        kms.disable_key_rotation(KeyId=key_id)


@pytest.mark.parametrize("after", [False, True])
def test_deletion_survives_a_bad_key(house: House, *, after: bool) -> None:
    """A key whose object cannot be destroyed now is gone for its users all the same; reconcile finishes it."""
    kms = house.client()
    before = object_ids(house)
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    for key_id in keys:
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    house.clock.advance(days=8)
    failing: Any = Failing(house.components.token, "destroy", after=after)
    report = house.run(
        deletion.run_once(house.components.store, failing, house.clock.now(), house.components.record_job)
    )
    assert (len(report.deleted), len(report.failed)) == (1, 1)
    assert len(settle(house).destroyed) == 1
    assert object_ids(house) == before
    again = house.run(
        deletion.run_once(
            house.components.store, house.components.token, house.clock.now(), house.components.record_job
        )
    )
    assert (again.deleted, again.failed) == ([], [])


@pytest.mark.parametrize("after", [False, True])
def test_create_key_leaves_nothing_when_the_token_fails(house: House, *, after: bool) -> None:
    """A refused CreateKey has no effect: no key, no row, and after reconcile no object."""
    reader = house.run(house.components.store.read())
    before, keys = object_ids(house), house.run(reader.count_keys("000000000000"))
    tokens = house.components.tokens
    failing: Any = Failing(tokens.main, "generate_key", after=after)
    force_setattr(tokens, "main", failing)
    try:
        with pytest.raises(Exception, match="DependencyTimeoutException"):
            house.client().create_key()
    finally:
        force_setattr(tokens, "main", failing._token)
    settle(house)
    assert object_ids(house) == before
    reader = house.run(house.components.store.read())
    assert house.run(reader.count_keys("000000000000")) == keys
    house.client().create_key()


def test_unknown_objects_are_reported_and_left_alone(house: House) -> None:
    """They may be another daemon's; and a missing object makes its key unavailable, and is never forgotten."""
    unknown = bytes(range(16))
    house.run(house.components.token.generate_key(unknown, next(iter(house.components.token.capabilities.algorithms))))
    assert unknown in [found.object_id for found in settle(house).unknown]
    assert unknown in object_ids(house)
    house.run(house.components.token.destroy(unknown))
    kms = house.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    house.run(house.components.token.destroy(blob[18:34]))
    assert settle(house).missing == [blob[18:34]]
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Unavailable"
    for act in (lambda: kms.decrypt(CiphertextBlob=blob), lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x")):
        _refused(act, "KeyUnavailableException")
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    house.clock.advance(days=8)
    house.tick()


def _refused(act: Callable[[], Any], code: str) -> None:
    with pytest.raises(Exception, match=code):
        act()
