"""Measures time by a plain client of the database, so that a deadline means the same on a slow machine.

The client connects, and commits one row, again and again, at the server that the nodes use. A round counts with its
duration, and at most with `QUIET_SECONDS`: what one takes on a machine that does little else. Where everything takes
ten times as long, these seconds do, too; where the server accepts no writes, they stand still.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Self

import asyncpg

from tests.support.postgres import Cluster

QUIET_SECONDS = 0.02
_PAUSE_SECONDS = 0.01


class ReferenceWriter:
    """Writes during the block."""

    def __init__(self, server: Cluster) -> None:
        self._server = server
        self.seconds = 0.0
        """Since the first commit."""
        self.failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            self._ended.wait(_PAUSE_SECONDS)
            try:
                asyncio.run(self._write())
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self.failures += 1
            else:
                self.seconds += min(time.monotonic() - begun, QUIET_SECONDS)

    async def _write(self) -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self._server.port, user="kmsd", database="postgres", timeout=10
        )
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS reference (at timestamptz)", timeout=10)
            await connection.execute("INSERT INTO reference VALUES (now())", timeout=10)
        finally:
            connection.terminate()
