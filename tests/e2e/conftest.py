"""What the end-to-end tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from kmsd.wire.http.server import Listener, TransportLimits, bind_tcp, serve
from tests.support.transport_site import LIMITS, Site, Start


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The transport runs on both loops, and so do its tests."""
    if item.path.name.startswith("test_transport"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start servers on free ports; all are stopped afterwards, and none reported a failure that was not asked for."""
    sites: list[Site] = []

    async def starter(limits: TransportLimits = LIMITS) -> Site:
        site = Site()
        sock = bind_tcp("127.0.0.1", 0)
        site.listening, site.port = sock, sock.getsockname()[1]
        site.server = await serve(site.handle, [Listener(sock)], limits)
        sites.append(site)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: site.reports.append(context))
        return site

    yield starter
    for site in sites:
        await site.server.stop(0.1)
        assert [report for report in site.reports if report.get("exception") is not site.failure] == []
        assert site.server.connections == 0
        assert site.server.buffered == 0
