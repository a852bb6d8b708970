"""Trails of several nodes: each anchors the others, so that none can be cut or exchanged without being found."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmsd.adapters.audit_trail.checkpointer import Interval, Signer
from kmsd.adapters.audit_trail.format import COPIES, TrailNode
from kmsd.adapters.audit_trail.node_anchors import NodeAnchors, line_of
from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.adapters.audit_trail.verify import verify, verify_nodes
from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.ports import NodeCheckpoint
from tests.support.audit_trail import make_signer, own_lines, record, trail_records
from tests.support.tokens import softhsm

SELDOM = Interval(lines=10_000, seconds=600)


@dataclass
class Host:
    """A node: its trail, and what exchanges its checkpoints."""

    folder: Path
    node: TrailNode
    sink: TrailSink
    anchors: NodeAnchors

    async def sign(self, records: int) -> None:
        """Write some records and a checkpoint."""
        for number in range(records):
            await self.sink.append(record(number))
        await self.sink.sign_now()


@dataclass
class Site:
    """Two nodes with one token and one store."""

    store: SqliteStore
    signer: Signer
    first: Host
    second: Host

    async def exchange(self) -> None:
        """Both publish, then both record."""
        for host in (self.first, self.second) * 2:
            await host.anchors.exchange()

    def findings(self, *hosts: Host, anchor: Path | None = None) -> list[str]:
        """What `kmsd audit verify` finds in the trails of some hosts."""
        folders, anchors = [host.folder for host in hosts], [anchor] if anchor else []
        reports = verify_nodes(folders, [self.signer.public_key], anchors)
        return [str(finding) for report in reports for finding in report.findings]

    async def published(self, folder: Path) -> Path:
        """What `kmsd audit published` prints, in a file."""
        path, rows = folder / "anchor.jsonl", await (await self.store.read()).checkpoints()
        path.write_bytes(b"".join(line_of(row) + b"\n" for row in rows))
        return path


async def host(root: Path, name: str, store: SqliteStore, signer: Signer) -> Host:
    """A node with a trail of its own."""
    folder, node = root / name, TrailNode(f"{name[0]}" * 32, name)
    folder.mkdir()
    sink = await TrailSink.open(folder, "worker-0", signer, SinkSettings(interval=SELDOM, node=node))
    return Host(folder, node, sink, NodeAnchors(folder, node, store, sink))


@pytest.fixture(name="site")
async def _site(tmp_path: Path) -> AsyncIterator[Site]:
    database = tmp_path / "kmsd.sqlite"
    connection.create(database)
    store = SqliteStore(database)
    with softhsm(tmp_path / "token") as place:
        async with place.open() as token:
            signer = await make_signer(token)
            first, second = [await host(tmp_path, name, store, signer) for name in ("first", "second")]
            yield Site(store, signer, first, second)
            for one in (first, second):
                await one.sink.close()
    await store.close()


async def test_each_record_names_its_node(site: Site) -> None:
    """Records and the first line of a file do; anchors name the other node."""
    await site.first.sign(3)
    await site.second.sign(2)
    await site.exchange()
    assert [one["node"] for one in trail_records(site.first.folder)] == ["first"] * 3
    (opened,) = own_lines(site.second.folder, "open")
    assert (opened["node"], opened["nodeId"]) == ("second", site.second.node.node_id)
    assert [one["checkpoint"]["node"] for one in own_lines(site.first.folder, "anchor")] == [site.second.node.node_id]
    assert site.findings(site.first, site.second) == []
    # What is published already is neither published nor recorded again, and an anchor asks for no checkpoint.
    before = await site.published(site.first.folder)
    await site.exchange()
    assert before.read_bytes() == (await site.published(site.first.folder)).read_bytes()
    assert len(own_lines(site.first.folder, "anchor")) == 1
    assert site.first.sink.statistics[1] == 0


async def test_a_trail_that_was_rolled_back_is_found(site: Site, tmp_path: Path) -> None:
    """By itself it is sound; the other node's trail shows the cut, and so does what the node had published."""
    await site.first.sign(5)
    old = shutil.copytree(site.first.folder, tmp_path / "old")
    await site.first.sign(5)
    await site.second.sign(1)
    await site.exchange()
    anchor = await site.published(tmp_path)
    shutil.rmtree(site.first.folder)
    old.rename(site.first.folder)
    assert site.findings(site.first) == []
    (cut,) = site.findings(site.first, site.second)
    assert "the tail was cut off" in cut
    (cut,) = site.findings(site.first, anchor=anchor)
    assert "the tail was cut off" in cut
    assert site.findings(site.second) == []


async def test_a_trail_that_is_gone_or_another_node_s_is_found(site: Site, tmp_path: Path) -> None:
    """A copy of one node's folder does not pass for the other's trail."""
    await site.first.sign(2)
    await site.second.sign(2)
    await site.exchange()
    anchor = await site.published(tmp_path)
    copied = Host(tmp_path / "copied", site.first.node, site.first.sink, site.first.anchors)
    shutil.copytree(site.first.folder, copied.folder)
    (twice,) = site.findings(site.first, copied)
    assert "is a trail of the same node" in twice
    reports = verify_nodes([site.first.folder], [site.signer.public_key], [anchor])
    assert [note for note in reports[0].notes if site.second.node.node_id in note]
    for path in site.second.folder.glob("*.trail"):
        path.unlink()
    (site.second.folder / COPIES).unlink()
    assert any("there is no trail here" in text for text in site.findings(site.first, site.second))


async def test_a_forged_checkpoint_is_not_recorded(site: Site) -> None:
    """One in the store that the audit key has not signed; the node's own trail stays sound."""
    await site.first.sign(1)
    async with site.store.write() as transaction:
        await transaction.put_checkpoint(
            NodeCheckpoint("e" * 32, "worker-0", 9, "0" * 64, "2026-11-22T06:30:00.000000Z", "AAAA")
        )
    await site.exchange()
    assert own_lines(site.first.folder, "anchor") == []
    assert site.findings(site.first) == []


async def test_an_earlier_checkpoint_replaces_no_later_one(site: Site) -> None:
    """A host that was set back publishes in vain."""
    await site.first.sign(4)
    await site.first.anchors.exchange()
    (row,) = await (await site.store.read()).checkpoints()
    async with site.store.write() as transaction:
        await transaction.put_checkpoint(NodeCheckpoint(row.node_id, row.writer, 1, "0" * 64, row.at, "AAAA"))
    assert await (await site.store.read()).checkpoints() == [row]


async def test_a_chain_begun_before_the_host_was_a_node_goes_on(tmp_path: Path, site: Site) -> None:
    """In a new file, which names the node. Checkpoints that name none are taken for the only trail that is given."""
    folder = tmp_path / "alone"
    folder.mkdir()
    sink = await TrailSink.open(folder, "cli", site.signer, SinkSettings(interval=SELDOM))
    await sink.append(record(1))
    await sink.close()
    anchor = tmp_path / "old.jsonl"
    shutil.copy(folder / COPIES, anchor)
    node = TrailNode("a" * 32, "alone")
    sink = await TrailSink.open(folder, "cli", site.signer, SinkSettings(interval=SELDOM, node=node))
    await sink.append(record(2))
    await sink.close()
    assert [one.get("node") for one in own_lines(folder, "open")] == [None, "alone"]
    assert verify(folder, [site.signer.public_key], [anchor]).findings == []
    await site.first.sign(1)
    both = verify_nodes([folder, site.first.folder], [site.signer.public_key], [anchor])
    assert {"this checkpoint names no node" in str(finding) for finding in both[0].findings} == {True}
