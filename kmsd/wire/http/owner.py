"""What a connection and the server that accepted it know of each other."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from kmsd.event_loop.cohorts import CohortScheduler
    from kmsd.wire.http.limits import TransportLimits
    from kmsd.wire.http.messages import Request, Response

ConnectionT_contra = TypeVar("ConnectionT_contra", contravariant=True)


class State(Enum):
    """Where a connection stands; see the picture in `kmsd.wire.http.connection`."""

    OPENING = "opening"
    BODY = "body"
    BUSY = "busy"
    IDLE = "idle"
    LINGERING = "deaf"


class Owner(Protocol[ConnectionT_contra]):
    """What a connection needs of the server that accepted it."""

    handler: Callable[[Request], Awaitable[Response]]
    limits: TransportLimits
    cohorts: CohortScheduler
    draining: bool
    keep_alive_seconds: float
    buffered: int
    refusals: Counter[str]
    common: str

    def admit(self, connection: ConnectionT_contra) -> bool:
        """Take a new connection in; False: there is no room."""
        ...

    def on_state_change(self, connection: ConnectionT_contra, state: State) -> None:
        """Note what a connection is doing."""
        ...

    def remove(self, connection: ConnectionT_contra) -> None:
        """A connection is gone, and nothing runs for it any more."""
        ...

    def report(self, what: str, error: BaseException, connection: ConnectionT_contra) -> None:
        """Tell of a failure that no client may see."""
        ...
