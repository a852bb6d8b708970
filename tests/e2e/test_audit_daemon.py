"""The trail of the daemon as a process: commands, kill -9, full disks, floods, copies elsewhere."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.adapters.audit_trail.format import COPIES
from tests.bench import load
from tests.support.audit_trail import own_lines
from tests.support.daemon import WELL, Daemon, eventually, provisioned
from tests.support.file_systems import small_disk
from tests.support.json_schema import violations
from tests.support.unsigned import ask_unsigned

KILLS = int(os.environ.get("KMSD_AUDIT_KILLS", "5"))
"""Set it to 100 for the long run."""


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon for one test alone, with one worker; not started."""
    with provisioned(tmp_path) as found:
        yield found


def kmsd(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command without any configuration."""
    return subprocess.run(
        [sys.executable, "-m", "kmsd", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def verified(daemon: Daemon, *options: object) -> str:
    """`kmsd audit verify` finds nothing; what it prints."""
    done = kmsd("audit", "verify", *options, daemon.data / "audit")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def acts(daemon: Daemon, event_name: str) -> list[dict[str, Any]]:
    """Records of what commands did; they fit the schema."""
    found = [record for record in daemon.audit_records() if record["eventName"] == event_name]
    assert [violation for record in found for violation in violations(record)] == []
    return found


def test_commands_are_in_the_trail(own: Daemon) -> None:
    """Intent before, outcome after, the same act id; who did it by the operating system's word; never a secret."""
    (user,) = [own.user("alice")]
    second = json.loads(own.cli("access-key", "create", "alice", "--format", "json").stdout)
    own.cli("access-key", "disable", second["AccessKeyId"])
    own.cli("access-key", "enable", second["AccessKeyId"])
    own.cli("access-key", "delete", second["AccessKeyId"])
    trust = own.folder / "trust.json"
    statement = {"Effect": "Allow", "Principal": {"AWS": user.arn}, "Action": "sts:AssumeRole"}
    trust.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    own.cli("role", "create", "reader", "--trust", str(trust))
    own.cli("role", "delete", "reader")
    own.cli("jobs", "run", "reconcile")
    own.cli("user", "delete", "alice")
    own.cli("user", "list")
    for name, count in (
        *(("Initialize", 1), ("CreateUser", 1), ("CreateAccessKey", 1), ("UpdateAccessKey", 2), ("DeleteAccessKey", 1)),
        *(("CreateRole", 1), ("DeleteRole", 1), ("RunJob", 1), ("DeleteUser", 1)),
    ):
        found = acts(own, name)
        assert [record["additionalEventData"]["phase"] for record in found] == ["intent", "outcome"] * count, name
        assert {record["eventType"] for record in found} == {"KmsdAdministrativeEvent"}
        assert {record["userIdentity"]["uid"] for record in found} == {os.getuid()}
        assert all(found[index]["requestID"] == found[index + 1]["requestID"] for index in range(0, len(found), 2))
        assert not any("errorCode" in record for record in found)
    assert acts(own, "CreateAccessKey")[1]["responseElements"] == {
        "accessKey": {"userName": "alice", "accessKeyId": second["AccessKeyId"], "status": "Active"}
    }
    whole = b"".join(path.read_bytes() for path in (own.data / "audit").iterdir())
    assert all(text.encode() not in whole for text in (user.secret, second["SecretAccessKey"], own.admin.secret))
    verified(own)


def test_a_command_that_fails_says_so(own: Daemon) -> None:
    """Its outcome bears the error."""
    assert own.cli("user", "delete", "nobody", check=False).returncode != 0
    intent, outcome = acts(own, "DeleteUser")
    assert "errorCode" not in intent
    assert outcome["errorCode"] == "NotFound"
    assert outcome["errorMessage"].startswith("there is no user nobody in account ")


def test_no_record_no_act(own: Daemon) -> None:
    """A command whose intent cannot be recorded does nothing."""
    folder = own.data / "audit"
    folder.rename(own.data / "away")
    done = own.cli("user", "create", "mallory", check=False)
    assert done.returncode != 0
    (own.data / "away").rename(folder)
    assert b"mallory" not in own.cli("user", "list").stdout
    assert acts(own, "CreateUser") == []


def test_opening_a_blob_by_hand_is_recorded(own: Daemon) -> None:
    """`kmsd open-blob` passes policies by; it does not pass the trail by."""
    own.start()
    kms = own.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"hello", EncryptionContext={"a": "b"})["CiphertextBlob"]
    import base64  # noqa: PLC0415 (of this test alone)

    opened = own.cli("open-blob", "--context", "a=b", stdin=base64.b64encode(blob))
    assert opened.stdout == b"hello"
    assert own.cli("open-blob", stdin=base64.b64encode(blob), check=False).returncode == 65
    good, bad = acts(own, "OpenBlob")[1::2]
    assert good["resources"][0]["ARN"].endswith(key_id)
    assert good["requestParameters"]["encryptionContext"] == {"a": "b"}
    assert bad["errorCode"] == "InvalidCiphertextException"
    whole = b"".join(path.read_bytes() for path in (own.data / "audit").iterdir())
    assert b"hello" not in whole


def test_an_auditor_with_the_files_and_the_public_key(own: Daemon, tmp_path: Path) -> None:
    """Offline, without configuration: verify, find an edit, compare with an anchor, show."""
    own.start()
    kms = own.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    kms.decrypt(CiphertextBlob=blob)
    with pytest.raises(ClientError):
        own.client(credentials=own.user("bob")).decrypt(CiphertextBlob=blob)
    own.stop()
    audit, pem, anchor = own.data / "audit", tmp_path / "key.pem", tmp_path / "anchor"
    printed = own.cli("audit", "public-key")
    pem.write_bytes(printed.stdout)
    assert printed.stderr.split()[0].decode() in verified(own, "--public-key", pem)
    anchor.write_text(kmsd("audit", "checkpoints", audit).stdout)
    assert anchor.read_text() == "".join(sorted((audit / COPIES).read_text().splitlines(keepends=True), key=_by_writer))
    verified(own, "--public-key", pem, "--anchor", anchor)
    verified(own, "--anchor", own.folder / "serve.log")

    shown = [json.loads(line) for line in kmsd("audit", "show", "--key", key_id, audit).stdout.splitlines()]
    assert [record["eventName"] for record in shown] == ["CreateKey", "Encrypt", "Decrypt", "Decrypt"]
    columns = kmsd("audit", "show", "--format", "columns", "--error", "any", audit).stdout
    assert columns.split("\t")[1:3] == ["Decrypt", "AccessDeniedException"]
    assert kmsd("audit", "show", "--since", "soon", audit).returncode == 64

    path = audit / min(path.name for path in audit.glob("worker-0.*"))
    path.write_bytes(path.read_bytes().replace(b"AccessDenied", b"AccessSmiled"))
    found = kmsd("audit", "verify", "--public-key", pem, audit)
    assert found.returncode == 1
    assert f"FAIL {path.name} line " in found.stdout
    assert kmsd("audit", "verify", "--public-key", path, audit).returncode == 65
    assert kmsd("audit", "verify", tmp_path / "nowhere").returncode == 66


def _by_writer(line: str) -> tuple[str, int]:
    members = json.loads(line)
    return members["writer"], members["sequence"]


def test_kill_9_under_load_loses_no_answered_call(own: Daemon) -> None:
    """Every answered call has its record, and the chain verifies across each restart."""
    answered: list[str] = []
    source = random.Random(1)  # noqa: S311 (a repeatable test)
    own.start()
    key_id = own.client().create_key()["KeyMetadata"]["KeyId"]
    for _ in range(KILLS):
        request = load.signed(own.endpoint, own.admin, "Encrypt", {"KeyId": key_id, "Plaintext": "AAAA"})
        running = load.start(own.endpoint, request, connections=16, seconds=5, most=20_000, keep_ids=True)
        deadline = time.monotonic() + 20
        while not _has_records(own, 50) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(source.uniform(0, 0.2))
        own.kill()
        result = running.result()
        assert result.errors == 0
        answered += result.request_ids
        own.start()
    own.stop()
    recorded = Counter(record.get("requestID") for record in own.audit_records())
    assert len(answered) > 50 * KILLS / 2
    assert [request_id for request_id in answered if recorded[request_id] != 1] == []
    verified(own)


def _has_records(daemon: Daemon, more: int) -> bool:
    """Whether the load has begun to be written down since the last start."""
    lines = (daemon.data / "audit").glob("worker-0.*.trail")
    text = max(lines).read_bytes()
    return text[text.rfind(b'{"kmsd":"start"') :].count(b'"eventName":"Encrypt"') >= more


def test_a_full_disk_stops_calls_and_readiness_until_there_is_room(tmp_path: Path) -> None:
    """Calls fail with KMSInternalException, /readyz turns red, and when there is room both are well."""
    with small_disk(tmp_path, 2 * 1024 * 1024) as disk:
        folder = tmp_path / "daemon"
        folder.mkdir()
        with provisioned(folder, extra=f'[audit]\ndirectory = "{disk}"') as own:
            own.start()
            kms = own.client()
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            free = os.statvfs(disk).f_bavail * 4096
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * (free - 65536))
            # Large records first; then the small ones of every other call do not fit either.
            for size in (3000, 0):
                code, before = "", time.monotonic()
                while not code and time.monotonic() < before + 30:
                    try:
                        kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"a": "x" * size})
                    except ClientError as error:
                        code = error.response["Error"]["Code"]
                assert code == "KMSInternalException"
            with pytest.raises(ClientError, match="KMSInternalException"):
                kms.schedule_key_deletion(KeyId=key_id)
            failed = {**WELL, "status": "failed", "audit": "unavailable"}
            eventually(lambda: own.get("/readyz") == (503, failed), own)
            assert "No space left" in own.log()
            ballast.unlink()
            eventually(lambda: own.get("/readyz") == (200, WELL), own)
            assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Enabled"
            own.stop()
            done = kmsd("audit", "verify", disk)
            assert done.returncode == 0, done.stdout
            assert own_lines(disk, "recovered") != []


def test_a_flood_of_strangers_is_counted(tmp_path: Path) -> None:
    """Beyond the configured rate refusals share one record a second; every one of them is counted."""
    with provisioned(tmp_path, extra="[audit]\nrefusals_per_second = 2") as own:
        own.start()
        sent = 60
        for _ in range(sent):
            assert ask_unsigned(own.endpoint, "ListKeys") == "MissingAuthenticationTokenException"
        own.stop()
        alone = acts(own, "ListKeys")
        together = acts(own, "RefusedRequests")
        assert 10 <= len(alone) < 20
        counts = [record["additionalEventData"]["refused"] for record in together]
        assert len(alone) + sum(found["count"] for found in counts) == sent
        assert {code for found in counts for code in found["errorCodes"]} == {"MissingAuthenticationTokenException"}
        assert {address for found in counts for address in found["sourceIPAddresses"]} == {"127.0.0.1"}
        verified(own)


def test_copies_go_to_syslog(tmp_path: Path) -> None:
    """RFC 5424 over UDP and TCP; a receiver that is not there delays nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(10)
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        tcp.settimeout(10)
        targets = [f"syslog://127.0.0.1:{udp.getsockname()[1]}", f"syslog+tcp://127.0.0.1:{tcp.getsockname()[1]}"]
        targets.append("syslog+unix:///nowhere")
        with provisioned(tmp_path) as own:
            own.config.write_text(own.config.read_text() + f"\n[audit]\nforward = {json.dumps(targets)}\n")
            own.start()
            own.client().list_keys()
            message = udp.recv(65536)
            connection, _ = tcp.accept()
            with connection:
                connection.settimeout(10)
                framed = connection.recv(65536)
            own.stop()
            head, _, record = message.partition(b" - {")
            assert head.startswith(b"<110>1 2")
            assert head.split()[3:] == [b"kmsd-audit", head.split()[4], b"worker-0"]
            assert b'"eventName":"ListKeys"' in record or b'"kmsd":"checkpoint"' in b"{" + record
            length, _, rest = framed.partition(b" ")
            assert rest[: int(length)].endswith(b"}")
            assert "audit_copies_dropped" in own.log()
