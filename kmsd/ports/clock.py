"""The time of day, as the core asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


class Clock(Protocol):
    """The time of day."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...
