"""The Logs side as its users have it: aws CLI, boto3, watchtower, processes that die."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import watchtower

from tests.support.aws_cli import AWS, AWS_2, aws, environment, export, start_all
from tests.support.clients import ACCOUNT, REGION
from tests.support.daemon import Daemon, provisioned
from tests.support.log_service import (
    RESULTS,
    arn_of,
    files_with,
    filtered,
    key_policy,
    messages,
    millis,
    put,
    query,
    rows,
    stream_for,
)
from tests.support.page_commands import commands

KILLS = int(os.environ.get("KMSD_TEST_KILLS", "5"))
"""How often a daemon is killed during ingestion; 100 by hand."""


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("logs"), workers=2) as found:
        found.start()
        yield found


@pytest.fixture(scope="module", name="single")
def _single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With one worker, for stories in which keys are made and used at once.

    Where processes make keys in turn, one may not see another's: SoftHSM 2.6.1 tells changes by a counter in a file,
    and a change of its own makes a process believe that it has seen all before.
    """
    with provisioned(tmp_path_factory.mktemp("story")) as found:
        found.start()
        yield found


def test_the_whole_story_by_the_cli(single: Daemon, tmp_path: Path) -> None:
    """Create with a key, put, read, associate another, disable, enable, disassociate; and the results of queries."""
    daemon = single
    group, now = "/cli/story", millis()
    policy = key_policy(arn_of(group), RESULTS)
    first, second = (aws(daemon, "kms", "create-key", "--policy", policy)["KeyMetadata"]["Arn"] for _ in range(2))

    def events(at: int, message: str) -> None:
        path = tmp_path / "events.json"
        path.write_text(json.dumps([{"timestamp": at, "message": message}]))
        aws(
            daemon,
            "logs",
            "put-log-events",
            "--log-group-name",
            group,
            "--log-stream-name",
            "s",
            "--log-events",
            f"file://{path}",
        )

    def read(*options: str) -> list[str]:
        found = aws(daemon, "logs", "filter-log-events", "--log-group-name", group, *options)
        return [event["message"] for event in found["events"]]

    aws(daemon, "logs", "create-log-group", "--log-group-name", group, "--kms-key-id", first)
    aws(daemon, "logs", "create-log-stream", "--log-group-name", group, "--log-stream-name", "s")
    events(now, "one")
    aws(daemon, "logs", "associate-kms-key", "--log-group-name", group, "--kms-key-id", second)
    events(now + 1000, "two")
    assert read() == ["one", "two"]
    aws(daemon, "kms", "disable-key", "--key-id", first)
    assert f"The KMS key {first} is disabled" in aws(
        daemon, "logs", "filter-log-events", "--log-group-name", group, ok=False
    )
    assert read("--start-time", str(now + 1000)) == ["two"]
    aws(daemon, "kms", "enable-key", "--key-id", first)
    assert read() == ["one", "two"]
    aws(daemon, "logs", "disassociate-kms-key", "--log-group-name", group)
    events(now + 2000, "three")
    (described,) = aws(daemon, "logs", "describe-log-groups", "--log-group-name-prefix", group)["logGroups"]
    assert "kmsKeyId" not in described
    aws(daemon, "logs", "associate-kms-key", "--resource-identifier", RESULTS, "--kms-key-id", second)
    query_id = aws(
        daemon, "logs", "start-query", "--log-group-name", group, "--start-time", str(now // 1000 - 60),
        "--end-time", str(now // 1000 + 60), "--query-string", "fields @message | sort @timestamp asc",
    )["queryId"]  # fmt: skip
    deadline = time.monotonic() + 20
    while (found := aws(daemon, "logs", "get-query-results", "--query-id", query_id))["status"] == "Running":
        assert time.monotonic() < deadline
    assert [row["@message"] for row in rows(found)] == ["one", "two", "three"]
    assert found["encryptionKey"] == second
    aws(daemon, "kms", "disable-key", "--key-id", second)
    assert "is disabled" in aws(daemon, "logs", "get-query-results", "--query-id", query_id, ok=False)
    aws(daemon, "kms", "enable-key", "--key-id", second)
    aws(daemon, "logs", "disassociate-kms-key", "--resource-identifier", RESULTS)
    assert len(aws(daemon, "logs", "get-query-results", "--query-id", query_id)["results"]) == 3


def test_the_story_of_the_documentation(single: Daemon, tmp_path: Path) -> None:
    """The commands of docs/logs.md, as they stand there, in one shell."""
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    exported = {name: environment(single)[name] for name in names}
    folder = tmp_path / "var" / "dev"
    folder.mkdir(parents=True)
    text = "".join(f"export {name}='{value}'\n" for name, value in {**exported, "AWS_REGION": REGION}.items())
    (folder / "client.env").write_text(text)
    path = f"{AWS.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands("docs/logs.md", "association")],
        env={"PATH": path, "HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, third = "sealed under the first key", "sealed under the second", "sealed under the key of the daemon"
    both = f"{first}\t{second}"
    assert done.stdout.splitlines() == [
        both,
        "^ the first key is disabled",
        second,
        both,
        f"{both}\t{third}",
        "PendingDeletion",
        "^ until cancel-key-deletion; after seven days for ever",
    ]
    disabled, pending = [line for line in done.stderr.splitlines() if "AccessDeniedException" in line]
    assert "is disabled: what was sealed under it cannot be read until the key is enabled again" in disabled
    assert "is pending deletion" in pending


@pytest.mark.skipif(not AWS_2.exists(), reason="aws logs tail is in version 2: apt-get install awscli")
def test_aws_logs_tail(daemon: Daemon) -> None:
    """What is there, and with --follow what comes."""
    group = "/cli/tail"
    logs = daemon.client("logs")
    stream_for(logs, group)
    put(logs, group, "already there", at=millis() - 60_000)
    done = subprocess.run(
        [str(AWS_2), "logs", "tail", group, "--format", "short", "--endpoint-url", daemon.endpoint],
        env=environment(daemon), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip().endswith("already there")
    with subprocess.Popen(
        [str(AWS_2), "logs", "tail", group, "--follow", "--format", "short", "--endpoint-url", daemon.endpoint],
        env={**environment(daemon), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        try:
            assert following.stdout is not None
            assert "already there" in following.stdout.readline()
            put(logs, group, "came later")
            assert "came later" in following.stdout.readline()
        finally:
            following.terminate()


def test_watchtower(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logging handler makes group and stream by itself, tags them, and every line arrives, in order."""
    export(daemon, monkeypatch)
    logs = daemon.client("logs")
    handler = watchtower.CloudWatchLogHandler(
        log_group_name="/watchtower", log_stream_name="app/{logger_name}", send_interval=1,
        log_group_retention_days=30, log_group_tags={"team": "blue"},
    )  # fmt: skip
    logger = logging.getLogger("tests.watchtower")
    logger.propagate = False
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        for number in range(500):
            logger.info("line %d", number)
        logger.info({"structured": True})
        handler.flush()
    finally:
        logger.removeHandler(handler)
        handler.close()
    found = messages(logs, "/watchtower", "app/tests.watchtower")
    assert found == [*(f"line {number}" for number in range(500)), '{"structured": true}']
    (group,) = logs.describe_log_groups(logGroupNamePrefix="/watchtower")["logGroups"]
    assert group["retentionInDays"] == 30
    assert logs.list_tags_log_group(logGroupName="/watchtower")["tags"] == {"team": "blue"}


def test_what_one_worker_acknowledged_the_other_finds(daemon: Daemon) -> None:
    """At once, in order, each event once; however the connections fall to the workers."""
    clients = [daemon.client("logs") for _ in range(6)]
    group = "/workers"
    stream_for(clients[0], group)
    expected = []
    for number in range(60):
        put(clients[number % 6], group, f"event {number}")
        expected.append(f"event {number}")
        if number % 7 == 0:
            assert messages(clients[(number + 1) % 6], group) == expected
    assert filtered(clients[3], group) == expected
    assert len(list((daemon.data / "logs").rglob("*.seg"))) >= 2


class Source(threading.Thread):
    """A client that puts numbered events until the daemon is gone; knows which of them were acknowledged."""

    def __init__(self, daemon: Daemon, group: str, stream: str, prefix: str) -> None:
        super().__init__()
        self.client = daemon.client("logs", connect_timeout=2, read_timeout=5)
        self.names = {"logGroupName": group, "logStreamName": stream}
        self.prefix = prefix
        self.acknowledged: list[str] = []
        self.doubtful: list[str] = []

    def run(self) -> None:
        """Until a call fails."""
        number = 0
        while True:
            batch = [f"{self.prefix}-{number + index}" for index in range(5)]
            number += 5
            now = millis()
            try:
                events = [{"timestamp": now, "message": message + "x" * 200} for message in batch]
                self.client.put_log_events(**self.names, logEvents=events)
            except Exception:  # noqa: BLE001 (however the daemon went away)
                self.doubtful += batch
                return
            self.acknowledged += batch


def test_kill_during_ingestion_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Kill -9 of all processes in the middle, again and again: each acknowledged event is there exactly once."""
    group = "/killed"
    with provisioned(tmp_path, workers=2) as daemon:
        start_all(daemon)
        logs = daemon.client("logs")
        key = daemon.client().create_key(Policy=key_policy(arn_of(group)))["KeyMetadata"]["Arn"]
        stream_for(logs, group, "a", kmsKeyId=key)
        logs.create_log_stream(logGroupName=group, logStreamName="b")
        acknowledged: list[str] = []
        doubtful: list[str] = []
        for kill in range(KILLS):
            sources = [Source(daemon, group, "ab"[index % 2], f"{kill}.{index}") for index in range(4)]
            for source in sources:
                source.start()
            time.sleep(0.3 + (kill * 37 % 50) / 100)
            daemon.kill()
            for source in sources:
                source.join()
                acknowledged += source.acknowledged
                doubtful += source.doubtful
            start_all(daemon)
        found = [message.rstrip("x") for message in filtered(daemon.client("logs"), group)]
        assert len(acknowledged) >= 20 * KILLS
        assert len(set(found)) == len(found)
        assert set(acknowledged) <= set(found)
        assert set(found) <= {*acknowledged, *doubtful}
        # What was in doubt came whole or not at all.
        late = set(found) - set(acknowledged)
        assert len(late) % 5 == 0
        assert files_with(daemon.data, b"0.0-0xxxx", b"0.1-5xxxx") == []


def test_a_query_that_lost_its_process_times_out(tmp_path: Path) -> None:
    """It is not running for ever in the eyes of its client."""
    with provisioned(tmp_path) as daemon:
        daemon.start()
        logs = daemon.client("logs")
        stream_for(logs, "/lost")
        put(logs, "/lost", "x")
        assert query(logs, "limit 1", "/lost")["status"] == "Complete"
        started = logs.start_query(logGroupName="/lost", startTime=0, endTime=1, queryString="limit 1")["queryId"]
        daemon.kill()
        daemon.start()
        found = daemon.client("logs").get_query_results(queryId=started)
        assert found["status"] in ("Running", "Complete")
        arn = f"arn:aws:iam::{ACCOUNT}:user/admin"
        assert daemon.client("logs").describe_queries(logGroupName="/lost")["queries"][0]["userIdentity"] == arn
