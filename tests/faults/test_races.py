"""Many clients want the same thing at the same instant, of two workers: one gets it, the others are told why not."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.daemon import Daemon
from tests.support.mixed_load import policy_of
from tests.support.polling import until

CLIENTS = 8
ROUNDS = 6


@pytest.fixture(scope="module", name="clients")
def _clients(daemon: Daemon) -> list[Any]:
    """Each with connections of its own, so that both workers have some."""
    return [daemon.client() for _ in range(CLIENTS)]


def at_once(acts: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each act answered, or the name of its error; all begun at the same instant."""
    gate, answers = threading.Barrier(len(acts)), [None] * len(acts)

    def run(place: int) -> None:
        gate.wait()
        try:
            answers[place] = acts[place]()
        except ClientError as error:
            answers[place] = error.response["Error"]["Code"]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def one_winner(answers: Sequence[Any], error: str) -> dict[str, Any]:
    """The only answer that is no error; all errors are this one."""
    (winner,) = [answer for answer in answers if not isinstance(answer, str)]
    assert Counter(answer for answer in answers if isinstance(answer, str)) == {error: len(answers) - 1}
    return dict(winner)


def new_key(kms: Any) -> str:
    """A fresh key."""
    return str(kms.create_key(Policy=policy_of("races"))["KeyMetadata"]["KeyId"])


def test_one_alias(clients: list[Any]) -> None:
    """It goes to one key, and both workers say to which."""
    keys = [new_key(clients[0]) for _ in clients]
    for number in range(ROUNDS):
        name = f"alias/race-{number}"
        answers = at_once(
            [partial(c.create_alias, AliasName=name, TargetKeyId=k) for c, k in zip(clients, keys, strict=True)]
        )
        one_winner(answers, "AlreadyExistsException")
        winner = next(key for key, answer in zip(keys, answers, strict=True) if not isinstance(answer, str))
        assert {kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] for kms in clients} == {winner}


def test_one_grant(clients: list[Any], daemon: Daemon) -> None:
    """CreateGrant of one name is one grant, however often it is asked for."""
    key_id = new_key(clients[0])
    for number in range(ROUNDS):
        members = {"KeyId": key_id, "GranteePrincipal": daemon.admin.arn, "Operations": ["Encrypt"]}
        answers = at_once([partial(c.create_grant, Name=f"n{number}", **members) for c in clients])
        assert not [answer for answer in answers if isinstance(answer, str)]
        assert len({answer["GrantId"] for answer in answers}) == 1
        assert len(clients[1].list_grants(KeyId=key_id)["Grants"]) == number + 1


def test_one_deletion(clients: list[Any]) -> None:
    """A key is scheduled for deletion once, and rescued once."""
    key_id = new_key(clients[0])
    for _ in range(ROUNDS):
        one_winner(
            at_once([partial(c.schedule_key_deletion, KeyId=key_id, PendingWindowInDays=7) for c in clients]),
            "KMSInvalidStateException",
        )
        one_winner(at_once([partial(c.cancel_key_deletion, KeyId=key_id) for c in clients]), "KMSInvalidStateException")
        assert {c.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] for c in clients} == {"Disabled"}


def test_enable_against_disable(clients: list[Any]) -> None:
    """Both are always allowed; afterwards all see one state, and the key acts by it."""
    key_id = new_key(clients[0])
    for _ in range(ROUNDS):
        acts = [c.enable_key if place % 2 else c.disable_key for place, c in enumerate(clients)]
        assert not [one for one in at_once([partial(a, KeyId=key_id) for a in acts]) if isinstance(one, str)]
        (state,) = {c.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] for c in clients}
        answers = {
            answer if isinstance(answer, str) else "Enabled"
            for answer in at_once([partial(c.encrypt, KeyId=key_id, Plaintext=b"x") for c in clients])
        }
        assert answers == ({"Enabled"} if state == "Enabled" else {"DisabledException"})


def encrypting(
    clients: Sequence[Any], key_id: str, over: threading.Event
) -> tuple[list[threading.Thread], list[tuple[float, Any]]]:
    """Clients that encrypt until `over`: when each call was begun, and what it answered."""
    answers: list[tuple[float, Any]] = []

    def run(kms: Any) -> None:
        while not over.is_set():
            begun = time.monotonic()
            try:
                answers.append((begun, kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]))
            except ClientError as error:
                answers.append((begun, error.response["Error"]["Code"]))

    threads = [threading.Thread(target=run, args=(kms,)) for kms in clients]
    for thread in threads:
        thread.start()
    return threads, answers


def test_deletion_against_encrypt(clients: list[Any]) -> None:
    """Nothing that was begun after the acknowledgement is encrypted; what was encrypted before can be decrypted."""
    first, *others = clients
    for _ in range(3):
        key_id, over = new_key(first), threading.Event()
        threads, answers = encrypting(others, key_id, over)
        until(lambda answers=answers: len(answers) > 20)  # type: ignore[misc]
        first.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
        acknowledged = time.monotonic()
        until(lambda answers=answers: any(isinstance(answer, str) for _, answer in list(answers)))  # type: ignore[misc]
        over.set()
        for thread in threads:
            thread.join()
        errors = {answer for _, answer in answers if isinstance(answer, str)}
        assert errors == {"KMSInvalidStateException"}
        assert not [begun for begun, answer in answers if isinstance(answer, bytes) and begun > acknowledged]
        first.cancel_key_deletion(KeyId=key_id)
        first.enable_key(KeyId=key_id)
        for blob in [answer for _, answer in answers if isinstance(answer, bytes)][-20:]:
            assert first.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"


def test_rotation_against_encrypt(clients: list[Any]) -> None:
    """Each rotation that is acknowledged has happened, no call fails meanwhile, and every blob opens."""
    key_id, over = new_key(clients[0]), threading.Event()
    threads, answers = encrypting(clients[4:], key_id, over)
    rotated = 0
    for _ in range(4):
        found = at_once([partial(c.rotate_key_on_demand, KeyId=key_id) for c in clients[:4]])
        refused = {answer for answer in found if isinstance(answer, str)}
        assert refused <= {"ConflictException", "KMSInvalidStateException", "DependencyTimeoutException"}
        rotated += sum(not isinstance(answer, str) for answer in found)
    over.set()
    for thread in threads:
        thread.join()
    assert rotated >= 4
    assert len(clients[0].list_key_rotations(KeyId=key_id)["Rotations"]) == rotated
    assert {answer for _, answer in answers if isinstance(answer, str)} == set()
    assert len(answers) > 20
    for place, (_, blob) in enumerate(answers):
        assert clients[place % CLIENTS].decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"
