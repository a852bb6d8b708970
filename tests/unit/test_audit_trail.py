"""One writer's files: chaining, rotation, torn tails, and what a failed disk leaves."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kmsd.adapters.audit_trail.format import GENESIS, FileName, Head, chained, digest_of, split
from kmsd.adapters.audit_trail.writer import TrailWriter, WriterBusy, WriterSettings
from tests.support.audit_trail import own_lines, record, trail_lines, trail_records

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SPKI = b"not a key, but bytes that the trail pins"


class Day:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """What time it is."""
        return self.now


@pytest.fixture(name="day")
def _day() -> Day:
    return Day()


def opened(folder: Path, day: Day, **settings: int) -> TrailWriter:
    """A writer that has taken its chain."""
    writer = TrailWriter(folder, "worker-0", WriterSettings(public_key=SPKI, token_serial="42", **settings), day)
    writer.open()
    return writer


def assert_chained(folder: Path) -> None:
    """Every line of the writer commits to the one before, across files."""
    head = Head()
    for line in trail_lines(folder):
        printed, text = split(line)
        assert printed.sequence == head.sequence + 1
        assert printed.digest == digest_of(head.digest, text)
        head = printed


def test_a_line_commits_to_the_line_before() -> None:
    """The published form: number, hash over the previous hash, a blank and the record; record."""
    lines, head = chained(Head(), [b'{"a":1}', b'{"b":2}'])
    first, second = lines.splitlines()
    assert first.startswith(b"1 " + digest_of(GENESIS, b'{"a":1}') + b" {")
    assert second == b"2 " + head.digest + b' {"b":2}'
    assert head == Head(2, digest_of(first[2:66], b'{"b":2}'))


def test_file_names_sort_and_parse() -> None:
    """Writers and files are told apart by name alone; anything else is no part of the trail."""
    name = FileName("worker-10", 3, NOON.date())
    assert str(name) == "worker-10.00000003.20261122.trail"
    assert FileName.parse(str(name)) == name
    for other in ("worker-0.3.20261122.trail", "worker-0.00000003.20261322.trail", "checkpoints.jsonl", ".x.lock"):
        assert FileName.parse(other) is None


def test_nothing_is_written_before_the_first_record(tmp_path: Path, day: Day) -> None:
    """A process that only looks leaves no file."""
    writer = opened(tmp_path, day)
    writer.close()
    assert trail_lines(tmp_path) == []


def test_the_first_line_of_a_file_pins_what_it_is(tmp_path: Path, day: Day) -> None:
    """Format, writer, number, what it follows, the public key and the token."""
    writer = opened(tmp_path, day)
    head = writer.append([record(1), record(2)])
    writer.close()
    (opening,) = own_lines(tmp_path, "open")
    assert opening["format"] == 1
    assert opening["writer"] == "worker-0"
    assert (opening["number"], opening["previousFile"], opening["previousSequence"]) == (1, None, 0)
    assert opening["previousHash"] == GENESIS.decode()
    assert (opening["tokenSerial"], opening["fingerprint"][:7]) == ("42", "SHA256:")
    assert head.sequence == 4  # open, start, and the two
    assert [found["requestID"] for found in trail_records(tmp_path)] == ["r1", "r2"]


def test_the_chain_goes_on_after_a_restart(tmp_path: Path, day: Day) -> None:
    """A second process continues the first one's file."""
    for number in range(3):
        writer = opened(tmp_path, day)
        writer.append([record(number)])
        writer.close()
    assert len(list(tmp_path.glob("*.trail"))) == 1
    assert_chained(tmp_path)
    assert len(own_lines(tmp_path, "start")) == 3


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_last_line_is_cut_off_and_told(tmp_path: Path, day: Day, cut: int) -> None:
    """What a crash left of an unacknowledged line goes, and the chain says so."""
    writer = opened(tmp_path, day)
    writer.append([record(1)])
    writer.close()
    (path,) = tmp_path.glob("*.trail")
    whole = path.read_bytes()
    torn = chained(writer.head, [record(2, padding="x" * 300)])[0][:cut]
    path.write_bytes(whole + torn)
    writer = opened(tmp_path, day)
    writer.append([record(3)])
    writer.close()
    assert path.read_bytes().startswith(whole)
    assert_chained(tmp_path)
    assert own_lines(tmp_path, "start")[-1]["cut"] == {"bytes": cut, "text": torn.decode()}
    assert [found["requestID"] for found in trail_records(tmp_path)] == ["r1", "r3"]


@pytest.mark.parametrize("torn", [b"", b"1 00"])
def test_a_file_without_a_first_line_is_made_anew(tmp_path: Path, day: Day, torn: bytes) -> None:
    """A process died between making a file and its first line."""
    writer = opened(tmp_path, day, file_bytes=100)
    writer.append([record(1)])
    writer.close()
    (tmp_path / "worker-0.00000002.20261122.trail").write_bytes(torn)
    writer = opened(tmp_path, day, file_bytes=100)
    writer.append([record(2)])
    writer.close()
    assert_chained(tmp_path)
    assert [found["number"] for found in own_lines(tmp_path, "open")] == [1, 2]


def test_damage_within_the_last_file_is_left_alone(tmp_path: Path, day: Day) -> None:
    """A whole line that does not fit is no crash's doing: the file stays as it is, and a new one goes on after it."""
    writer = opened(tmp_path, day)
    writer.append([record(number) for number in range(5)])
    writer.close()
    (path,) = tmp_path.glob("*.trail")
    damaged = path.read_bytes().replace(b"r2", b"rX")
    path.write_bytes(damaged)
    writer = opened(tmp_path, day)
    writer.append([record(6)])
    writer.close()
    assert path.read_bytes() == damaged
    assert own_lines(tmp_path, "start")[-1]["damaged"] == path.name
    assert own_lines(tmp_path, "open")[-1]["previousHash"] == damaged.splitlines()[-1].split()[1].decode()


def test_files_rotate_by_size_and_by_day(tmp_path: Path, day: Day) -> None:
    """A new file when one is full, and when the day (UTC) is over; the chain runs through all of them."""
    writer = opened(tmp_path, day, file_bytes=2000)
    for number in range(20):
        writer.append([record(number)])
    by_size = len(list(tmp_path.glob("*.trail")))
    day.now += timedelta(days=1)
    writer.append([record(20)])
    writer.close()
    names = sorted(path.name for path in tmp_path.glob("*.trail"))
    assert by_size >= 2
    assert len(names) == by_size + 1
    assert names[-1] == f"worker-0.{by_size + 1:08}.20261123.trail"
    assert all(path.stat().st_size < 2600 for path in tmp_path.glob("*.trail"))
    assert_chained(tmp_path)
    openings = own_lines(tmp_path, "open")
    assert [found["previousFile"] for found in openings] == [None, *names[:-1]]


def test_another_key_begins_a_new_file(tmp_path: Path, day: Day) -> None:
    """Each file pins one key."""
    writer = opened(tmp_path, day)
    writer.append([record(1)])
    writer.resume(WriterSettings(public_key=b"another", token_serial="43"))
    writer.append([record(2)])
    writer.close()
    first, second = own_lines(tmp_path, "open")
    assert first["publicKey"] != second["publicKey"]
    assert_chained(tmp_path)


def test_one_process_for_each_chain(tmp_path: Path, day: Day) -> None:
    """A second writer of the same name is refused, until the first has let go."""
    first = opened(tmp_path, day)
    with pytest.raises(WriterBusy):
        opened(tmp_path, day)
    first.close()
    opened(tmp_path, day).close()


def test_a_removed_file_fails_the_call_and_a_new_one_follows(tmp_path: Path, day: Day) -> None:
    """Nobody would find what is written to a file without a name."""
    writer = opened(tmp_path, day)
    writer.append([record(1)])
    (path,) = tmp_path.glob("*.trail")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        writer.append([record(2)])
    writer.append([record(3)])
    writer.close()
    (opening,) = own_lines(tmp_path, "open")
    assert (opening["number"], opening["previousFile"]) == (2, path.name)
    (told,) = own_lines(tmp_path, "recovered")
    assert told["refused"] == 1
    assert [found["requestID"] for found in trail_records(tmp_path)] == ["r3"]


def test_a_file_that_was_exchanged_is_not_written_to(tmp_path: Path, day: Day) -> None:
    """Not the file that we know: it is left as it was found."""
    writer = opened(tmp_path, day)
    writer.append([record(1)])
    (path,) = tmp_path.glob("*.trail")
    path.unlink()
    path.write_bytes(b"something else\n")
    with pytest.raises(OSError, match="not the file"):
        writer.append([record(2)])
    writer.append([record(3)])
    writer.close()
    assert path.read_bytes() == b"something else\n"
    assert json.loads(sorted(tmp_path.glob("*.trail"))[1].read_bytes().splitlines()[0].split(b" ", 2)[2])["number"] == 2


def test_a_vanished_directory_fails_until_it_is_back(tmp_path: Path, day: Day) -> None:
    """Calls fail; when the directory returns, with its files, the chain goes on in them."""
    folder = tmp_path / "audit"
    folder.mkdir()
    writer = opened(folder, day)
    writer.append([record(1)])
    folder.rename(tmp_path / "away")
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            writer.append([record(2)])
    with pytest.raises(FileNotFoundError):
        writer.probe()
    (tmp_path / "away").rename(folder)
    writer.probe()
    writer.append([record(3)])
    writer.close()
    assert_chained(folder)
    assert len(list(folder.glob("*.trail"))) == 1
    assert own_lines(folder, "recovered")[0]["refused"] == 3


def test_files_are_for_owner_and_group(tmp_path: Path, day: Day) -> None:
    """Nobody else reads who asked what."""
    writer = opened(tmp_path, day)
    writer.append([record(1)])
    writer.copy(b"{}")
    writer.close()
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o007 == 0, path
        assert path.stat().st_uid == os.getuid()
