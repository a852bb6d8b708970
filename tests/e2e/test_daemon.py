"""The daemon as a process: the aws CLI, restarts, refusals, and a wrong PIN."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from botocore.exceptions import ClientError

from tests.support.clients import Credentials, signing_clock
from tests.support.daemon import WELL, Daemon, eventually, free_port, provisioned
from tests.support.key_ceremonies import listed

AWS = str(Path(sys.executable).parent / "aws")


def aws(daemon: Daemon, *arguments: str) -> Any:
    """Run the stock aws CLI; its JSON output."""
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": daemon.endpoint,
        "AWS_ACCESS_KEY_ID": daemon.admin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": daemon.admin.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PAGER": "",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run([AWS, "kms", *arguments], env=environment, capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout) if done.stdout else None


def test_a_first_encryption_with_the_aws_cli(daemon: Daemon, tmp_path: Path) -> None:
    """The README's first steps, as a stranger types them."""
    key_id = aws(daemon, "create-key", "--description", "first")["KeyMetadata"]["KeyId"]
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"attack at dawn")
    sealed = aws(daemon, "encrypt", "--key-id", key_id, "--plaintext", f"fileb://{secret}")
    blob = tmp_path / "blob"
    blob.write_bytes(base64.b64decode(sealed["CiphertextBlob"]))
    opened = aws(daemon, "decrypt", "--ciphertext-blob", f"fileb://{blob}")
    assert base64.b64decode(opened["Plaintext"]) == b"attack at dawn"
    assert aws(daemon, "describe-key", "--key-id", key_id)["KeyMetadata"]["Description"] == "first"
    assert key_id in [key["KeyId"] for key in aws(daemon, "list-keys")["Keys"]]
    data_key = aws(daemon, "generate-data-key", "--key-id", key_id, "--key-spec", "AES_256")
    assert len(base64.b64decode(data_key["Plaintext"])) == 32
    aws(daemon, "disable-key", "--key-id", key_id)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        aws(daemon, "encrypt", "--key-id", key_id, "--plaintext", f"fileb://{secret}")
    assert b"DisabledException" in refused.value.stderr


def test_old_blobs_open_after_kill_and_restart(tmp_path: Path) -> None:
    """What was acknowledged is there after kill -9 of everything; readiness comes back by itself."""
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.start()
        kms = daemon.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"still here")["CiphertextBlob"]
        kms.create_alias(AliasName="alias/kept", TargetKeyId=key_id)
        daemon.kill()
        daemon.start()
        assert daemon.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"still here"
        assert daemon.client().describe_key(KeyId="alias/kept")["KeyMetadata"]["KeyId"] == key_id
        assert daemon.stop() == 0


def test_a_dead_worker_is_replaced(daemon: Daemon) -> None:
    """Killing one worker costs its connections and nothing else."""
    victim = daemon.workers()[0]
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while victim in daemon.workers() or len(daemon.workers()) < 2:
        assert time.monotonic() < deadline, daemon.log()
        time.sleep(0.05)
    daemon.wait_ready()
    assert daemon.client().create_key()["KeyMetadata"]["Enabled"]


def test_workers_leave_with_their_parent(tmp_path: Path) -> None:
    """A killed parent leaves no stray worker on the socket."""
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.start()
        assert daemon.process is not None
        workers = daemon.workers()
        daemon.process.kill()
        daemon.process.wait()
        daemon.process = None
        deadline = time.monotonic() + 15
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_second_daemon_on_the_same_data_is_refused(daemon: Daemon) -> None:
    """Two daemons would both believe that they alone hold the books."""
    other = daemon.folder / "other.toml"
    other.write_text(daemon.config.read_text().replace(f":{daemon.port}", f":{free_port()}"))
    done = Daemon(daemon.folder, daemon.place, 0, other).cli("serve", check=False)
    assert done.returncode == 78
    assert b"another kmsd serves" in done.stderr
    assert daemon.get("/readyz") == (200, WELL)


def test_start_and_stop_are_one_line_each(tmp_path: Path) -> None:
    """They name the version, the configuration, and what became of it."""
    with provisioned(tmp_path, workers=1) as daemon:
        daemon.start()
        daemon.stop()
        lines = [json.loads(line) for line in daemon.log().splitlines()]
    (ready,) = [line for line in lines if line["event"] == "ready"]
    assert ready["configuration"] == str(tmp_path / "kmsd.toml")
    assert ready["data_dir"] == str(daemon.data)
    assert (lines[-1]["event"], lines[-1]["version"], lines[-1]["status"]) == ("stopped", ready["version"], 0)


def test_a_wrong_pin_stops_the_start_and_is_offered_once(tmp_path: Path) -> None:
    """One clear line, exit status 77, and one attempt: a second could lock a real token."""
    with provisioned(tmp_path, workers=2) as daemon:
        (tmp_path / "pin").write_bytes(b"not-the-pin")
        daemon.start(ready=False)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 77
        daemon.process = None
        refusals = [line for line in daemon.log().splitlines() if "PIN" in line]
        assert len(refusals) == 1, daemon.log()
        assert "not-the-pin" not in daemon.log()


def test_a_refused_pin_is_offered_by_no_restart_and_no_command(tmp_path: Path) -> None:
    """Until it is replaced, or the operator says so: a token locks after a few attempts."""
    with provisioned(tmp_path, workers=2) as daemon:
        right = (tmp_path / "pin").read_bytes()
        (tmp_path / "pin").write_bytes(b"not-the-pin")
        for start in range(3):
            daemon.start(ready=False)
            assert daemon.process is not None
            assert daemon.process.wait(60) == 77
            daemon.process = None
            assert ("the token refused this PIN on" in daemon.log()) is (start > 0)
        for command in (("check",), ("jobs", "run", "rotation"), ("audit", "public-key")):
            told = daemon.cli(*command, check=False)
            assert told.returncode != 0
            assert b"the token refused this PIN on" in told.stdout + told.stderr
        assert b"offered once more" in daemon.cli("pin", "retry").stdout
        assert b"nothing to do" in daemon.cli("pin", "retry").stdout
        refused = daemon.cli("audit", "public-key", check=False)
        assert refused.returncode == 77
        assert b"it is not offered again" in refused.stderr
        assert b"refused this PIN on" not in refused.stderr
        (tmp_path / "pin").write_bytes(right)
        daemon.start()
        assert daemon.get("/readyz")[0] == 200
        assert not list(daemon.data.glob("*.refused-pin"))


# --- Who may not get in ------------------------------------------------------------------------------


def signed(daemon: Daemon, credentials: Credentials, body: bytes, target: str = "TrentService.ListKeys") -> AWSRequest:
    """A signed request, for a test to spoil."""
    request = AWSRequest(
        "POST",
        daemon.endpoint + "/",
        data=body,
        headers={
            "X-Amz-Target": target,
            "Content-Type": "application/x-amz-json-1.1",
            "Host": f"127.0.0.1:{daemon.port}",
        },
    )
    SigV4Auth(BotoCredentials(credentials.access_key_id, credentials.secret), "kms", "us-east-1").add_auth(request)
    return request


def send(
    daemon: Daemon, headers: dict[str, str], body: bytes, path: str = "/"
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON body, headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), dict(answer.getheaders())
    finally:
        connection.close()


def test_refusals_have_their_names_and_reach_no_operation(daemon: Daemon) -> None:
    """Wrong secret, changed body, unknown key, stale and early date, no signature, unknown operation."""
    good = signed(daemon, daemon.admin, b"{}")
    wrong_secret = signed(daemon, Credentials(daemon.admin.access_key_id, "x" * 40), b"{}")
    unknown = signed(daemon, Credentials("AKIAAAAAAAAAAAAAAAAA", daemon.admin.secret), b"{}")
    signing_clock.offset = timedelta(minutes=-16)
    stale = signed(daemon, daemon.admin, b"{}")
    signing_clock.offset = timedelta(minutes=16)
    early = signed(daemon, daemon.admin, b"{}")
    signing_clock.offset = timedelta(0)
    unknown_operation = signed(daemon, daemon.admin, b"{}", "TrentService.LaunchMissiles")
    target = {"X-Amz-Target": "TrentService.ListKeys"}
    cases = [
        (dict(good.headers), b"{}", 200, None),
        (dict(wrong_secret.headers), b"{}", 400, "InvalidSignatureException"),
        (dict(good.headers), b'{"Limit":1}', 400, "InvalidSignatureException"),
        ({**dict(good.headers), "X-Amz-Target": "TrentService.CreateKey"}, b"{}", 400, "InvalidSignatureException"),
        (dict(unknown.headers), b"{}", 400, "UnrecognizedClientException"),
        (dict(stale.headers), b"{}", 400, "InvalidSignatureException"),
        (dict(early.headers), b"{}", 400, "InvalidSignatureException"),
        (target, b"{}", 400, "MissingAuthenticationTokenException"),
        ({**target, "Authorization": "AWS4-HMAC-SHA256 nonsense"}, b"{}", 400, "IncompleteSignatureException"),
        (dict(unknown_operation.headers), b"{}", 400, "UnknownOperationException"),
    ]
    before = len([record for record in daemon.audit_records() if "errorCode" not in record])
    for headers, body, status, code in cases:
        found = send(daemon, headers, body)
        assert (found[0], found[1].get("__type")) == (status, code), found
        assert len(found[2]["x-amzn-RequestId"]) == 36
        assert found[2]["Content-Type"] == "application/x-amz-json-1.1"
    after = [record for record in daemon.audit_records() if "errorCode" not in record]
    assert len(after) == before + 1


def test_a_disabled_access_key_is_refused_at_once_by_all_workers(daemon: Daemon) -> None:
    """The command has returned: no worker accepts the key any more; enabled again, all do."""
    credentials = daemon.user(
        "shortlived",
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}]},
    )
    kms = daemon.client(credentials=credentials)
    kms.list_keys()
    daemon.cli("access-key", "disable", credentials.access_key_id)
    for _ in range(10):
        with pytest.raises(ClientError, match="UnrecognizedClientException"):
            daemon.client(credentials=credentials).list_keys()
    daemon.cli("access-key", "enable", credentials.access_key_id)
    for _ in range(10):
        daemon.client(credentials=credentials).list_keys()


def test_a_user_without_permission_is_denied(daemon: Daemon) -> None:
    """From the first day: no statement, no access; and the sentence is AWS's."""
    key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
    nobody = daemon.user("nobody")
    with pytest.raises(ClientError, match="AccessDeniedException") as denied:
        daemon.client(credentials=nobody).encrypt(KeyId=key_id, Plaintext=b"x")
    arn = f"arn:aws:kms:us-east-1:000000000000:key/{key_id}"
    assert denied.value.response["Error"]["Message"] == (
        f"User: {nobody.arn} is not authorized to perform: kms:Encrypt on resource: {arn} "
        "because no identity-based policy allows the kms:Encrypt action"
    )


def test_the_blob_opens_without_the_daemon(daemon: Daemon) -> None:
    """`kmsd open-blob` needs token, PIN and database only."""
    kms = daemon.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"in a disaster", EncryptionContext={"a": "b"})["CiphertextBlob"]
    done = daemon.cli("open-blob", "--context", "a=b", stdin=base64.b64encode(blob))
    assert done.stdout == b"in a disaster"
    assert daemon.cli("open-blob", stdin=base64.b64encode(blob), check=False).returncode == 65


def test_every_object_is_sensitive_and_never_extractable(daemon: Daemon) -> None:
    """As pkcs11-tool sees the token: no secret or private object that could be read or taken out."""
    daemon.client().create_key()
    place = daemon.place
    done = subprocess.run(
        [
            "pkcs11-tool",
            "--module",
            str(place.module),
            "--token-label",
            place.label,
            "--login",
            "--pin",
            place.pin.decode(),
            "-O",
        ],
        env={**os.environ, **place.environment},
        capture_output=True,
        check=True,
        timeout=60,
    )
    objects = done.stdout.decode().split("Secret Key Object")[1:] + done.stdout.decode().split("Private Key Object")[1:]
    assert len(objects) >= 3
    access = [text.split("Access:")[1].splitlines()[0] for text in objects]
    assert all("sensitive" in one for one in access)
    # A domain key is a copy of a session object that could be handed on. It cannot any more.
    assert len([one for one in access if "never extractable" not in one]) == len(listed(daemon))


def test_readiness_names_what_fails(tmp_path: Path) -> None:
    """/readyz turns red when the token's folder goes away, and green again when it is back."""
    with provisioned(tmp_path, workers=1) as daemon:
        daemon.start()
        assert daemon.get("/readyz") == (200, WELL)
        assert daemon.place.objects is not None
        away = daemon.place.objects.with_name("away")
        daemon.place.objects.rename(away)
        failed = {**WELL, "status": "failed", "token": "unavailable"}
        eventually(lambda: daemon.get("/readyz") == (503, failed), daemon)
        assert '"event": "not_ready"' in daemon.log()
        assert daemon.get("/healthz")[0] == 200
        away.rename(daemon.place.objects)
        daemon.wait_ready()


def test_deep_nesting_is_refused(daemon: Daemon) -> None:
    """A body of a hundred thousand brackets costs a refusal, not a worker."""
    body = b'{"Limit":1,"X":' + b"[" * 100_000 + b"}"
    status, answer, _ = send(daemon, dict(signed(daemon, daemon.admin, body).headers), body)
    assert (status, answer["__type"]) == (400, "SerializationException")
    assert len(daemon.workers()) == 2


def test_a_presigned_request(daemon: Daemon) -> None:
    """The query form of Signature Version 4: good until it expires, and for nothing else."""
    body = b""  # botocore signs presigned requests without a body
    headers = {"X-Amz-Target": "TrentService.ListKeys", "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest("POST", daemon.endpoint + "/", data=body, headers=headers)
    credentials = BotoCredentials(daemon.admin.access_key_id, daemon.admin.secret)
    SigV4QueryAuth(credentials, "kms", "us-east-1", expires=60).add_auth(request)
    path = request.url.removeprefix(daemon.endpoint)
    answer = send(daemon, headers, body, path)
    assert answer[0] == 200, answer
    other = {**headers, "X-Amz-Target": "TrentService.ListAliases"}
    assert send(daemon, other, body, path)[1]["__type"] == "InvalidSignatureException"
    assert send(daemon, headers, b'{"Limit":1}', path)[1]["__type"] == "InvalidSignatureException"
