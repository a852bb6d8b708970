"""The worker's side of metrics: its share of the memory, and the task that carries the figures of others into it."""

from __future__ import annotations

import asyncio
import time

import structlog

from kmsd.adapters.pkcs11.token import Pkcs11Token
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.app import Components
from kmsd.metrics.recorder import Meter, MetricsPublisher
from kmsd.metrics.shared_memory import SlotUnavailable, WorkerSlot
from kmsd.wire.endpoint import NO_METER
from kmsd.wire.endpoint import Meter as AnyMeter
from kmsd.wire.http.server import Server
from kmsd.wire.readiness import Readiness

PUBLISH_SECONDS = 1.0
PROBE_SECONDS = 5.0
"""Between two looks at whether all that a worker needs is there; as `/readyz` does when it is asked."""

log = structlog.get_logger()


class WorkerMetrics:
    """Counts, if the parent has made memory for it; else does nothing, at no cost."""

    def __init__(self, share: WorkerSlot | None) -> None:
        self._publisher = None if share is None else MetricsPublisher(share.values)
        self.meter: AnyMeter = NO_METER if share is None else Meter(share.values)

    @classmethod
    def start(cls, memory: int | None) -> WorkerMetrics:
        """In the `memory` that this descriptor is of. A worker that cannot count serves all the same, and says so."""
        try:
            return cls(None if memory is None else WorkerSlot(memory))
        except SlotUnavailable as exc:
            log.error("metrics are not counted", detail=str(exc))  # noqa: TRY400 (one clear line)
            return cls(None)

    async def run(self, components: Components, server: Server, readiness: Readiness) -> None:
        """Publish again and again until cancelled, and then once more."""
        publisher = self._publisher
        if publisher is None:
            return
        probed = float("-inf")
        try:
            while True:
                if time.monotonic() - probed >= PROBE_SECONDS:
                    probed = time.monotonic()
                    publisher.probed(await readiness.states())
                _publish(publisher, components, server)
                await asyncio.sleep(PUBLISH_SECONDS)
        except Exception:
            # What was counted stays; that nothing is added any more shows as a heart that does not beat.
            log.exception("metrics are not published any more")
        finally:
            _publish(publisher, components, server)


def _publish(publisher: MetricsPublisher, components: Components, server: Server) -> None:
    """Some hundred additions, once a second."""
    publisher.refusals(server.refusals)
    publisher.set("connections", server.connections)
    if isinstance(components.token, Pkcs11Token):
        publisher.token(components.token.counters)
    if isinstance(components.store, SqliteStore):
        hits, misses = components.store.cache_use
        publisher.count("hits:store", hits)
        publisher.count("misses:store", misses)
    publisher.audit(*components.sink.statistics)
    publisher.set("heartbeat", time.time())
