"""Variants of kmsd that leave one thing out: an optimisation, or a part whose price is wanted.

docs/decisions/0066-optimisations-measured-alone.md has the figures.
"""

from __future__ import annotations

from tests.bench.variant import Edit, Variant

GROUP_COMMIT = "adapters/audit_trail/group_commit.py"


def _uncached(file: str, **sizes: object) -> list[Edit]:
    """Functions of a file that are computed each time, instead of being cached; `sizes` as the file has them."""
    return [(file, f"@lru_cache(maxsize={size})\ndef {name}(", f"def {name}(") for name, size in sizes.items()]


_PAUSE = """        if cohorts.in_flight >= MIN_COHORT and not operation.writes:
            await pause()
"""
_HANDLING = "        response: msgspec.Struct | None ="
_RECORDING = "        if isinstance(call, WriteCall):\n            call.transaction.finish()"

WITHOUT: dict[str, Variant] = {
    "cohorts": Variant([("event_loop/cohorts.py", "MIN_COHORT = 3\n", "MIN_COHORT = 1 << 60\n")]),
    "write-ahead log": Variant([("app.py", "ahead_bytes=AHEAD_BYTES if is_worker(writer) else 0", "ahead_bytes=0")]),
    "asynchronous sync": Variant(
        [
            (
                GROUP_COMMIT,
                "        return AioContext()\n",
                "        raise OSError(38, 'left out')\n",
            )
        ]
    ),
    "the pause before the handler": Variant([("pipeline.py", _PAUSE + _HANDLING, _HANDLING)]),
    "the pause before the record": Variant([("pipeline.py", _PAUSE + _RECORDING, _RECORDING)]),
    "gathering of records": Variant([(GROUP_COMMIT, "self._cohorts.in_flight <= 0\n", "True\n")]),
    "mapped index of SQLite's log": Variant(
        [("adapters/sqlite/store.py", "if header is None or header != self._reader.header:", "if True:")]
    ),
    "cached decisions": Variant(
        [("operations/admission.py", "if known is not None and known[0] is key", "if False and known[0] is key")]
    ),
    "encoded caller": Variant([("audit/record.py", "if known is not None and known[0] is caller:", "if False:")]),
    "encoded client and resources": Variant(
        [
            *_uncached("audit/record.py", _tls_details="CACHED", resources_of="CACHED"),
            *_uncached("audit/calls.py", _shown_source="CACHED"),
            *_uncached("wire/endpoint.py", _source=1024),
        ]
    ),
    "request ids from a stock": Variant([("wire/http/messages.py", "_POOL_SIZE = 256", "_POOL_SIZE = 1")]),
    "nonces from a stock": Variant([("adapters/pkcs11/gcm_scratch.py", "IV_BATCH = 64", "IV_BATCH = 1")]),
    "plans of headers": Variant(
        [
            *_uncached("wire/sigv4/header_plan.py", header_layout=1024, header_plan=1024),
            *_uncached("wire/sigv4/forms.py", authorization=1024, instant=64),
        ]
    ),
    "rare collections": Variant([("daemon/worker.py", "    gc.set_threshold(GC_THRESHOLD)\n", "")]),
    "one heap": Variant([("daemon/fork_server.py", "    configure_malloc(os.environ)\n", "")]),
    "the copy of the trail": Variant(
        [
            (
                "cloudwatch_logs/jobs/audit_copy.py",
                "        for chain in await self.trail.chains():\n",
                "        for chain in ():\n",
            )
        ]
    ),
}
"""Each leaves one thing out: a row per optimisation, and the copy of the trail, whose price is wanted."""


WITHIN_A_COMMIT = "        self._records.append(record)\n        self._waiting.append(done)\n"
BEFORE_THE_SYNC = "            if staged.write is None:\n"
TAILS: dict[str, Variant] = {
    "no records": Variant(
        [
            (
                GROUP_COMMIT,
                WITHIN_A_COMMIT,
                "        done.set_result(self._writer.head)\n        return done\n" + WITHIN_A_COMMIT,
            )
        ]
    ),
    "no sync": Variant(
        [
            ("app.py", "ahead_bytes=AHEAD_BYTES if is_worker(writer) else 0", "ahead_bytes=0"),
            (
                GROUP_COMMIT,
                BEFORE_THE_SYNC,
                "            self._syncing = batch, staged\n            self._loop.call_soon(self._synced, None)\n"
                "            return\n" + BEFORE_THE_SYNC,
            ),
        ]
    ),
    "no checkpoints": Variant(
        [
            (
                "adapters/audit_trail/checkpointer.py",
                "        if self._closing or self._delayed:\n            return\n        if head",
                "        return\n        if head",
            )
        ]
    ),
}
"""Each leaves out what may make the slowest hundredth slow. None of them is a daemon to use: `no records` acknowledges
calls that no trail has."""
