"""`kmsd check`: what an operator should know stands in a line, and the exit status says how bad it is."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from kmsd.adapters.pkcs11.softhsm_token_copy import COPY
from kmsd.cli.commands.check_findings import FAIL, NOTE, OK, WARN, Finding, as_json, as_text, status_of
from kmsd.cli.commands.check_host import against_rtc
from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon, provisioned
from tests.support.softhsm_files import token_object

EVERYBODY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}'


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("checked"), workers=1) as daemon:
        daemon.start()
        yield daemon


def check(daemon: Daemon, *options: str) -> tuple[int, list[dict[str, str]]]:
    """Exit status and findings, but for what depends on the test's host."""
    done = daemon.cli("check", "--json", "--no-token", *options, check=False)
    shown: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == shown["exit"]
    findings = [one for one in shown["findings"] if one["topic"] not in {"clock", "entropy"}]
    return max((["ok", "note", "warn", "FAIL"].index(one["severity"]) - 1 for one in findings), default=0), findings


def bad(daemon: Daemon, *topics: str) -> list[str]:
    """The lines somebody should act upon, but for what depends on the test's host unless it is asked for."""
    shown = json.loads(daemon.cli("check", "--json", "--no-token", check=False).stdout)
    hosts = {"clock", "entropy"} - set(topics)
    found = [one for one in shown["findings"] if one["topic"] not in hosts]
    return [f"{one['severity']} {one['text']}" for one in found if one["severity"] in {"warn", "FAIL"}]


def test_exit_status_and_forms() -> None:
    """0, 1, 2 by the worst line; notes do not count."""
    findings: list[Finding] = []
    for severity, status, name in ((OK, 0, "OK"), (NOTE, 0, "OK"), (WARN, 1, "WARNING"), (FAIL, 2, "CRITICAL")):
        findings.append(Finding(severity, "topic", f"a {severity.value} line"))
        assert status_of(findings) == status
        lines = as_text(findings).splitlines()
        assert lines[-2] == f"{severity.value:5}a {severity.value} line"
        assert lines[-1].startswith(f"{name}: ")
        shown = json.loads(as_json(findings))
        assert (shown["status"], shown["exit"], len(shown["findings"])) == (name, status, len(findings))


def test_all_is_well(own: Daemon) -> None:
    """With the token: mechanisms, sessions, objects; without: no PIN is offered, even a wrong one does no harm."""
    printed = own.cli("check").stdout.decode()
    assert "ok   mechanism CKM_AES_GCM" in printed
    assert "ok   key spec ECC_NIST_P256: SIGN_VERIFY by ECDSA_SHA_256; KEY_AGREEMENT by ECDH\n" in printed
    assert "note key spec RSA_2048: " in printed
    assert "lacking RSAES_OAEP_SHA_256: CKM_RSA_PKCS_OAEP fails (C_DecryptInit: CKR_ARGUMENTS_BAD)\n" in printed
    assert "note key spec SM2 is lacking: CreateKey refuses it (PKCS#11 has no mechanism for SM2)\n" in printed
    assert "ok   token works" in printed
    assert "sessions are opened" in printed
    assert "ok   policies of 0 keys and 0 roles: nothing to object to" in printed
    assert bad(own) == []
    pin = own.folder / "pin"
    right = pin.read_bytes()
    pin.write_bytes(b"wrong-pin-1234")
    try:
        assert bad(own) == []
        done = own.cli("check", check=False)
        assert done.returncode == 2
        assert b"FAIL PinRefused" in done.stdout
    finally:
        pin.write_bytes(right)


@pytest.mark.parametrize(
    ("name", "mode", "says"),
    [
        ("kmsd.toml", 0o666, "can be written by others"),
        ("pin", 0o604, "is open to everybody (mode 0604)"),
        ("pin", 0o620, "can be written by its group"),
        ("pin", 0o640, "can be read by its group"),
        ("data", 0o701, "is open to everybody"),
        ("data/kmsd.sqlite", 0o604, "is open to everybody"),
        ("data/audit", 0o770, "can be written by its group"),
    ],
)
def test_modes(own: Daemon, name: str, mode: int, says: str) -> None:
    """Each by its path, its mode and who may do what."""
    path = own.folder / name
    before = path.stat().st_mode & 0o777
    path.chmod(mode)
    try:
        (line,) = bad(own)
        assert str(path) in line
        assert says in line
        assert line.startswith("warn" if mode == 0o640 else "FAIL")
    finally:
        path.chmod(before)
    assert bad(own) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_owners(own: Daemon) -> None:
    """Files of somebody else among the data, such as a command leaves that was run as root."""
    path = own.data / "left-by-root"
    path.touch(mode=0o600)
    os.chown(path, 12345, -1)
    (line,) = bad(own)
    assert line.startswith("FAIL not root's, as ")
    assert str(path) in line
    path.unlink()


def test_the_copy_of_softhsms_own_file(tmp_path: Path) -> None:
    """Missing, of another PIN, damaged with the file and without it: each in a line with the file's path."""
    with provisioned(tmp_path) as daemon:
        own = token_object(daemon.place)
        copy, whole = own.with_name(COPY), own.read_bytes()
        another = whole[:-1] + bytes([whole[-1] ^ 1])
        assert bad(daemon) == []
        for of_copy, of_own, says in (
            (None, whole, "warn {} has no copy"),
            (another, whole, "warn {} is not what its copy says"),
            (whole, b"", "warn {} is damaged: the next login restores it"),
            (b"", whole, "warn {} has no copy"),
            (b"", b"", "FAIL {} is damaged and has no copy"),
        ):
            copy.unlink(missing_ok=True) if of_copy is None else copy.write_bytes(of_copy)
            own.write_bytes(of_own)
            (line,) = bad(daemon)
            assert line.startswith(says.format(own))
        own.write_bytes(whole)
        daemon.cli("check")
        assert bad(daemon) == []


def test_policies(own: Daemon, tmp_path: Path) -> None:
    """Grants to everybody, principals that do not exist, policies that nobody can change: each once, by key."""
    kms = own.client()
    arn = f"arn:aws:iam::{ACCOUNT}"

    def key(statements: list[dict[str, object]]) -> str:
        written = json.dumps({"Version": "2012-10-17", "Statement": statements})
        made = kms.create_key(Policy=written, BypassPolicyLockoutSafetyCheck=True)
        return str(made["KeyMetadata"]["Arn"])

    allow = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    root = {**allow, "Principal": {"AWS": f"{arn}:root"}}
    own.user("ghost")
    ghost = {**allow, "Sid": "Ghost", "Action": "kms:Decrypt", "Principal": {"AWS": f"{arn}:user/ghost"}}
    locked = key([{**allow, "Action": "kms:Encrypt", "Principal": {"AWS": f"{arn}:root"}}])
    everybody = key([root, {**allow, "Sid": "All", "Action": "kms:Encrypt", "Principal": "*"}])
    haunted = key([root, ghost])
    granted = key([root])
    grant = kms.create_grant(KeyId=granted, GranteePrincipal=f"{arn}:user/ghost", Operations=["Decrypt"])["GrantId"]
    mine = {"StringEquals": {"kms:CallerAccount": ACCOUNT}}
    key([root, {**allow, "Principal": "*", "Condition": mine}])
    kms.close()
    ids = [line.split()[0] for line in own.cli("access-key", "list", "ghost").stdout.decode().splitlines()]
    for one in ids:
        own.cli("access-key", "delete", one)
    own.cli("user", "delete", "ghost")
    trust = tmp_path / "trust.json"
    trust.write_text(EVERYBODY.replace("kms:*", "sts:AssumeRole").replace(',"Resource":"*"', ""))
    own.cli("role", "create", "open", "--trust", str(trust))
    ghostly = f"statement Ghost names {arn}:user/ghost, who does not exist"
    assert sorted(bad(own)) == sorted(
        [
            f"warn {locked}: no existing principal can ever change its policy: it locks everybody out",
            f"warn {everybody}: statement All allows everybody kms:Encrypt",
            f"warn {haunted}: {ghostly}; it applies to any later principal of that name",
            f"warn {granted}: grant {grant} is for {arn}:user/ghost, who does not exist",
            f"warn {arn}:role/open: statement #0 allows everybody sts:AssumeRole",
        ]
    )
    assert check(own)[0] == 1


def test_policies_that_a_new_one_may_not_be(own: Daemon, tmp_path: Path) -> None:
    """A Deny that never applies, stored by an earlier release, is told of; the commands refuse it from now on."""
    kms = own.client()
    arn = kms.create_key()["KeyMetadata"]["Arn"]
    kms.close()
    own.user("guarded")
    vpc = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"aws:SourceVpc": "vpc-1"}}}
    key_policy = {"Statement": [{**vpc, "Principal": "*"}, {"Effect": "Deny", "Principal": "*", "Resource": "*"}]}
    database = sqlite3.connect(own.data / "kmsd.sqlite")
    database.execute("UPDATE key SET policy = ? WHERE arn = ?", (json.dumps(key_policy), arn))
    database.execute(
        "INSERT INTO user_policy SELECT account, name, 'guard', ? FROM user WHERE name = 'guarded'",
        (json.dumps({"Statement": vpc}),),
    )
    database.commit()
    database.close()
    found = "\n".join(bad(own))
    never = "a Deny must not depend on aws:SourceVpc, which is never provided here: there are no VPCs"
    assert f"warn {arn}: Syntax errors in policy. (Statement[0].Condition.StringEquals.aws:SourceVpc {never}" in found
    assert f"warn {arn}: Policy statement must contain actions. (Statement[1] without Action" in found
    assert "user/guarded: policy guard: Syntax errors in policy. (Statement[0].Condition" in found
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"Statement": vpc}))
    for command in (("user", "create", "x"), ("user", "put-policy", "guarded")):
        refused = own.cli(*command, "--policy", str(policy), check=False)
        assert refused.returncode != 0
        assert b"a Deny must not depend on aws:SourceVpc" in refused.stderr


@pytest.mark.parametrize("given", [["team"], ["=x"], ["aws:team=x"], ["Team=x", "team=y"], ["team=x", "team=y"]])
def test_tags_of_a_user_are_checked(own: Daemon, given: list[str]) -> None:
    """Names and values as AWS has them, and no two names that differ in case alone; nothing is made."""
    refused = own.cli("user", "create", "tagged", *(word for pair in given for word in ("--tag", pair)), check=False)
    assert refused.returncode != 0
    assert b"tag" in refused.stderr.lower()
    assert b"user/tagged" not in own.cli("user", "list").stdout


def test_tags_of_a_user_are_condition_values(own: Daemon, tmp_path: Path) -> None:
    """`kmsd user create --tag` gives aws:PrincipalTag its value."""
    policy = tmp_path / "policy.json"
    by_team = {"StringEquals": {"aws:PrincipalTag/team": "blue"}}
    statement = {"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*", "Condition": by_team}
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statement}))
    for name, value in (("blue", "blue"), ("red", "red")):
        own.cli("user", "create", name, "--policy", str(policy), "--tag", f"Team={value}")
    explained = own.cli("explain", "--principal", f"arn:aws:iam::{ACCOUNT}:user/blue", "--action", "kms:ListKeys")
    assert explained.stdout.startswith(b"ALLOWED")
    denied = own.cli(
        "explain", "--principal", f"arn:aws:iam::{ACCOUNT}:user/red", "--action", "kms:ListKeys", check=False
    )
    assert denied.stdout.startswith(b"DENIED")


def test_a_key_out_of_the_future(own: Daemon) -> None:
    """The clock was set back, and deletions wait for a time that was there already."""
    kms = own.client()
    made = kms.create_key()["KeyMetadata"]
    kms.close()
    writer = sqlite3.connect(own.data / "kmsd.sqlite", isolation_level=None)
    change = "UPDATE key SET created_at = ? WHERE key_id = ?"
    writer.execute(change, (int((time.time() + 7200) * 1e6), made["KeyId"]))
    assert f"FAIL {made['Arn']} was made in the future: the clock was set back" in bad(own, "clock")
    writer.execute(change, (int(time.time() * 1e6), made["KeyId"]))
    writer.close()


@pytest.mark.parametrize(
    ("difference", "severity"),
    [(0, OK), (59, OK), (-59, OK), (3600, NOTE), (-7205, NOTE), (20700, NOTE), (300, WARN), (-86400, WARN)],
)
def test_the_hardware_clock(tmp_path: Path, difference: int, severity: str) -> None:
    """A difference is a warning; a zone's is a note; none to compare with is a note."""
    rtc = tmp_path / "since_epoch"
    assert against_rtc(rtc, 0).severity is NOTE
    rtc.write_text("1700000000\n")
    assert against_rtc(rtc, 1700000000 + difference).severity == severity


# --- TLS --------------------------------------------------------------------------------------------


def certificate(
    folder: Path, name: str, days: int, *, issuer: tuple[Any, Any] | None = None, key: Any = None, names: bool = True
) -> tuple[Any, Any]:
    """A certificate and its key, both also as files."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days, hours=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("kms.example")]), critical=False)
    made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    path = folder / f"{name}.key"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
    return made, key


def test_certificates(own: Daemon, tmp_path: Path) -> None:
    """Expiry, key, names, chain: what a client would stumble over stands in a line before it does."""
    text = own.config.read_text()
    authority = certificate(tmp_path, "authority", 400)
    certificate(tmp_path, "good", 90, issuer=authority)
    certificate(tmp_path, "soon", 13, issuer=authority)
    certificate(tmp_path, "expired", -1, issuer=authority)
    certificate(tmp_path, "nameless", 90, issuer=authority, names=False)
    certificate(tmp_path, "short", 90, issuer=authority, key=rsa.generate_private_key(65537, 1024))  # noqa: S505 (to be found)
    certificate(tmp_path, "other", 90)
    chained = (tmp_path / "good.crt").read_bytes() + (tmp_path / "authority.crt").read_bytes()
    (tmp_path / "chained.crt").write_bytes(chained)
    (tmp_path / "chained.key").write_bytes((tmp_path / "good.key").read_bytes())
    (tmp_path / "broken.crt").write_bytes((tmp_path / "good.crt").read_bytes() + (tmp_path / "other.crt").read_bytes())
    (tmp_path / "broken.key").write_bytes((tmp_path / "good.key").read_bytes())
    (tmp_path / "mixed.crt").write_bytes((tmp_path / "good.crt").read_bytes())
    (tmp_path / "mixed.key").write_bytes((tmp_path / "other.key").read_bytes())
    for path in tmp_path.glob("*.key"):
        path.chmod(0o600)
    expected = {
        "good": [],
        "chained": [],
        "soon": ["warn", "in 13 days"],
        "expired": ["FAIL", "has expired on"],
        "nameless": ["warn", "no subject alternative names"],
        "short": ["FAIL", "1024 bits is too short"],
        "broken": ["FAIL", "CN=good was not issued by CN=other"],
        "mixed": ["FAIL", "mixed.crt with "],
    }
    try:
        for name, says in expected.items():
            lines = f'tls_certificate = "{tmp_path}/{name}.crt"\ntls_key = "{tmp_path}/{name}.key"\n[token]'
            own.config.write_text(text.replace("[token]", lines))
            found = [one for one in check(own)[1] if one["topic"] == "tls" and one["severity"] in {"warn", "FAIL"}]
            shown = [f"{one['severity']} {one['text']}" for one in found]
            if not says:
                assert shown == [], name
            else:
                assert any(all(part in line for part in says) for line in shown), (name, shown)
    finally:
        own.config.write_text(text)


def test_who_is_made_anew_is_told_what_was_left_to_the_name(tmp_path: Path) -> None:
    """Grants and key policies name an ARN: the one who makes its next bearer sees them, and only those."""
    with provisioned(tmp_path, workers=1) as daemon:
        alice = f"arn:aws:iam::{ACCOUNT}:user/alice"
        assert daemon.cli("user", "create", "alice").stderr == b""
        daemon.start()
        kms = daemon.client()
        own = json.loads(EVERYBODY)
        own["Statement"][0]["Principal"] = {"AWS": [alice, f"arn:aws:iam::{ACCOUNT}:root"]}
        named = kms.create_key(Policy=json.dumps(own))["KeyMetadata"]["Arn"]
        granted = kms.create_key()["KeyMetadata"]["Arn"]
        grant = kms.create_grant(KeyId=granted, GranteePrincipal=alice, Operations=["Decrypt"])["GrantId"]
        kms.close()
        daemon.cli("user", "delete", "alice")
        told = daemon.cli("user", "create", "alice").stderr.decode().splitlines()
        assert sorted(told) == sorted(
            [
                f"kmsd: note: grant {grant} on {granted} is for {alice} already",
                f"kmsd: note: the policy of {named} names {alice} already",
            ]
        )
        assert daemon.cli("user", "create", "ali").stderr == b""
