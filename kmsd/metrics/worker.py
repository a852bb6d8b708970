"""Metrics in a worker: its share of the memory, and the task that copies other components' figures into it."""

from __future__ import annotations

import asyncio
import time

import structlog

from kmsd.app import Components
from kmsd.config.sections import Config
from kmsd.metrics.layout import layout_of
from kmsd.metrics.recorder import Meter, MetricsPublisher
from kmsd.metrics.shared_memory import SlotUnavailable, WorkerSlot
from kmsd.wire.endpoint import NO_METER
from kmsd.wire.endpoint import Meter as AnyMeter
from kmsd.wire.http.server import Server
from kmsd.wire.readiness import Readiness

PUBLISH_SECONDS = 1.0
PROBE_SECONDS = 5.0
"""Seconds between two probes of everything that a worker needs, the same ones as for `/readyz`."""

log = structlog.get_logger()


class WorkerMetrics:
    """Counts if the parent process has provided memory for it; otherwise does nothing, at no cost."""

    def __init__(self, share: WorkerSlot | None) -> None:
        self._publisher = None if share is None else MetricsPublisher(share)
        self.meter: AnyMeter = NO_METER if share is None else Meter(share)

    @classmethod
    def start(cls, memory: int | None, config: Config) -> WorkerMetrics:
        """Count in the memory of this descriptor. A worker that cannot count logs an error and serves nevertheless."""
        try:
            return cls(None if memory is None else WorkerSlot(memory, layout_of(config.token_names)))
        except SlotUnavailable as exc:
            log.error("metrics_unavailable", detail=str(exc))  # noqa: TRY400 (one clear line)
            return cls(None)

    async def run(self, components: Components, server: Server, readiness: Readiness) -> None:
        """Publish once a second until cancelled, and then once more."""
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
            # Existing counts stay. The missing updates show as a missing heartbeat.
            log.exception("metrics_publishing_failed")
        finally:
            _publish(publisher, components, server)


def _publish(publisher: MetricsPublisher, components: Components, server: Server) -> None:
    """Copy all figures into the share: some hundred additions, once a second."""
    publisher.refusals(server.refusals)
    publisher.set("connections", server.connections)
    publisher.tokens({name: token.counters for name, token in components.tokens.items()})
    hits, misses = components.store.cache_use
    publisher.count("hits:store", hits)
    publisher.count("misses:store", misses)
    publisher.store(components.store.counters)
    publisher.audit(*components.sink.statistics)
    publisher.set("heartbeat", time.time())
