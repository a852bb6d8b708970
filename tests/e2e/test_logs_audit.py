"""The audit trail through the Logs API as its users have it: aws CLI and boto3, several workers, kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.cloudwatch_logs.groups import AUDIT_GROUP
from tests.support.aws_cli import AWS, AWS_2, aws, environment, start_all
from tests.support.clients import Credentials
from tests.support.daemon import Daemon, provisioned
from tests.support.log_service import arn_of, files_with, filtered, query, refusal, rows
from tests.support.page_commands import commands
from tests.support.polling import until

KILLS = int(os.environ.get("KMSD_TEST_KILLS", "4"))
"""How often a daemon is killed while its trail is copied; 100 by hand."""


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("audit"), workers=2) as found:
        start_all(found)
        yield found


def copied(daemon: Daemon) -> list[dict[str, Any]]:
    """Every record that the group shows."""
    return [json.loads(message) for message in filtered(daemon.client("logs"), AUDIT_GROUP)]


def test_records_of_all_writers_appear(daemon: Daemon) -> None:
    """Of both workers and of commands; each once, in the order of time."""
    clients = [daemon.client() for _ in range(8)]
    for number in range(120):
        clients[number % 8].list_keys(Limit=1 + number)
    carol = daemon.user("carol")
    logs = daemon.client("logs")

    def writers() -> set[str]:
        # Each client is a new connection: on a busy host one worker may have taken all so far.
        daemon.client().list_keys(Limit=1)
        streams = logs.describe_log_streams(logGroupName=AUDIT_GROUP)["logStreams"]
        return {stream["logStreamName"].split(".")[0] for stream in streams}

    until(lambda: writers() >= {"worker-0", "worker-1", "cli"})
    written = {record["eventID"] for record in daemon.audit_records()}

    def complete() -> bool:
        return written <= {record["eventID"] for record in copied(daemon)}

    until(complete)
    found = copied(daemon)
    assert len({record["eventID"] for record in found}) == len(found)
    times = [record["eventTime"] for record in found]
    assert times == sorted(times)
    pattern = '{ $.eventName = "CreateUser" && $.additionalEventData.phase = "outcome" }'
    users = [json.loads(message) for message in filtered(logs, AUDIT_GROUP, pattern)]
    assert carol.arn.rpartition("/")[2] in [user["requestParameters"]["userName"] for user in users]


@pytest.mark.skipif(not AWS_2.exists(), reason="aws logs tail is in version 2: apt-get install awscli")
def test_aws_logs_tail(daemon: Daemon) -> None:
    """With --since, --format and --filter-pattern what was; with --follow what comes, and nothing twice."""

    def tail(*options: str) -> list[str]:
        command = [str(AWS_2), "logs", "tail", AUDIT_GROUP, "--endpoint-url", daemon.endpoint, *options]
        done = subprocess.run(command, env=environment(daemon), capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    kms = daemon.client()
    kms.create_key(Description="before")
    pattern = '{ $.eventName = "CreateKey" }'
    until(lambda: len(filtered(daemon.client("logs"), AUDIT_GROUP, pattern)) == 1)
    (line,) = tail("--since", "10m", "--format", "short", "--filter-pattern", pattern)
    assert json.loads(line.partition(" ")[2])["requestParameters"]["description"] == "before"
    (line,) = tail("--filter-pattern", pattern)
    assert line.split()[1].startswith("worker-")
    assert tail("--since", "1d", "--filter-pattern", '{ $.eventName = "None" }') == []
    with subprocess.Popen(
        [str(AWS_2), "logs", "tail", AUDIT_GROUP, "--follow", "--format", "short", "--filter-pattern", pattern,
         "--endpoint-url", daemon.endpoint],
        env={**environment(daemon), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        try:
            assert following.stdout is not None
            assert '"before"' in following.stdout.readline()
            kms.create_key(Description="while it looks")
            assert '"while it looks"' in following.stdout.readline()
        finally:
            following.terminate()


def test_who_decrypted_by_the_cli(daemon: Daemon, tmp_path: Path) -> None:
    """The commands of docs/logs.md, as they stand there."""
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    dave, kms = daemon.user("dave", policy), daemon.client()
    key = kms.create_key()["KeyMetadata"]["Arn"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    daemon.client("kms", dave).decrypt(CiphertextBlob=blob)
    decrypted = f'{{ $.eventName = "Decrypt" && $.resources[0].ARN = "{key}" }}'
    until(lambda: len(filtered(daemon.client("logs"), AUDIT_GROUP, decrypted)) == 1)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"KEY={key}\n{commands('docs/logs.md', 'who-decrypted')}"],
        env={**environment(daemon), "PATH": f"{AWS.parent}:{os.environ['PATH']}"},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = rows(json.loads(done.stdout[done.stdout.index("{") :]))
    assert row["userIdentity.arn"] == dave.arn
    assert row["eventName"] == "Decrypt"


def test_who_may_read_it(daemon: Daemon) -> None:
    """Nobody but by a policy that names it; the one of docs/logs.md is enough, and allows no other group."""
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    assert refused(daemon, daemon.user("app", everything)) == "AccessDeniedException"
    text = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
    policy = json.loads(text.split("<!-- test: auditor -->\n```json\n")[1].split("```")[0])
    auditor = daemon.user("auditor", policy)
    assert refused(daemon, auditor) == ""
    logs = daemon.client("logs", auditor)
    assert rows(query(logs, "fields eventName | limit 1", AUDIT_GROUP))
    daemon.client("logs").create_log_group(logGroupName="/other")
    assert refusal(logs.filter_log_events, logGroupName="/other")[0] == "AccessDeniedException"
    denied = json.loads(text.split("<!-- test: application -->\n```json\n")[1].split("```")[0])
    application = daemon.client("logs", daemon.user("application", denied))
    application.create_log_group(logGroupName="/application")
    assert filtered(application, "/application") == []
    assert refusal(application.filter_log_events, logGroupName=AUDIT_GROUP)[0] == "AccessDeniedException"


def refused(daemon: Daemon, who: Credentials) -> str:
    """The error of a principal that reads the group."""
    return refusal(daemon.client("logs", who).filter_log_events, logGroupName=AUDIT_GROUP)[0]


def test_the_cli_may_not_write_to_it(daemon: Daemon) -> None:
    """A clear error."""
    for command in ("delete-log-group", "disassociate-kms-key", "delete-retention-policy"):
        complaint = aws(daemon, "logs", command, "--log-group-name", AUDIT_GROUP, ok=False)
        assert "is kept by the service: it can be read" in complaint
    assert "are reserved" in aws(daemon, "logs", "create-log-group", "--log-group-name", "/kmsd/mine", ok=False)
    assert arn_of(AUDIT_GROUP) in json.dumps(aws(daemon, "logs", "describe-log-groups"))


class Caller(threading.Thread):
    """A client that calls until the daemon is gone."""

    def __init__(self, daemon: Daemon, marker: str) -> None:
        super().__init__()
        self._client = daemon.client(connect_timeout=2, read_timeout=5)
        self._marker = marker

    def run(self) -> None:
        """Until a call fails."""
        number = 0
        while True:
            try:
                self._client.list_keys(Marker=f"{self._marker}-{number}")
            except self._client.exceptions.ClientError:
                number += 1  # no such marker: refused, and recorded
            except Exception:  # noqa: BLE001 (however the daemon went away)
                return


def test_kill_while_the_trail_is_copied_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Kill -9 of all processes, at moments that wander over the second: in the end the group is the trail."""
    with provisioned(tmp_path, workers=2, extra="[audit]\nfile_bytes = 500000\n") as daemon:
        start_all(daemon)
        for kill in range(KILLS):
            callers = [Caller(daemon, f"very-much-in-the-clear-{kill}.{index}") for index in range(4)]
            for caller in callers:
                caller.start()
            # The copy begins a tenth after each full second, and takes some hundredths.
            time.sleep(0.2 + (1.09 + (kill * 7 % 20) / 100 - time.time() % 1) % 1)
            daemon.kill()
            for caller in callers:
                caller.join()
            start_all(daemon)
        recorded = {record["eventID"] for record in daemon.audit_records()}

        def complete() -> bool:
            return recorded <= {record["eventID"] for record in copied(daemon)}

        until(complete)
        found = [record["eventID"] for record in copied(daemon)]
        assert len(found) == len(set(found))
        assert set(found) <= {record["eventID"] for record in daemon.audit_records()}
        assert len(recorded) > 50 * KILLS
        assert len(list((daemon.data / "audit").glob("worker-*.trail"))) >= 2
        assert files_with(daemon.data / "logs", b"very-much-in-the-clear", b"eventVersion") == []
        assert daemon.cli("audit", "verify").returncode == 0
