"""Reading the trail for its copy: the same records whatever is read at a time, and from wherever one goes on."""

from __future__ import annotations

import fcntl
import json
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from kmsd.adapters.audit_trail import follower
from kmsd.adapters.audit_trail.follower import TrailFollower

FILE = "worker-0.00000001.20261122"
HASH = b"a" * 64


class Own:
    """The chain of this process."""

    writer = "worker-0"
    durable = 10**9


def texts_of_all_kinds() -> Iterator[tuple[bytes, int | None]]:
    """What may follow a line's hash, and the seconds that it tells if it is a record."""
    for second in range(60):
        time = f"2026-11-22T06:30:{second:02}Z"
        at = int(datetime.fromisoformat(time).timestamp())
        yield b'{"eventVersion":"1.11","eventTime":"%b","eventID":"%d"}' % (time.encode(), second), at
        quoted = json.dumps({"userAgent": '"eventTime":"2000-01-01T00:00:00Z"', "eventTime": time})
        yield quoted.encode(), at
        yield json.dumps({"eventTime": time, "text": "é" * second}, ensure_ascii=False).encode(), at
    # What is written by others: a time in another form is one, an impossible one is none.
    yield b'{"eventTime": "2026-11-22T06:30:00+00:00"}', int(datetime.fromisoformat("2026-11-22T06:30:00Z").timestamp())
    yield b'{"eventTime":"2026-11-22T06:30:61Z"}', None
    yield b'{"eventTime":"yesterday"}', None
    yield b'{"eventID":"1"}', None
    yield b'{"eventTime":"2026-11-22T06:30:00Z","text":"\xff"}', None
    yield b"{", None
    yield b'{"kmsd":"checkpoint","eventTime":"2026-11-22T06:30:00Z"}', None
    yield b'{"eventTime":"2026-11-22T06:30:00Z","long":"%b"}' % (b"x" * 5_000), 1_795_329_000


def written(folder: Path) -> list[tuple[int, int, str, int]]:
    """A file of all kinds of lines; of its records: number of the line, time, text, end."""
    kinds = list(texts_of_all_kinds())
    random.Random(3).shuffle(kinds)  # noqa: S311 (the same order each time)
    data, found = b"", []
    for number, (text, seconds) in enumerate(kinds, 1):
        data += b"%d %b %b\n" % (number, HASH, text)
        if seconds is not None:
            found.append((number, seconds * 1000, text.decode(), len(data)))
        if number % 20 == 0:
            data += b"no line of a trail\n\n" + b"x %b {}\n" % HASH
    (folder / f"{FILE}.trail").write_bytes(data + b"999 torn")
    return found


async def read_all(
    trail: TrailFollower, *, begin: int = 0, skip: int = 0, writer: str = "worker-0"
) -> list[tuple[int, str, int]]:
    """Batch after batch, to the end of the file."""
    found: list[tuple[int, str, int]] = []
    while True:
        batch = await trail.read(writer, FILE, begin=begin, skip=skip)
        assert len(batch.times) == len(batch.texts) == len(batch.ends)
        found += zip(batch.times, batch.texts, batch.ends, strict=True)
        assert batch.end >= begin
        begin, skip = batch.end, 0
        if batch.complete:
            return found
        assert batch.times


@pytest.mark.parametrize("window", [16, 300, 4_000, 1_048_576])
@pytest.mark.parametrize("turn", [1, 7, 500])
async def test_every_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, turn: int) -> None:
    """However much is read at a time, also less than a line; from the beginning, and from any record on."""
    monkeypatch.setattr(follower, "WINDOW", window)
    monkeypatch.setattr(follower, "LINES_A_TURN", turn)
    expected = [one[1:] for one in written(tmp_path)]
    assert len(expected) == 182
    for trail in (TrailFollower(tmp_path, Own()), TrailFollower(tmp_path, Own())):
        assert await read_all(trail) == expected
        for known in (1, 50, 181, 182):
            assert await read_all(trail, skip=known) == expected[known:]
            assert await read_all(trail, begin=expected[known - 1][2]) == expected[known:]
    batch = await trail.read("worker-0", FILE, begin=0, skip=185)
    assert (batch.complete, batch.lacking, list(batch.times)) == (True, 3, [])


async def test_nothing_that_may_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the own chain what is durable, and later the rest; of another's nothing, as long as it is written to."""
    monkeypatch.setattr(follower, "LINES_A_TURN", 10)
    expected, own = written(tmp_path), Own()
    trail = TrailFollower(tmp_path, own)
    for own.durable in (0, 1, 60, 61, 187, 188, 1_000):
        assert await read_all(trail) == [one[1:] for one in expected if one[0] <= own.durable]
    own.writer = "worker-1"
    with (tmp_path / ".worker-0.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        batch = await trail.read("worker-0", FILE, begin=7, skip=0)
        assert (list(batch.times), batch.end, batch.complete) == ([], 7, False)
    assert await read_all(trail) == [one[1:] for one in expected]
