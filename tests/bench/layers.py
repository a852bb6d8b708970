"""What each layer of an Encrypt costs when nothing else runs, and what all of them cost, one by one and together.

    .venv/bin/python -m tests.bench.layers

Microseconds inside one process, without HTTP and with a sink that keeps nothing; of many runs the fiftieth part that
was quickest. The sum of the parts is far less than the whole: each part of a whole finds its code and tables gone from
the processor's inner caches. `kmsd.event_loop.cohorts` is what is done about that.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec.structs import replace

from kmsd import audit
from kmsd.app import Components, open_components
from kmsd.audit import Outcome
from kmsd.config import settings as configuration
from kmsd.custody.credentials import CredentialStore
from kmsd.domain.principal import Caller
from kmsd.operations.admission import admit
from kmsd.operations.declaration import Call, ClientInfo
from kmsd.ports import Reader
from kmsd.wire.endpoint import Endpoint, source_of
from kmsd.wire.http.messages import Request, rendered_pieces
from kmsd.wire.protocols.dispatch import RoutedRequest, protocol_of
from kmsd.wire.readiness import Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4 import claim as sigv4
from kmsd.wire.sigv4.claim import RawRequest, signing_key
from tests.bench import servers, wrk
from tests.bench.audit_cost import NoSink
from tests.support.daemon import Daemon, provisioned

RUNS = 400
A_RUN = 30
TOGETHER = (1, 4, 8, 16, 32)


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("it waits")


def quickest(took: list[float]) -> float:
    """In microseconds."""
    return round(sorted(took)[len(took) // 50] * 1e6, 1)


def alone(act: Callable[[], object]) -> float:
    """Microseconds of one."""
    took = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        for _ in range(A_RUN):
            act()
        took.append((time.perf_counter() - begun) / A_RUN)
    return quickest(took)


@dataclass
class Parts:
    """An Encrypt, taken apart."""

    components: Components
    front: Endpoint
    fresh: Callable[[], Request]

    async def measure(self) -> dict[str, Any]:
        """All layers, and the whole."""
        front, world = self.front, self.components.pipeline.dependencies
        request = self.fresh()
        at, place = front.pipeline.clock.now(), world.arns
        claim = sigv4.parse(request.received, region=place.region, services=("kms",), now=at)
        authenticated, reader = await front._by_signature(claim, at)
        caller = authenticated.caller
        layers = {
            "reading the signature": alone(
                lambda: sigv4.parse(request.received, region=place.region, services=("kms",), now=at)
            ),
            "proving it, and who signed": alone(lambda: now(front._by_signature(claim, at))),
        }
        # The body is gone once it has been read.
        questions = iter([protocol_of(one).route(one) for one in (self.fresh().received for _ in range(RUNS * A_RUN))])
        layers["decoding and validating"] = alone(lambda: next(questions).decode())
        again = self.fresh().received
        question = protocol_of(again).route(again)
        layers |= await self._behind(question, question.decode(), caller, source_of(request), reader)
        together = {f"{calls} at once": await self._together(calls) for calls in TOGETHER}
        return {"alone": layers, "sum": round(sum(layers.values()), 1), "whole, with its dispatch": together}

    async def _behind(
        self, question: RoutedRequest, asked: msgspec.Struct, caller: Caller, source: ClientInfo, reader: Reader
    ) -> dict[str, float]:
        """From the decoded request to the answer."""
        operation, world, at = (
            question.operation,
            self.components.pipeline.dependencies,
            self.front.pipeline.clock.now(),
        )

        def call() -> Call:
            return Call(world, caller, source, "x" * 36, at, reader, world.tokens)

        admitted = call()
        await admit(operation, asked, admitted)
        material = admitted.key.current_material
        assert material is not None
        response = await operation.handle(asked, admitted)
        sealing = alone(
            lambda: now(world.tokens.main.encrypt(material.material_id, material.algorithm, b"x" * 32, b"y" * 38))
        )
        handling = alone(lambda: now(operation.handle(asked, admitted)))
        return {
            "finding the key, authorising, state": alone(lambda: now(admit(operation, asked, call()))),
            "token: session, derived key, AES-GCM": sealing,
            "the handler without it": round(handling - sealing, 1),
            "building the audit record": alone(
                lambda: audit.record_of_call(operation, asked, admitted, Outcome(response))
            ),
            "encoding the answer": alone(
                lambda: rendered_pieces(question.render(response, "x" * 36), "Server: kmsd\r\n", close=False)
            ),
        }

    async def _together(self, calls: int) -> float:
        """Microseconds of one of several, which go in lockstep where there are enough."""
        loop, cohorts, took = asyncio.get_running_loop(), self.front.pipeline.cohorts, []
        for _ in range(RUNS):
            requests = [self.fresh() for _ in range(calls)]
            cohorts.in_flight = calls
            begun = time.perf_counter()
            for task in [loop.create_task(self.front.handle(request)) for request in requests]:
                await task
            took.append((time.perf_counter() - begun) / calls)
        cohorts.in_flight = 0
        return quickest(took)


async def measure(daemon: Daemon, key_id: str) -> dict[str, Any]:
    """Of one daemon's data."""
    async with open_components(configuration.load(daemon.config), "layers") as components:
        pipeline = replace(components.pipeline, sink=NoSink())
        arns = pipeline.dependencies.arns
        front = Endpoint(
            pipeline,
            CredentialStore(components.token, arns, signing_key),
            Readiness({}),
            RefusedRequestLog(pipeline.sink, arns),
        )
        replay = wrk.signed(daemon.endpoint, daemon.admin, "Encrypt", {"KeyId": key_id, "Plaintext": servers.PLAINTEXT})
        headers = tuple({"Host": daemon.endpoint.removeprefix("http://"), **dict(replay.headers)}.items())

        def fresh() -> Request:
            return Request(RawRequest("POST", "/", headers, replay.body), "127.0.0.1", None, "1.1", 0.0)

        assert (await front.handle(fresh())).status == 200
        gc.collect()
        gc.freeze()
        return await Parts(components, front, fresh).measure()


def run(folder: Path) -> dict[str, Any]:
    """Set up, measure."""
    with provisioned(folder, workers=1) as daemon:
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        daemon.stop()
        return uvloop.run(measure(daemon, key_id))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(run(Path(folder)), indent=2) + "\n")


if __name__ == "__main__":
    main()
