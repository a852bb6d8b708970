"""The file that a backup is: what is written is read again, and what was touched is refused, naming the part."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.backup import collect
from kmsd.backup.archive import BLOCK, CorruptArchive, Part, Writer, read
from kmsd.backup.extract import unpack
from kmsd.cloudwatch_logs.segments import files as segments

GROUP = "0" * 31 + "1"


def archive(folder: Path, parts: dict[str, bytes]) -> Path:
    """A container with these parts."""
    path = folder / "archive"
    with path.open("wb") as file:
        writer = Writer(file)
        for name, content in parts.items():
            assert writer.add(name, io.BytesIO(content), len(content))
        writer.finish()
    return path


def contents(path: Path) -> dict[str, bytes]:
    """What is in one."""
    found: dict[str, bytes] = {}

    def take(name: str, pieces: Iterator[bytes]) -> None:
        found[name] = b"".join(pieces)

    with path.open("rb") as file:
        read(file, take)
    return found


PARTS = {"database.sqlite": b"d" * 5000, f"logs/{GROUP}/{'0' * 20}-0.seg": b"s" * 513, "manifest.json": b"{}"}


def test_any_tar_reads_it(tmp_path: Path) -> None:
    """Names, contents and modes, by the standard library's tar; and by our own reader."""
    path = archive(tmp_path, PARTS)
    with tarfile.open(path) as tar:
        assert [member.name for member in tar] == list(PARTS)
        assert {member.mode for member in tar} == {0o600}
    assert contents(path) == PARTS


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any one byte changed, anywhere: refused, or a part that has another hash."""
    folder = tmp_path_factory.mktemp("c")
    path = archive(folder, PARTS)
    good = path.read_bytes()
    with path.open("rb") as file:
        vouched = read(file, lambda _, pieces: [None for _ in pieces] and None)
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(1, 255))
    path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
    try:
        with path.open("rb") as file:
            found: list[Part] = read(file, lambda _, pieces: [None for _ in pieces] and None)
    except CorruptArchive:
        return
    assert found != vouched


@pytest.mark.parametrize("keep", [0, 100, BLOCK, BLOCK + 10, 5000, 5632])
def test_what_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    """At whatever place."""
    path = archive(tmp_path, PARTS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptArchive):
        contents(path)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "logs/../../x", "audit/../x", "token/x/y", "database.sqlite-wal", "audit/x.trail"]
)
def test_nothing_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """A part of another name than kmsd gives is refused before a byte of it is written."""
    path = archive(tmp_path, {name: b"x"})
    folder = tmp_path / "deep" / "stage"
    folder.mkdir(parents=True)
    with pytest.raises(CorruptArchive, match="none of kmsd's"):
        unpack(path, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """Only plain files are parts."""
    path = tmp_path / "x"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("database.sqlite")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(CorruptArchive, match="none of kmsd's"):
        contents(path)


class _Shrinking(io.BytesIO):
    """A file that is cut when half of it has been read."""

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(min(size or 0, 100))
        self.truncate(150)
        return piece


def test_a_file_that_shrinks_leaves_no_trace(tmp_path: Path) -> None:
    """A segment whose writer took back what it could not sync is copied anew, not half."""
    with (tmp_path / "archive").open("wb") as file:
        writer = Writer(file)
        assert writer.add("manifest.json", io.BytesIO(b"{}"), 2)
        assert not writer.add("database.sqlite", _Shrinking(bytes(300)), 300)
        assert writer.add("manifest.sig", io.BytesIO(b"x"), 1)
        writer.finish()
    assert contents(tmp_path / "archive") == {"manifest.json": b"{}", "manifest.sig": b"x"}


def test_segments_that_are_replaced_while_they_are_copied(tmp_path: Path) -> None:
    """However often retention writes segments anew: of each there is one generation in the copy, whole."""
    folder = tmp_path / "logs" / GROUP
    folder.mkdir(parents=True)
    bases = [f"{number:020x}" for number in range(40)]
    for base in bases:
        (folder / f"{base}-0.seg").write_bytes(base.encode() + b" 0")
        (folder / f"{base}-0.seg.idx".replace(".seg.idx", segments.INDEX)).write_bytes(b"0")
    stop = threading.Event()

    def replace() -> None:
        """As `kmsd.cloudwatch_logs.segments.files.rewrite`: index, segment, then the old ones go."""
        generation = 0
        while not stop.is_set():
            for base in bases:
                name = f"{base}-{generation + 1}"
                (folder / (name + segments.INDEX)).write_bytes(b"%d" % (generation + 1))
                (folder / f"{name}.staged").write_bytes(f"{base} {generation + 1}".encode())
                (folder / f"{name}.staged").rename(folder / (name + segments.SEGMENT))
                segments.remove(folder, f"{base}-{generation}")
            generation += 1

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(20):
            with (tmp_path / "archive").open("wb") as file:
                writer = Writer(file)
                try:
                    collect.add_logs(writer, tmp_path / "logs")
                except collect.FileChanged:
                    continue
                writer.finish()
            found = contents(tmp_path / "archive")
            copied = {os.path.basename(name).partition("-")[0] for name in found}  # noqa: PTH119 (a name within)
            assert copied == set(bases)
            for name, content in found.items():
                if name.endswith(segments.SEGMENT):
                    generation = name.removesuffix(segments.SEGMENT).rpartition("-")[2]
                    assert content.decode().endswith(f" {generation}")
                    index = found.get(name.removesuffix(segments.SEGMENT) + segments.INDEX)
                    assert index == generation.encode()
    finally:
        stop.set()
        thread.join()


def test_a_trail_is_copied_to_its_last_whole_line(tmp_path: Path) -> None:
    """What a writer is just writing stays out; a file without a whole line, too."""
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "cli.00000001.20261122.trail").write_bytes(b"one\ntwo\nthr")
    (folder / "cli.00000002.20261122.trail").write_bytes(b"torn")
    (folder / "checkpoints.jsonl").write_bytes(b"{}\n")
    (folder / "something else").write_bytes(b"x\n")
    with (tmp_path / "archive").open("wb") as file:
        writer = Writer(file)
        collect.add_trail(writer, folder)
        writer.finish()
    assert contents(tmp_path / "archive") == {
        "audit/checkpoints.jsonl": b"{}\n",
        "audit/cli.00000001.20261122.trail": b"one\ntwo\n",
    }
