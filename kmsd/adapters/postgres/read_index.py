"""Read index: every request waits for a question to the database that was asked after the request arrived.

At most one question is under way. Requests that arrive meanwhile wait for the next one, which starts when the present
one is answered, and one answer serves all that wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

BURST_SECONDS = 1.0


class ReadIndex:
    """Asks questions for one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        """`ask` asks the database, and applies the answer."""
        self._ask = ask
        self.pause = 0.0
        """Seconds between two questions, on average. `BURST_SECONDS` without one are made up for at once."""
        self._next_at = float("-inf")
        self._next: asyncio.Future[None] | None = None
        self._serving: asyncio.Task[None] | None = None

    async def barrier(self) -> None:
        """Return when a question that started after this call is answered. Raises what the question raises."""
        # Shielded, so that one cancelled request does not cancel all that wait.
        await asyncio.shield(self.request())

    def request(self) -> asyncio.Future[None]:
        """Let a question start, and return its outcome to come."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._serving is None:
                self._serving = asyncio.create_task(self._serve(), name="kmsd-read-index")
        return self._next

    async def _wait(self) -> None:
        """Keep the rate. Requests that arrive meanwhile wait for the same question."""
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at, now - BURST_SECONDS) + self.pause
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)

    async def _serve(self) -> None:
        try:
            while self._next is not None:
                await self._wait()
                present, self._next = self._next, None
                try:
                    await self._ask()
                except Exception as exc:  # noqa: BLE001 (every error is that of all who wait)
                    present.set_exception(exc)
                    present.exception()  # retrieved also if no request waits any more
                else:
                    present.set_result(None)
        finally:
            self._serving = None
