"""Interface between a connection and the server that accepted it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from kmsd.event_loop.cohorts import CohortScheduler
    from kmsd.wire.http.connection_state import State
    from kmsd.wire.http.limits import TransportLimits
    from kmsd.wire.http.messages import Request, Response

ConnectionT_contra = TypeVar("ConnectionT_contra", contravariant=True)


class Owner(Protocol[ConnectionT_contra]):
    """The part of the server that a connection uses."""

    handler: Callable[[Request], Awaitable[Response]]
    limits: TransportLimits
    cohorts: CohortScheduler
    draining: bool
    keep_alive_seconds: float
    buffered: int
    refusals: Counter[str]
    common: str

    def admit(self, connection: ConnectionT_contra) -> bool:
        """Register a new connection. Return False if the server is full."""
        ...

    def on_state_change(self, connection: ConnectionT_contra, state: State) -> None:
        """Record the new state of a connection."""
        ...

    def remove(self, connection: ConnectionT_contra) -> None:
        """Forget a connection that is closed and has no task running."""
        ...

    def report(self, what: str, error: BaseException, connection: ConnectionT_contra) -> None:
        """Report a failure that no client may see."""
        ...
