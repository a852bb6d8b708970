"""Variants of kmsd that `python -m tests.bench.variants` measures beside the unchanged tree.

To add one: a name, and the texts to replace, each `(file below kmsd/, old, new)`. The old text must be there exactly
once; else the benchmark fails before it measures anything. A variant that leaves an optimisation out alone shows what
the optimisation earns. docs/decisions/0065-tried-on-the-path.md has the figures of those that were measured.
"""

from __future__ import annotations

from tests.bench.ablations import GROUP_COMMIT, TAILS, WITHOUT
from tests.bench.variant import Edit, Variant

CONNECTION = "wire/http/connection.py"
WORKER = "daemon/worker.py"
FORMAT = "adapters/audit_trail/format.py"

_SPIN = """
_SPUN = {"until": 0.0}


def spin(loop: asyncio.AbstractEventLoop) -> None:
    if perf_counter() < _SPUN["until"]:
        loop.call_soon(spin, loop)
    else:
        _SPUN["until"] = 0.0


def spin_from_now(loop: asyncio.AbstractEventLoop) -> None:
    if not _SPUN["until"]:
        loop.call_soon(spin, loop)
    _SPUN["until"] = perf_counter() + SECONDS


NEVER = math.inf
"""


def _spinning(microseconds: int) -> list[Edit]:
    """After an answer, the loop polls for this long before it sleeps; only while few calls are under way.

    uvloop polls without a timeout while a callback is due. So a callback that asks to be called again is the spin.
    """
    return [
        (CONNECTION, "import math\n", "import math\nfrom time import perf_counter\n"),
        (CONNECTION, "\nNEVER = math.inf\n", _SPIN.replace("SECONDS", f"{microseconds / 1e6}")),
        (
            CONNECTION,
            "                    self._transport.writelines(pieces)\n",
            (
                "                    self._transport.writelines(pieces)\n"
                "                    if server.cohorts.in_flight <= 1:\n"
                "                        spin_from_now(self._loop)\n"
            ),
        ),
    ]


_SPIN_FOR_DISK: list[Edit] = [
    (
        GROUP_COMMIT,
        "            self._syncing = batch, staged\n",
        (
            "            self._syncing = batch, staged\n"
            "            if len(batch.records) == 1:\n"
            "                self._loop.call_soon(self._spin, time.perf_counter() + 0.0003)\n"
        ),
    ),
    (
        GROUP_COMMIT,
        "    def _synced(self",
        (
            "    def _spin(self, until: float) -> None:\n"
            "        if self._syncing is not None and time.perf_counter() < until:\n"
            "            self._loop.call_soon(self._spin, until)\n\n"
            "    def _synced(self"
        ),
    ),
]


def _held(turns: int) -> list[Edit]:
    """A request waits some turns of the loop for others, each with an `epoll_wait`, before its first stage."""
    pauses = "            await pause()\n" * turns
    return [
        (
            CONNECTION,
            "from kmsd.wire.http.connection_state",
            "from kmsd.event_loop.cohorts import pause\nfrom kmsd.wire.http.connection_state",
        ),
        (
            CONNECTION,
            "        try:\n            while self._queue:\n",
            f"        try:\n{pauses}            while self._queue:\n",
        ),
    ]


VARIANTS: dict[str, Variant] = {
    **{f"without {name}": variant for name, variant in WITHOUT.items()},
    **TAILS,
    "no garbage collection": Variant([(WORKER, "    gc.set_threshold(GC_THRESHOLD)\n", "    gc.disable()\n")]),
    "pinned workers": Variant(
        [
            (
                WORKER,
                "    set_up(",
                "    os.sched_setaffinity(0, {spec.worker_index % (os.cpu_count() or 1)})\n    set_up(",
            )
        ]
    ),
    "spin 50 us": Variant(_spinning(50)),
    "spin 200 us": Variant(_spinning(200)),
    "spin while the disk writes": Variant(_SPIN_FOR_DISK),
    "spin 50 us, and while the disk writes": Variant([*_spinning(50), *_SPIN_FOR_DISK]),
    "held 1 turn": Variant(_held(1)),
    "held 2 turns": Variant(_held(2)),
    "cohorts from 2": Variant([("event_loop/cohorts.py", "MIN_COHORT = 3\n", "MIN_COHORT = 2\n")]),
    "batch of 32": Variant([(GROUP_COMMIT, "MAX_BATCH = 16\n", "MAX_BATCH = 32\n")]),
    "one buffer for a batch": Variant(
        [
            (
                FORMAT,
                (
                    '        digest = sha256(b"%b %b" % (digest, record)).hexdigest().encode()\n'
                    '        lines.append(b"%d %b %b\\n" % (sequence, digest, record))\n'
                    '    return b"".join(lines), Head(sequence, digest)\n'
                ),
                (
                    '        lines += b"%d %b %b\\n" % (sequence, digest, record)\n'
                    "        begin = len(lines) - len(record) - 66\n"
                    "        digest = sha256(memoryview(lines)[begin:-1]).hexdigest().encode()\n"
                    "        lines[begin : begin + 64] = digest\n"
                    "    return bytes(lines), Head(sequence, digest)\n"
                ),
            ),
            (FORMAT, "    lines = []\n", "    lines = bytearray()\n"),
        ]
    ),
    "answer as one write": Variant(
        [
            (
                CONNECTION,
                "                    self._transport.writelines(pieces)",
                "                    self._transport.write(pieces[0])",
            )
        ]
    ),
    "asyncio's own loop": Variant(
        [(WORKER, "loop_factory=uvloop.new_event_loop", "loop_factory=asyncio.new_event_loop")]
    ),
}
