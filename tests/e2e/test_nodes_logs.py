"""CloudWatch Logs on two nodes with one PostgreSQL: they are one service, also while one of them dies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from botocore.exceptions import BotoCoreError

from kmsd.config import node_identity
from tests.support.clients import code_of
from tests.support.daemon import eventually
from tests.support.log_service import (
    arn_of,
    filtered,
    key_for,
    messages,
    millis,
    put,
    query,
    rows,
    stream_for,
    wait_for,
)
from tests.support.nodes import Pair, Site, first_of_nodes, two_nodes

PLAIN = b"a secret"
RETRYABLE = {"ServiceUnavailableException", "KMSInternalException"}
HOUR = 3_600_000


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with first_of_nodes(tmp_path_factory.mktemp("first")) as found:
        yield found


@pytest.fixture(name="pair", scope="module")
def _pair(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two hosts that serve."""
    with two_nodes(site, tmp_path_factory.mktemp("second") / "data") as found:
        yield found


@pytest.fixture(name="both")
def _both(pair: Pair) -> Iterator[tuple[Any, Any]]:
    """A client of the log service on each host."""
    clients = tuple(one.client("logs") for one in pair)
    yield clients[0], clients[1]
    for one in clients:
        one.close()


def test_what_one_takes_in_the_other_finds_at_once(both: tuple[Any, Any]) -> None:
    """Groups, streams, events of one stream from both, sizes, and the results of queries."""
    here, there = both
    stream_for(here, "/shared")
    expected, began = [], millis() - HOUR
    for number in range(20):
        logs, other = both if number % 2 else both[::-1]
        put(logs, "/shared", f"event {number}", at=began + number)
        expected.append(f"event {number}")
        assert messages(other, "/shared") == expected
        assert filtered(other, "/shared", "event") == expected
    for one in both:
        (group,) = one.describe_log_groups(logGroupNamePrefix="/shared")["logGroups"]
        assert group["storedBytes"] == sum(len(text) + 26 for text in expected)
        (stream,) = one.describe_log_streams(logGroupName="/shared", orderBy="LastEventTime")["logStreams"]
        assert stream["lastEventTimestamp"] - stream["firstEventTimestamp"] == 19
    found = query(here, "stats count(*) as n", "/shared")
    (started,) = there.describe_queries(logGroupName="/shared")["queries"]
    assert rows(wait_for(there, started["queryId"])) == rows(found) == [{"n": "20"}]
    there.delete_log_stream(logGroupName="/shared", logStreamName="s")
    assert filtered(here, "/shared") == []
    there.delete_log_group(logGroupName="/shared")
    assert code_of(put, here, "/shared", "late") == "ResourceNotFoundException"


def test_a_key_that_is_disabled_on_one_is_not_used_on_the_other(pair: Pair, both: tuple[Any, Any]) -> None:
    """Neither to store nor to read; once it is enabled again, all is there."""
    kms, (here, there) = pair[0].client(), both
    key = key_for(kms, arn_of("/sealed"))
    stream_for(here, "/sealed", kmsKeyId=key)
    put(there, "/sealed", "before")
    assert messages(there, "/sealed") == ["before"]
    kms.disable_key(KeyId=key)
    assert code_of(put, there, "/sealed", "refused") == "AccessDeniedException"
    assert code_of(messages, there, "/sealed") == "AccessDeniedException"
    kms.enable_key(KeyId=key)
    put(there, "/sealed", "after")
    assert filtered(here, "/sealed") == ["before", "after"]
    kms.close()


def test_no_event_is_in_the_clear(site: Site, both: tuple[Any, Any]) -> None:
    """Not in tables, write-ahead log and log of the server; names of groups are there, so the places are right."""
    marker = "MARKER-7f3a9c"
    stream_for(both[0], "/scanned")
    put(both[0], "/scanned", *[f"{marker} {index}" for index in range(200)])
    put(both[1], "/scanned", marker + "x" * 100_000)
    assert len(query(both[1], f"filter @message like '{marker} 1' | fields @message", "/scanned")["results"]) == 111
    site.sql("CHECKPOINT")
    content = [path.read_bytes() for path in site.server.folder.rglob("*") if path.is_file()]
    assert not any(marker.encode() in one for one in content)
    assert any(b"/scanned" in one for one in content)


def copied(logs: Any) -> list[dict[str, Any]]:
    """The records in /kmsd/audit, each with the stream that it is in."""
    found = logs.get_paginator("filter_log_events").paginate(logGroupName="/kmsd/audit")
    return [
        {**json.loads(event["message"]), "stream": event["logStreamName"]} for page in found for event in page["events"]
    ]


def test_the_trails_of_both_are_copied(pair: Pair, both: tuple[Any, Any]) -> None:
    """Each record once, in a stream with the name of its node; the use of a key is known everywhere."""
    clients = [one.client() for one in pair]
    key_id = clients[0].create_key()["KeyMetadata"]["KeyId"]
    for number in range(5):
        for name, kms in zip(("first", "second"), clients, strict=True):
            kms.encrypt(KeyId=key_id, Plaintext=PLAIN, EncryptionContext={"by": f"{name} {number}"})

    def uses() -> list[tuple[str, str]]:
        return sorted(
            (record["requestParameters"]["encryptionContext"]["by"].split()[0], record["stream"].split(".")[0])
            for record in copied(both[1])
            if record["eventName"] == "Encrypt" and record["resources"][0]["ARN"].endswith(key_id)
        )

    eventually(lambda: len(uses()) >= 10, pair[1])
    first = json.loads((pair[0].data / "node.json").read_text())["name"]
    assert uses() == [("first", first)] * 5 + [("second", "second")] * 5
    ids = [record["eventID"] for record in copied(both[0])]
    assert len(ids) == len(set(ids))
    last = clients[1].get_key_last_usage(KeyId=key_id)["KeyLastUsage"]
    assert clients[0].get_key_last_usage(KeyId=key_id)["KeyLastUsage"] == last
    assert last["Operation"] == "Encrypt"
    for one in clients:
        one.close()


def test_a_host_that_joins_again_goes_on_with_its_streams(site: Site, tmp_path: Path) -> None:
    """Also under another name: its trail is not copied twice."""
    host = site.host(tmp_path / "third")
    host.cli("join", "--name", "third")
    streams = node_identity.read(host.data)
    site.first.cli("node", "remove", "third", "--force")
    host.cli("join", "--name", "fourth")
    again = node_identity.read(host.data)
    assert streams is not None
    assert again is not None
    assert again.node_id != streams.node_id
    assert again.log_streams == streams.log_streams
    assert streams.log_streams == f"third.{streams.node_id[:8]}/"
    site.first.cli("node", "remove", "fourth", "--force")


@dataclass
class Background:
    """Does something again and again during the block, and notes what did not work."""

    errors: list[str] = field(default_factory=list)
    times: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def act(self) -> None:
        """Replaced by those that do something."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.ended.is_set():
            try:
                code = code_of(self.act)
            except BotoCoreError as exc:  # the connection ended
                code = type(exc).__name__
            if code:
                self.errors.append(code)
                self.ended.wait(0.05)
            else:
                self.times += 1


@dataclass
class Reading(Background):
    """Reads a group, which holds one event that has not expired."""

    logs: Any = None

    def act(self) -> None:
        """Read it."""
        assert filtered(self.logs, "/kept") == ["young"]


def test_one_drops_what_has_expired_while_the_other_reads(site: Site, pair: Pair, both: tuple[Any, Any]) -> None:
    """The partition is gone; the reader meets no error, and finds what is kept each time."""
    here, there = both
    stream_for(here, "/kept")
    here.put_retention_policy(logGroupName="/kept", retentionInDays=1)
    put(here, "/kept", "old")
    # Ten days pass for it.
    site.sql("CREATE TABLE log_frame_1 PARTITION OF log_frame FOR VALUES IN (1)")
    site.sql("CREATE TABLE log_frame_sum_1 PARTITION OF log_frame_sum FOR VALUES IN (1)")
    earlier = "SET expires_on = 1, first_at = first_at - 864000000, last_at = last_at - 864000000"
    group = "WHERE group_id = (SELECT group_id FROM log_group WHERE name = '/kept')"
    site.sql(f"UPDATE log_frame {earlier} {group}")
    site.sql(f"UPDATE log_frame_sum {earlier} {group}")
    put(there, "/kept", "young")
    with Reading(logs=there) as reading:
        eventually(lambda: reading.times > 3, pair[1])
        done = pair[0].cli("jobs", "run", "retention").stdout.decode()
        times = reading.times
        eventually(lambda: reading.times > times + 3, pair[1])
    assert "log events removed from group" in done
    assert reading.errors == []
    assert site.sql("SELECT count(*) FROM pg_class WHERE relname IN ('log_frame_1', 'log_frame_sum_1')") == "0"


@dataclass
class Writing(Background):
    """Puts events of one stream through one host."""

    name: str = ""
    logs: Any = None
    acknowledged: list[str] = field(default_factory=list)
    number: int = 0

    def act(self) -> None:
        """Put two events."""
        self.number += 1
        text = f"{self.name} {self.number}"
        put(self.logs, "/killed", text, f"{text} again")
        self.acknowledged += [text, f"{text} again"]


def test_nothing_acknowledged_is_lost(site: Site, pair: Pair) -> None:
    """A node is killed, and then the server, while both take events into one stream: each is there, once."""
    first, second = pair
    clients = [one.client("logs", read_timeout=20) for one in (first, first, second, second)]
    stream_for(clients[0], "/killed")
    writers = [Writing(name=f"writer {index}", logs=logs) for index, logs in enumerate(clients)]
    with writers[0], writers[1], writers[2], writers[3]:
        eventually(lambda: all(one.times > 5 for one in writers), second)
        first.kill()
        served = [one.times for one in writers[2:]]
        eventually(lambda: all(one.times > 5 + n for one, n in zip(writers[2:], served, strict=True)), second)
        site.server.kill()
        failed = len(writers[2].errors)
        eventually(lambda: len(writers[2].errors) > failed, second)
        site.server.start()
        served = [one.times for one in writers[2:]]
        eventually(lambda: all(one.times > 5 + n for one, n in zip(writers[2:], served, strict=True)), second)
    first.start()
    for host in (first, second):
        found = messages(host.client("logs"), "/killed")
        assert len(found) == len(set(found))
        assert {text for one in writers for text in one.acknowledged} <= set(found)
    assert set(writers[2].errors + writers[3].errors) <= RETRYABLE
