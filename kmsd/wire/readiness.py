"""Readiness of a worker: one word for each thing that it needs.

Nobody authenticates for `/readyz`. Its words are therefore a fixed list, and the text of an exception, which may name
paths and modules, goes to the log alone. However many clients ask, one probe runs at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from kmsd.cloudwatch_logs.ports import SegmentsError
from kmsd.ports import AuditUnavailable, StoreError, TokenError
from kmsd.wire.http.messages import Response

OK = "ok"
UNAVAILABLE = "unavailable"
"""The adapter says that what it works with is away, full, read-only or refuses: the log has the reason."""
FAILED = "failed"
"""An error that no adapter foresees: a fault of the program."""
PROBE_TARGETS = ("/healthz", "/readyz")
"""Nobody authenticates for these."""
REMEMBERED_SECONDS = 1.0
"""How long an answer is good for."""
Probe = Callable[[], Awaitable[None]]
_KNOWN = (TokenError, StoreError, AuditUnavailable, SegmentsError)

log = structlog.get_logger()


class Readiness:
    """Asks the probes of one process. All methods belong to one event loop."""

    def __init__(self, probes: Mapping[str, Probe], monotonic: Callable[[], float] = time.monotonic) -> None:
        """`probes`: name to a check that raises if the thing cannot be used."""
        self._probes = probes
        self._monotonic = monotonic
        self._asked: asyncio.Task[Mapping[str, str]] | None = None
        self._good_until = 0.0
        self._logged: dict[str, str] = {}
        """What the log was last told of each thing that is not ready."""

    async def states(self) -> Mapping[str, str]:
        """One word for each thing, by its name; at most `REMEMBERED_SECONDS` old."""
        asked = self._asked
        if asked is None or (asked.done() and (asked.cancelled() or self._monotonic() >= self._good_until)):
            asked = self._asked = asyncio.create_task(self._ask())
        # A client that goes away does not take the answer from the others.
        return await asyncio.shield(asked)

    async def _ask(self) -> Mapping[str, str]:
        states = {}
        for name, probe in self._probes.items():
            try:
                await probe()
            except _KNOWN as exc:
                states[name] = UNAVAILABLE
                self._log(name, exc)
            except Exception as exc:  # noqa: BLE001 (whatever it is, the worker is not ready, and the log says why)
                states[name] = FAILED
                self._log(name, exc)
            else:
                states[name] = OK
                if self._logged.pop(name, None) is not None:
                    log.info("ready again", probe=name)
        self._good_until = self._monotonic() + REMEMBERED_SECONDS
        return states

    def _log(self, name: str, exc: Exception) -> None:
        """Once for each reason: probes come every few seconds."""
        detail = f"{type(exc).__name__}: {exc}"
        if self._logged.get(name) != detail:
            self._logged[name] = detail
            log.warning("not ready", probe=name, detail=detail)


def probe_answer(states: Mapping[str, str]) -> Response:
    """200 if every state is `OK`, else 503; the states as JSON."""
    ready = all(state == OK for state in states.values())
    body = msgspec.json.encode({"status": "ok" if ready else "failed", **states})
    return Response(200 if ready else 503, (("Content-Type", "application/json"),), body)
