"""Readiness of a worker: one word for each dependency.

`/readyz` needs no authentication. Its words are therefore a fixed list; the text of an exception may name paths and
modules and goes to the log only. One probe runs at a time, however many clients ask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import msgspec
import structlog

from kmsd.cloudwatch_logs.ports import SegmentsError
from kmsd.ports import AuditUnavailable, StoreError, TokenError
from kmsd.wire.http.messages import Response

OK = "ok"
UNAVAILABLE = "unavailable"
"""The adapter reports its resource as unreachable, full, read-only or refusing; the log has the reason."""
FAILED = "failed"
"""The probe raised an error that no adapter foresees: a fault in the program."""
ABSENT = "absent"
"""A further token is unavailable. The worker is ready: it refuses only what needs that token."""
LEAVING = "leaving"
"""The daemon is about to stop: it serves, and wants no new connections."""
PROBE_TARGETS = ("/healthz", "/readyz")
"""Targets that need no authentication."""
REMEMBERED_SECONDS = 1.0
"""Maximum age of a cached answer, in seconds."""
Probe = Callable[[], Awaitable[None]]
_KNOWN = (TokenError, StoreError, AuditUnavailable, SegmentsError)

log = structlog.get_logger()


class Readiness:
    """Runs the probes of one process. Call all methods on one event loop."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        optional: Mapping[str, Probe] = MappingProxyType({}),
    ) -> None:
        """Map each name to a check that raises if the resource cannot be used. A worker is ready without `optional`."""
        self._probes = {**probes, **optional}
        self._optional = frozenset(optional)
        self._monotonic = monotonic
        self._asked: asyncio.Task[Mapping[str, str]] | None = None
        self._good_until = 0.0
        self._leaves = False
        self._logged: dict[str, str] = {}
        """The reason last logged for each resource that is not ready."""

    def leave(self) -> None:
        """Say from now on that this process is not ready."""
        self._leaves = True

    async def states(self) -> Mapping[str, str]:
        """Return one word for each resource, by name; at most `REMEMBERED_SECONDS` old."""
        if self._leaves:
            return {"daemon": LEAVING}
        asked = self._asked
        if asked is None or (asked.done() and (asked.cancelled() or self._monotonic() >= self._good_until)):
            asked = self._asked = asyncio.create_task(self._ask())
        # A client that disconnects must not cancel the answer for the others.
        return await asyncio.shield(asked)

    async def _ask(self) -> Mapping[str, str]:
        states = {}
        for name, probe in self._probes.items():
            try:
                await probe()
            except _KNOWN as exc:
                states[name] = ABSENT if name in self._optional else UNAVAILABLE
                self._log(name, exc)
            except Exception as exc:  # noqa: BLE001 (whatever it is, the worker is not ready, and the log says why)
                states[name] = FAILED
                self._log(name, exc)
            else:
                states[name] = OK
                if self._logged.pop(name, None) is not None:
                    log.info("ready_again", probe=name)
        self._good_until = self._monotonic() + REMEMBERED_SECONDS
        return states

    def _log(self, name: str, exc: Exception) -> None:
        """Log each reason once: probes come every few seconds."""
        detail = f"{type(exc).__name__}: {exc}"
        if self._logged.get(name) != detail:
            self._logged[name] = detail
            log.warning("not_ready", probe=name, detail=detail)


def probe_answer(states: Mapping[str, str]) -> Response:
    """Return 200 if every state is `OK` or `ABSENT`, else 503, with the states as JSON."""
    ready = all(state in {OK, ABSENT} for state in states.values())
    body = msgspec.json.encode({"status": "ok" if ready else "failed", **states})
    return Response(200 if ready else 503, (("Content-Type", "application/json"),), body)
