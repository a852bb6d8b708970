"""Objects end when nobody uses them any more, and nobody begins to once their end has begun."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from kmsd.adapters.pkcs11.object_locks import ObjectLocks
from kmsd.ports import TokenBusy

ONE, OTHER = b"1" * 16, b"2" * 16


@contextmanager
def using(in_use: ObjectLocks, object_id: bytes | None, timeout: float) -> Iterator[None]:
    """A call."""
    in_use.acquire(object_id, timeout)
    try:
        yield
    finally:
        in_use.release(object_id)


def test_users_and_ends_never_meet() -> None:
    """Whatever threads do at once; other objects, and calls with none, wait for nothing."""
    in_use, lock = ObjectLocks(), threading.Lock()
    users, ends, met = 0, 0, []

    def use(number: int) -> None:
        nonlocal users
        with using(in_use, ONE, 10):
            with lock:
                users += 1
                met.extend(["used while it ends"] * ends)
            time.sleep(random.Random(number).uniform(0, 0.003))  # noqa: S311 (a pause)
            with lock:
                users -= 1

    def end(_: int) -> None:
        nonlocal ends
        with in_use.destroying(ONE, 10):
            with lock:
                ends += 1
                met.extend(["ended while it is used"] * (users + ends - 1))
            with using(in_use, OTHER, 0), using(in_use, None, 0), in_use.destroying(OTHER[::-1] + b"x", 0):
                time.sleep(0.001)
            with lock:
                ends -= 1

    with ThreadPoolExecutor(12) as threads:
        done = [threads.submit(end if number % 7 == 0 else use, number) for number in range(400)]
    assert [one.exception() for one in done] == [None] * 400
    assert met == []


def test_who_waits_too_long_is_told_and_leaves_no_trace() -> None:
    """A call that hangs keeps its object, and an end that hangs keeps out others: for as long as they hang."""
    in_use = ObjectLocks()
    with using(in_use, ONE, 0), pytest.raises(TokenBusy, match="do not end"), in_use.destroying(ONE, 0.01):
        pytest.fail("it was in use")
    with in_use.destroying(ONE, 0.01):
        with pytest.raises(TokenBusy, match="being destroyed"), using(in_use, ONE, 0.01):
            pytest.fail("it was at its end")
        with pytest.raises(TokenBusy, match="being destroyed"), in_use.destroying(ONE, 0.01):
            pytest.fail("it was at its end")
    with using(in_use, ONE, 0), using(in_use, ONE, 0):
        pass
    with in_use.destroying(ONE, 0):
        pass


def test_the_event_loop_does_not_wait_for_a_destruction() -> None:
    """A call that cannot begin at once is told so; afterwards it can, and it holds off the next destruction."""
    in_use = ObjectLocks()
    with in_use.destroying(ONE, 0):
        assert not in_use.try_acquire(ONE)
        assert in_use.try_acquire(OTHER)
        in_use.release(OTHER)
    assert in_use.try_acquire(ONE)
    with pytest.raises(TokenBusy), in_use.destroying(ONE, 0):
        pass
    in_use.release(ONE)
    with in_use.destroying(ONE, 0):
        pass
