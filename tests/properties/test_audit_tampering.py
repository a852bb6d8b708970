"""Whatever is done to a trail without the audit key, verification finds it and names the place."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.adapters.audit_trail.checkpoint_evidence import in_copies
from kmsd.adapters.audit_trail.checkpointer import Interval, Signer
from kmsd.adapters.audit_trail.format import COPIES, Head, chained, split
from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.adapters.audit_trail.verification_report import VerificationReport
from kmsd.adapters.audit_trail.verify import verify
from tests.support.audit_trail import make_signer, record
from tests.support.tokens import softhsm

RECORDS = 1500
FLIPS = 2000 if "KMSD_TEST_SLOW" in os.environ else 500
FIRST, SECOND = "worker-0.00000001.20261122.trail", "worker-0.00000002.20261122.trail"


@dataclass
class Trail:
    """A trail of some thousand records, two workers and a command, three files each and more."""

    folder: Path
    public_key: bytes
    anchor: Path

    def verify(self, folder: Path | None = None, **options: object) -> VerificationReport:
        """With the public key alone."""
        return verify(folder or self.folder, [self.public_key], **options)  # type: ignore[arg-type]


async def _write(folder: Path, signer: Signer) -> None:
    clock = {"now": datetime(2026, 11, 22, 12, tzinfo=UTC)}
    settings = SinkSettings(file_bytes=120_000, interval=Interval(100, 600), now=lambda: clock["now"])
    for writer, count in (("worker-0", RECORDS), ("worker-1", RECORDS), ("cli", 20)):
        sink = await TrailSink.open(folder, writer, signer, settings)
        for start in range(0, count, 20):
            await asyncio.gather(
                *(sink.append(record(number, padding="é" * 40)) for number in range(start, start + 20))
            )
            await asyncio.sleep(0.001)
        clock["now"] += timedelta(days=1)
        await sink.append(record(count))
        await sink.close()
        clock["now"] -= timedelta(days=1)


@pytest.fixture(scope="module", name="trail")
def _trail(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    place = tmp_path_factory.mktemp("tampering")
    folder = place / "audit"
    folder.mkdir()

    async def make() -> bytes:
        with softhsm(place / "token") as token_place:
            async with token_place.open() as token:
                signer = await make_signer(token)
                await _write(folder, signer)
                return signer.public_key

    public_key = asyncio.run(make())
    anchor = place / "anchor"
    shutil.copy(folder / COPIES, anchor)
    return Trail(folder, public_key, anchor)


@pytest.fixture(name="copy")
def _copy(trail: Trail, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trail.folder, tmp_path / "audit"))


def findings(report: VerificationReport) -> list[str]:
    """What was found, as it is printed."""
    return [str(finding) for finding in report.findings]


def spoil(path: Path, act: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a file."""
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in act(lines)))


def test_an_honest_trail_verifies(trail: Trail) -> None:
    """Nothing to say, with the key given, with the key pinned, and against its own anchor."""
    report = trail.verify(anchors=[trail.anchor])
    assert findings(report) == []
    assert report.lines > 2 * RECORDS
    assert {chain.writer: chain.files >= 2 for chain in report.chains} == {
        "worker-0": True,
        "worker-1": True,
        "cli": True,
    }
    pinned = verify(trail.folder)
    assert (findings(pinned), pinned.pinned, pinned.public_keys) == ([], True, (trail.public_key,))


def test_any_flipped_bit_is_found(trail: Trail, copy: Path) -> None:
    """Random bytes of all files, one bit each."""
    source = random.Random(7)  # noqa: S311 (a repeatable test)
    paths = sorted(path for path in copy.iterdir() if path.suffix in (".trail", ".jsonl"))
    sizes = [path.stat().st_size for path in paths]
    missed = []
    # Each file is verified alone in its writer's chain: the others are not touched, and would only cost time.
    for path in source.choices(paths, weights=sizes, k=FLIPS):
        data = bytearray(path.read_bytes())
        at, bit = source.randrange(len(data)), 1 << source.randrange(8)
        data[at] ^= bit
        path.write_bytes(data)
        if not _found_in(trail, copy, path):
            missed.append((path.name, at, bit))
        data[at] ^= bit
        path.write_bytes(data)
    assert missed == []
    assert findings(trail.verify(copy)) == []


def test_no_flipped_bit_hides_a_copied_checkpoint(trail: Trail, tmp_path: Path) -> None:
    """Only the beginning of a line, which a crash leaves, is passed over."""
    line, path = (trail.folder / COPIES).read_bytes().splitlines(keepends=True)[0], tmp_path / COPIES
    hidden = []
    for at in range(len(line) - 1):
        for bit in range(8):
            data = bytearray(line)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            if not list(in_copies(path)):
                hidden.append((at, bit))
    assert hidden == []
    for cut in range(len('{"kmsd":"checkpoint"'), len(line) - 1):
        path.write_bytes(line[:cut] + b"\n")
        assert list(in_copies(path)) == []


@pytest.mark.parametrize("archived", [False, True])
def test_every_flipped_bit_of_the_copies_is_found(trail: Trail, copy: Path, *, archived: bool) -> None:
    """Also one in the name of a writer, where files may have been archived."""
    for path in copy.glob("worker-*"):
        path.unlink()
    path = copy / COPIES
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if b'"writer":"cli"' in line]
    assert lines
    whole = lines[-1]
    path.write_bytes(whole)
    assert findings(trail.verify(copy, archived=archived)) == []
    missed = []
    for at in range(len(whole) - 1):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            if not trail.verify(copy, archived=archived).findings:
                missed.append((at, bit))
    assert missed == []


def _found_in(trail: Trail, copy: Path, path: Path) -> bool:
    """Whether verification finds anything; of a chain, only that chain is walked."""
    others: list[Path] = []
    if path.suffix == ".trail":
        writer = path.name.split(".")[0]
        others = [other for other in copy.glob("*.trail") if other.name.split(".")[0] != writer]
        for other in others:
            other.rename(other.with_suffix(".aside"))
    try:
        return bool(trail.verify(copy, archived=True).findings)
    finally:
        for other in others:
            other.with_suffix(".aside").rename(other)


def test_every_removed_line_is_found(trail: Trail, copy: Path) -> None:
    """Each line of one file, removed alone."""
    path = copy / "cli.00000001.20261122.trail"
    whole = path.read_bytes()
    for index in range(len(whole.splitlines())):
        spoil(path, lambda lines, index=index: lines[:index] + lines[index + 1 :])  # type: ignore[misc]
        assert _found_in(trail, copy, path), index
        path.write_bytes(whole)


def test_a_removed_line_is_named(trail: Trail, copy: Path) -> None:
    """File, line and number of the place."""
    spoil(copy / FIRST, lambda lines: lines[:50] + lines[53:])
    (found,) = [finding for finding in trail.verify(copy).findings if finding.line]
    assert (found.place, found.line, found.sequence) == (FIRST, 51, 54)
    assert found.text == "3 lines before this one are missing"


def test_every_swapped_pair_is_found(trail: Trail, copy: Path) -> None:
    """Each pair of neighbours of one file."""
    path = copy / "cli.00000001.20261122.trail"
    whole = path.read_bytes()
    for index in range(len(whole.splitlines()) - 1):
        spoil(path, lambda lines, i=index: [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]])  # type: ignore[misc]
        assert _found_in(trail, copy, path), index
        path.write_bytes(whole)


def test_an_edited_record_is_named(trail: Trail, copy: Path) -> None:
    """Another request id in one record."""
    spoil(copy / FIRST, lambda lines: [line.replace(b'"r30"', b'"r31"') for line in lines])
    (found,) = trail.verify(copy).findings
    assert found.place == FIRST
    assert found.line == found.sequence
    assert "edited" in found.text


def test_an_inserted_and_a_doubled_line_are_found(trail: Trail, copy: Path) -> None:
    """A forged record, with a number of its own or another's."""
    spoil(copy / FIRST, lambda lines: [*lines[:60], lines[59], *lines[60:]])
    assert "out of order, or inserted" in findings(trail.verify(copy))[0]


def rewrite(copy: Path, change: Callable[[bytes], bytes | None]) -> None:
    """What an attacker can do who knows the format: change records and chain everything anew, without the key."""
    head = Head()
    for path in sorted(copy.glob("worker-0.*.trail")):
        records = []
        for line in path.read_bytes().splitlines():
            text = split(line)[1]
            if text.startswith(b'{"kmsd":"open"'):
                at = text.index(b'"previousHash":"') + 16
                text = text[:at] + head.digest + text[at + 64 :]
            changed = change(text)
            if changed is not None:
                records.append(changed)
        lines, head = chained(head, records)
        path.write_bytes(lines)


def test_a_chain_made_anew_does_not_fit_what_was_signed(trail: Trail, copy: Path) -> None:
    """Every hash is right, and the checkpoints tell that it is another trail."""
    rewrite(copy, lambda text: text.replace(b'"r30"', b'"r31"'))
    found = findings(trail.verify(copy))
    assert any("is not the line that was signed" in text for text in found)
    assert not any("hash" in text for text in found)


def test_a_chain_without_checkpoints_is_found(trail: Trail, copy: Path) -> None:
    """Made anew with all checkpoints left out, here and beside the trail: nothing is signed, and that is said."""
    (copy / COPIES).unlink()
    rewrite(copy, lambda text: None if text.startswith(b'{"kmsd":"checkpoint"') else text)
    found = findings(trail.verify(copy))
    assert any("nothing in this chain is signed" in text or "does not follow" in text for text in found)


def test_a_forged_checkpoint_is_found(trail: Trail, copy: Path) -> None:
    """Signed by a key of the attacker's own, which his files pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    async def sign(digest: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: PLC0415 (of this attack alone)

        return key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))

    for path in copy.iterdir():
        path.unlink()
    asyncio.run(_write(copy, Signer(spki, "x", sign)))
    found = findings(trail.verify(copy))
    assert any("pins another key" in text for text in found)
    assert any("does not hold under the audit key" in text for text in found)
    assert findings(verify(copy, [spki])) == []


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_missing_file_is_found(trail: Trail, copy: Path, name: str) -> None:
    """The first, one in the middle."""
    (copy / name).unlink()
    assert any("missing" in text for text in findings(trail.verify(copy)))


def test_missing_last_files_are_found_by_the_copies_and_by_an_anchor(trail: Trail, copy: Path) -> None:
    """The youngest file of a writer, with and without the copies beside it."""
    last = max(copy.glob("worker-0.*.trail"))
    last.unlink()
    assert any("the tail was cut off" in text for text in findings(trail.verify(copy)))
    (copy / COPIES).unlink()
    assert any("the tail was cut off" in text for text in findings(trail.verify(copy, anchors=[trail.anchor])))


def test_a_writer_that_is_missing_altogether_is_found(trail: Trail, copy: Path) -> None:
    """All its files removed."""
    for path in copy.glob("worker-1.*.trail"):
        path.unlink()
    assert any("all its files are missing" in text for text in findings(trail.verify(copy)))


def test_every_tail_cut_beyond_a_checkpoint_is_found(trail: Trail, copy: Path) -> None:
    """Cut after each line of the last file, up to the last checkpoint: against the copies, and against an anchor."""
    path = max(copy.glob("cli.*.trail"))
    whole = path.read_bytes()
    lines = whole.splitlines()
    signed = max(index for index, line in enumerate(lines) if b'"kmsd":"checkpoint"' in line)
    for keep in range(1, signed - 1):
        spoil(path, lambda lines, keep=keep: lines[:keep])  # type: ignore[misc]
        assert any("cut off" in text for text in findings(trail.verify(copy))), keep
    (copy / COPIES).unlink()
    assert any("cut off" in text for text in findings(trail.verify(copy, anchors=[trail.anchor])))
    path.write_bytes(whole)


def test_a_torn_end_is_found(trail: Trail, copy: Path) -> None:
    """Cut within a line."""
    path = max(copy.glob("cli.*.trail"))
    path.write_bytes(path.read_bytes()[:-30])
    assert any("has no end" in text for text in findings(trail.verify(copy)))


def test_swapped_files_are_found(trail: Trail, copy: Path) -> None:
    """Between two writers, between two numbers, between two days."""
    for one, other in (
        (FIRST, "worker-1.00000001.20261122.trail"),
        (FIRST, SECOND),
        (FIRST, max(copy.glob("worker-0.*.trail")).name),
    ):
        first, second = (copy / one).read_bytes(), (copy / other).read_bytes()
        (copy / one).write_bytes(second)
        (copy / other).write_bytes(first)
        found = findings(trail.verify(copy))
        assert any(one in text for text in found)
        assert any(other in text for text in found)
        (copy / one).write_bytes(first)
        (copy / other).write_bytes(second)


def test_a_renamed_file_is_found(trail: Trail, copy: Path) -> None:
    """The day and the number in the name are those of the first line."""
    (copy / FIRST).rename(copy / "worker-0.00000001.20261121.trail")
    assert any("was begun on 2026-11-22" in text for text in findings(trail.verify(copy)))


def test_archived_files_may_be_gone_from_the_front_only(trail: Trail, copy: Path) -> None:
    """`--archived` forgives the oldest files of a writer, and no other."""
    (copy / FIRST).unlink()
    assert findings(trail.verify(copy, archived=True)) == []
    (copy / sorted(path.name for path in copy.glob("worker-0.*.trail"))[1]).unlink()
    assert findings(trail.verify(copy, archived=True)) != []


def test_an_anchor_may_be_a_log(trail: Trail, tmp_path: Path) -> None:
    """The journal's output, other lines among it."""
    log = tmp_path / "log"
    lines = [
        line.replace('"kmsd":"checkpoint"', '"event":"audit checkpoint"')
        for line in trail.anchor.read_text().splitlines()
    ]
    log.write_text("\n".join(f"Nov 22 host kmsd[1]: {line}\nnoise {{\n" for line in lines))
    assert findings(trail.verify(anchors=[log])) == []
    log.write_text("noise\n")
    assert "holds no checkpoint" in findings(trail.verify(anchors=[log]))[0]


def test_another_trail_does_not_fit_the_anchor(trail: Trail, tmp_path: Path) -> None:
    """Rolled back to nothing and begun anew under the same key: the anchor remembers."""

    async def begin_anew() -> VerificationReport:
        with softhsm(tmp_path / "token") as place:
            async with place.open() as token:
                signer = await make_signer(token)
                folder = tmp_path / "audit"
                folder.mkdir()
                await _write(folder, signer)
                first = tmp_path / "first"
                shutil.copy(folder / COPIES, first)
                for path in folder.iterdir():
                    path.unlink()
                sink = await TrailSink.open(folder, "worker-0", signer)
                await sink.append(record(int(secrets.token_hex(4), 16)))
                await sink.close()
                return verify(folder, [signer.public_key], [first])

    found = findings(asyncio.run(begin_anew()))
    assert any("cut off" in text or "not the line that was signed" in text for text in found)
