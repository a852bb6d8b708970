"""Ports in front of the real ones that fail at a chosen call, before or after the real one has acted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import force_setattr

from kmsd.domain.material import TokenName
from kmsd.jobs import reconcile
from kmsd.ports import StoreUnavailable, TokenTimeout, TokenUnavailable, Transaction
from tests.support.harness import Harness


class Failing:
    """A port in front of the real one, whose n-th call of a method fails, before or after the real one has acted."""

    def __init__(self, real: Any, method: str, nth: int, *, after: bool) -> None:
        self._real, self._method, self._left, self._after = real, method, nth, after
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return found if name != self._method else self._bent(found)

    def _bent(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def bent(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left:
                return await call(*arguments, **named)
            self.failed = True
            if not self._after:
                raise TokenUnavailable("the fault that was asked for")
            await call(*arguments, **named)
            raise TokenTimeout("the fault that was asked for, after it worked")

        return bent


class FailingStore(Failing):
    """A store whose n-th transaction cannot be committed, or is and nobody hears of it."""

    def __init__(self, real: Any, nth: int, *, after: bool) -> None:
        super().__init__(real, "", 0, after=after)
        self._left = nth

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """As `kmsd.ports.Store`."""
        self._left -= 1
        fails = self._left == 0
        async with self._real.write() as transaction:
            yield transaction
            if fails and not self._after:
                self.failed = True
                raise StoreUnavailable("the fault that was asked for")
        if fails:
            self.failed = True
            raise StoreUnavailable("the fault that was asked for, after it worked")


@contextmanager
def bent(harness: Harness, member: str, failing: Failing) -> Iterator[Failing]:
    """Let the daemon work with the failing port."""
    real = port_of(harness, member)
    _set_port(harness, member, failing)
    try:
        yield failing
    finally:
        _set_port(harness, member, real)


def port_of(harness: Harness, member: str) -> Any:
    """A port of the daemon: `main` and `imports` are tokens, the rest are dependencies."""
    holder = harness.components.tokens if member in ("main", "imports") else harness.components.pipeline.dependencies
    return getattr(holder, member)


def _set_port(harness: Harness, member: str, port: Any) -> None:
    tokens = harness.components.tokens
    if member == "imports":
        tokens.others[TokenName.IMPORT] = port
    else:
        force_setattr(tokens if member == "main" else harness.components.pipeline.dependencies, member, port)


def settle(harness: Harness) -> None:
    """Reconcile without grace; then store and tokens must agree to the object, and nothing is missing."""
    components = harness.components
    assert components.tokens.imports is not None
    for name, token in ((TokenName.MAIN, components.token), (TokenName.IMPORT, components.tokens.imports)):
        harness.run(reconcile.run_once(components.store, token, harness.clock.now(), grace=timedelta(0), name=name))
        report = harness.run(
            reconcile.run_once(components.store, token, harness.clock.now(), grace=timedelta(0), name=name)
        )
        assert report == reconcile.ReconcileReport()


AFTER = pytest.mark.parametrize("after", [False, True], ids=["before it acts", "after it acted"])
RETRIABLE = {"KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException"}


class Meanwhile(FailingStore):
    """A store in which something happens just before the n-th transaction."""

    def __init__(self, real: Any, nth: int, act: Callable[[Transaction], Awaitable[object]]) -> None:
        super().__init__(real, 0, after=False)
        self._countdown, self._act = nth, act

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """As `kmsd.ports.Store`."""
        self._countdown -= 1
        if self._countdown == 0:
            self.failed = True
            async with self._real.write() as transaction:
                await self._act(transaction)
        async with self._real.write() as transaction:
            yield transaction
