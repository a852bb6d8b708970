"""Two hosts, each with an HSM of its own, and the same domain keys: either dies, and the other serves everything."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.audit_trail.checkpoint_evidence import of_other_nodes
from kmsd.adapters.audit_trail.format import files_of
from tests.support.clients import Credentials, code_of
from tests.support.daemon import Daemon, eventually, free_port, write_config
from tests.support.key_ceremonies import act, listed
from tests.support.key_import import FOREVER, wrap
from tests.support.page_commands import commands
from tests.support.two_hsms import HSM, TwoHsms, hand_on, two_hsms

SECRET = b"a secret"


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHsms]:
    """Both serve, and each has made keys."""
    with two_hsms(tmp_path_factory.mktemp("site")) as found:
        typed(found.north, "service keys")
        assert "this host is the node south-1" in typed(found.south, "join with an HSM")
        hand_on(found.north, found.south)
        assert "is current" in typed(found.north, "rotate for both")
        found.north.start()
        found.south.start()
        yield found


@contextmanager
def without(node: Daemon) -> Iterator[None]:
    """The node is killed, and its HSM is gone."""
    assert node.place.objects is not None
    aside = node.place.objects.with_suffix(".gone")
    node.kill()
    node.place.objects.rename(aside)
    try:
        yield
    finally:
        aside.rename(node.place.objects)
        node.start()


def typed(node: Daemon, block: str) -> str:
    """What the commands of a block of docs/postgresql.md print."""
    kmsd = f'kmsd() {{ {sys.executable} -m kmsd --config {node.config} "$@"; }}\n'
    script = kmsd + commands("docs/postgresql.md", block)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(node: Daemon, *arguments: str) -> str:
    """What a command says that changes nothing."""
    done = node.cli(*arguments, check=False)
    assert done.returncode in {65, 78}, done
    return done.stderr.decode()


def uses(kms: Any) -> dict[str, dict[str, Any]]:
    """A key of each kind, made now, and what is needed to use it elsewhere."""
    symmetric = kms.create_key()["KeyMetadata"]["KeyId"]
    mac = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
    pair = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    rsa = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"]
    made = {"KeyId": mac, "MacAlgorithm": "HMAC_SHA_256"}
    signed = {"KeyId": pair, "Message": SECRET, "SigningAlgorithm": "ECDSA_SHA_256"}
    sealed = {"KeyId": rsa, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}
    return {
        "decrypt": {"CiphertextBlob": kms.encrypt(KeyId=symmetric, Plaintext=SECRET)["CiphertextBlob"]},
        "verify_mac": {**made, "Message": SECRET, "Mac": kms.generate_mac(**made, Message=SECRET)["Mac"]},
        "verify": {**signed, "Signature": kms.sign(**signed)["Signature"]},
        "decrypt_rsa": {**sealed, "CiphertextBlob": kms.encrypt(**sealed, Plaintext=SECRET)["CiphertextBlob"]},
    }


def imported(parameters_from: Daemon, into: Daemon) -> None:
    """Key material of a client, wrapped for one node, and sent to the other one."""
    kms = parameters_from.client()
    key_id = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    way = {"KeyId": key_id, "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    given = kms.get_parameters_for_import(**way)
    wrapped = wrap(secrets.token_bytes(32), way["WrappingAlgorithm"], given["PublicKey"])
    into.client().import_key_material(
        KeyId=key_id, ImportToken=given["ImportToken"], EncryptedKeyMaterial=wrapped, **FOREVER
    )
    blob = into.client().encrypt(KeyId=key_id, Plaintext=SECRET)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == SECRET
    into.client().delete_imported_key_material(KeyId=key_id)
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=SECRET) == "KMSInvalidStateException"


def serves(node: Daemon, made: dict[str, dict[str, Any]]) -> None:
    """A node uses keys that the other one has made, and everything else goes on, too."""
    kms = node.client()
    assert kms.decrypt(**made["decrypt"])["Plaintext"] == SECRET
    assert kms.decrypt(**made["decrypt_rsa"])["Plaintext"] == SECRET
    assert kms.verify_mac(**made["verify_mac"])["MacValid"]
    assert kms.verify(**made["verify"])["SignatureValid"]
    kms.generate_mac(KeyId=made["verify_mac"]["KeyId"], Message=SECRET, MacAlgorithm="HMAC_SHA_256")
    kms.sign(KeyId=made["verify"]["KeyId"], Message=SECRET, SigningAlgorithm="ECDSA_SHA_256")
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.rotate_key_on_demand(KeyId=key_id)
    blob = kms.encrypt(KeyId=key_id, Plaintext=SECRET)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == SECRET
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    name = f"group-{time.time_ns()}"
    logged(node, name)
    assert [one["message"] for one in node.client("logs").filter_log_events(logGroupName=name)["events"]] == ["event"]
    session = temporary(node)
    assert node.client("kms", session).decrypt(**made["decrypt"])["Plaintext"] == SECRET


def logged(node: Daemon, group: str = "early") -> str:
    """A log event, and a query, whose text it is."""
    logs, now = node.client("logs"), int(time.time() * 1000)
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="s")
    event = {"timestamp": now, "message": "event"}
    logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=[event])
    query = f"fields @message | filter @message like '{group}'"
    logs.start_query(logGroupName=group, queryString=query, startTime=now // 1000 - 60, endTime=now // 1000 + 60)
    return query


def temporary(node: Daemon) -> Credentials:
    """Temporary credentials of the administrator."""
    found = node.client("sts").get_session_token()["Credentials"]
    return Credentials(found["AccessKeyId"], found["SecretAccessKey"], node.admin.arn, found["SessionToken"])


def test_either_dies(site: TwoHsms) -> None:
    """Its host is killed and its HSM is gone; the other serves what both have made, and what is new."""
    for node in (site.north, site.south):
        other = site.other(node)
        made = uses(node.client())
        serves(other, made)
        session = temporary(node)
        with without(node):
            assert other.get("/readyz")[0] == 200
            serves(other, made)
            assert other.client("kms", session).decrypt(**made["decrypt"])["Plaintext"] == SECRET
            assert other.cli("check").returncode in {0, 1}


def test_material_from_outside(site: TwoHsms) -> None:
    """It may arrive at another node than the one that gave the wrapping key; later ones come from the stock."""
    for _ in range(2):
        imported(site.north, site.south)
        imported(site.south, site.north)
        for node in (site.north, site.south):
            node.cli("jobs", "run", "reconcile")


def test_reconcile_leaves_the_other_hsm_alone(site: TwoHsms) -> None:
    """Each node looks after its own HSM: no object of the other one counts as missing, and none is destroyed."""
    for _ in range(2):
        for node in (site.north, site.south):
            assert "missing" not in node.cli("jobs", "run", "reconcile").stdout.decode()
    assert site.north.client().list_keys()["Keys"]
    for node in (site.north, site.south):
        assert "key_material_missing" not in node.log()
        assert "domain_key_missing" not in node.log()
        node.cli("audit", "verify")


def test_trails_are_signed_by_each_hsm(site: TwoHsms) -> None:
    """One command verifies both trails; each has its own audit key."""
    site.north.cli("audit", "verify", str(site.north.data / "audit"), str(site.south.data / "audit"))
    keys = [node.cli("audit", "public-key").stdout for node in (site.north, site.south)]
    assert keys[0] != keys[1]


def test_each_records_the_checkpoints_of_the_other(site: TwoHsms) -> None:
    """Although another audit key has signed them."""
    for node in (site.north, site.south):
        eventually(lambda node=node: bool(other_nodes_in(node)), node)
        assert "audit_anchor_refused" not in node.log()


def other_nodes_in(node: Daemon) -> list[object]:
    """Checkpoints of other nodes that a trail records."""
    files = [path for found in files_of(node.data / "audit").values() for _, path in found]
    return [claim for path in files for claim in of_other_nodes(path)]


def test_the_next_rotation(site: TwoHsms) -> None:
    """It waits until both HSMs hold the next domain key; keys are used on both meanwhile and afterwards."""
    made = uses(site.north.client())
    act(site.north, "create")
    assert "is not in the HSM south" in refused(site.south, "domain-key", "rotate")
    site.share_domain_keys()
    (current,) = [one for one, (state, _, _) in listed(site.south).items() if state == "current"]
    assert listed(site.north)[current][2] == "present"
    for node in (site.north, site.south):
        serves(node, made)


def test_a_backup_of_the_second_hsm(site: TwoHsms, tmp_path: Path) -> None:
    """It is restored to a host with that HSM alone, which becomes the first; the other HSM's token refuses it."""
    made = uses(site.north.client())
    file = tmp_path / "kmsd.backup"
    site.south.cli("backup", str(file), "--without-token")
    accepted = ("--accept-revived", "--accept-rollback")
    for number, node in enumerate((site.north, site.south)):
        folder = tmp_path / str(number)
        folder.mkdir()
        port = free_port()
        host = Daemon(folder, node.place, port, write_config(folder, node.place, port, custody="wrapped"))
        host.admin = node.admin
        if node is site.north:
            assert "lacks the daemon's own objects" in refused(host, "restore", str(file), *accepted)
            continue
        host.cli("restore", str(file), *accepted)
        host.start()
        serves(host, made)
        assert "missing" not in host.cli("jobs", "run", "reconcile").stdout.decode()
        host.client().create_key(KeySpec="ECC_NIST_EDWARDS25519", KeyUsage="SIGN_VERIFY")
        host.stop()
    for node in (site.north, site.south):
        serves(node, made)


def test_before_it_can_serve(tmp_path: Path) -> None:
    """What a second HSM needs is asked for by name; until it holds the domain keys its node is not ready."""
    with two_hsms(tmp_path) as site:
        north, south = site.north, site.south
        north.start()
        key_id = north.client().create_key()["KeyMetadata"]["KeyId"]
        blob = north.client().encrypt(KeyId=key_id, Plaintext=SECRET)["CiphertextBlob"]
        query = logged(north)
        assert "another token. A node with an HSM of its own: --hsm NAME" in refused(south, "join", "--name", "south")
        assert "kmsd custody move --service-keys" in refused(south, "join", "--name", "south", "--hsm", HSM)
        assert "cannot be an HSM's name" in refused(south, "join", "--name", "south", "--hsm", "No name")
        assert b"were sealed again" in north.cli("custody", "move", "--service-keys").stdout
        assert b"; 0 stored secrets were sealed again" in north.cli("custody", "move", "--service-keys").stdout
        assert b"has none of the domain keys yet" in south.cli("join", "--name", "south", "--hsm", HSM).stdout
        assert b"HSM south" in north.cli("node", "list").stdout
        south.start(ready=False)
        eventually(lambda: south.get("/readyz")[0] == 503, south)
        assert south.get("/readyz")[1]["token"] == "unavailable"
        assert "the HSM south lacks the domain key" in south.cli("check", check=False).stdout.decode()
        assert code_of(south.client().decrypt, CiphertextBlob=blob) == "KeyUnavailableException"
        assert north.client().decrypt(CiphertextBlob=blob)["Plaintext"] == SECRET
        site.share_domain_keys()
        south.wait_ready()
        assert south.client().decrypt(CiphertextBlob=blob)["Plaintext"] == SECRET
        north.stop()
        assert south.client().decrypt(CiphertextBlob=blob)["Plaintext"] == SECRET
        logs = south.client("logs")
        assert [one["message"] for one in logs.filter_log_events(logGroupName="early")["events"]] == ["event"]
        assert query in {one["queryString"] for one in logs.describe_queries(logGroupName="early")["queries"]}
