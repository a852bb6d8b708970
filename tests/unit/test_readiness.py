"""`/readyz`: a fixed list of words, one probe at a time, an answer that is good for a moment."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from kmsd.ports import StoreUnavailable
from kmsd.wire.readiness import REMEMBERED_SECONDS, Readiness


class Part:
    """Something to probe, which waits until it is let go and then raises what it was given."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.let_go = asyncio.Event()

    async def check(self) -> None:
        """The probe."""
        self.asked += 1
        await self.let_go.wait()
        if self.error is not None:
            raise self.error


async def test_many_askers_cost_one_probe() -> None:
    """Those who ask while it runs get its answer; so do those who ask a moment later; one who leaves stops nobody."""
    now, part = [100.0], Part()
    readiness = Readiness({"store": part.check}, lambda: now[0])
    askers = [asyncio.create_task(readiness.states()) for _ in range(50)]
    await asyncio.sleep(0)
    askers[0].cancel()
    part.let_go.set()
    answers = await asyncio.gather(*askers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [{"store": "ok"}] * 49
    now[0] += REMEMBERED_SECONDS - 0.01
    assert await readiness.states() == {"store": "ok"}
    assert part.asked == 1
    now[0] += 0.01
    await readiness.states()
    assert part.asked == 2


@pytest.mark.parametrize(
    ("error", "word"), [(StoreUnavailable("/var/lib/secret: I/O"), "unavailable"), (KeyError("secret"), "failed")]
)
async def test_the_text_of_an_error_goes_to_the_log_alone(error: Exception, word: str) -> None:
    """Once, until there is another one; and the end of it is told too."""
    now, part, other = [0.0], Part(), Part()
    part.let_go.set()
    other.let_go.set()
    readiness = Readiness({"store": part.check, "token": other.check}, lambda: now[0])
    part.error = error
    with capture_logs() as logged:
        for _ in range(3):
            now[0] += REMEMBERED_SECONDS
            assert await readiness.states() == {"store": word, "token": "ok"}
        part.error = None
        now[0] += REMEMBERED_SECONDS
        assert await readiness.states() == {"store": "ok", "token": "ok"}
    detail = f"{type(error).__name__}: {error}"
    told = {"event": "not_ready", "probe": "store", "detail": detail, "log_level": "warning"}
    assert logged == [told, {"event": "ready_again", "probe": "store", "log_level": "info"}]
