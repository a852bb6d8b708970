"""Interface between a connection and the server that accepted it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections import Counter, OrderedDict
    from collections.abc import Awaitable, Callable, Mapping

    from kmsd.event_loop.cohorts import CohortScheduler
    from kmsd.wire.http.connection_state import State
    from kmsd.wire.http.limits import TransportLimits
    from kmsd.wire.http.messages import Request, Response

ConnectionT = TypeVar("ConnectionT")


class Owner(Protocol[ConnectionT]):
    """The part of the server that a connection uses."""

    handler: Callable[[Request], Awaitable[Response]]
    limits: TransportLimits
    cohorts: CohortScheduler
    draining: bool
    keep_alive_seconds: float
    buffered: int
    waiting: Mapping[State, OrderedDict[ConnectionT, None]]
    """Connections by what they wait for, in the order in which they began to."""
    refusals: Counter[str]
    common: str

    def admit(self, connection: ConnectionT) -> bool:
        """Register a new connection. Return False if the server is full."""
        ...

    def remove(self, connection: ConnectionT) -> None:
        """Forget a connection that is closed and has no task running."""
        ...

    def report(self, what: str, error: BaseException, connection: ConnectionT) -> None:
        """Report a failure that no client may see."""
        ...
