"""`kmsd check`: report if the clock is trusted, or if destructive jobs are held because of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kmsd.app import SystemClock
from kmsd.cli.commands.check_findings import OK, WARN, Finding
from kmsd.domain.trusted_time import Uptime, assess
from kmsd.linux import boot_clock
from kmsd.ports import Reader


async def findings(reader: Reader) -> AsyncIterator[Finding]:
    """Yield one finding. Raises `StoreUnavailable`."""
    uptime = Uptime(boot_clock.boot_id(), boot_clock.uptime())
    judgement = assess(await reader.clock_reading(), SystemClock().now(), uptime)
    seconds = judgement.skew.total_seconds()
    remedy = "set the clock right, or tell that it is: kmsd jobs confirm-clock"
    if judgement.suspended:
        yield Finding(WARN, "clock", f"destructive jobs are held: the clock was set {seconds:.0f} s forward; {remedy}")
    elif judgement.behind:
        yield Finding(WARN, "clock", f"the clock was set {-seconds:.0f} s back, and is not believed; {remedy}")
    else:
        yield Finding(OK, "clock", "the clock agrees with the host's uptime: jobs destroy what is due")
