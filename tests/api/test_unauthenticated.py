"""What a request costs the token before it is authenticated: nothing."""

from __future__ import annotations

import asyncio
import base64
import secrets
import sqlite3
from dataclasses import replace
from datetime import timedelta

import pytest

from kmsd.app import arn_scope_of
from kmsd.custody import session_sealer, session_tokens
from kmsd.custody.credentials import CredentialStore as KnownCredentials
from kmsd.custody.credentials import Scope
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.custody.session_sealer import SessionSealer
from kmsd.wire.sigv4.claim import signing_key
from tests.support.clients import REGION, Credentials, code_of
from tests.support.harness import Harness


def calls(harness: Harness) -> int:
    """How many calls the token has got, but for the signatures of checkpoints, which go by time and lines."""
    counters = harness.components.token.counters
    return sum(call.calls for name, call in counters.calls.items() if name != "sign")


def made_up() -> list[str]:
    """Session tokens that nobody issued, each well formed: of both versions, and of none."""
    return [
        base64.b64encode(head + secrets.token_bytes(200)).decode()
        for head in (b"\x01\x01", b"\x01\x02", b"\x02", b"\x02\x01\x01", b"\x03", b"")
        for _ in range(20)
    ]


def temporary(harness: Harness) -> Credentials:
    """Temporary credentials of the administrator."""
    given = harness.client("sts").get_session_token()["Credentials"]
    return Credentials(given["AccessKeyId"], given["SecretAccessKey"], "", given["SessionToken"])


def _execute(harness: Harness, sql: str, *values: int) -> None:
    with sqlite3.connect(harness.config.database) as database:
        database.execute(sql, values)
    database.close()


def refused(harness: Harness, credentials: Credentials) -> bool:
    """Whether ListKeys with these credentials is refused for its session token."""
    return code_of(harness.client("kms", credentials).list_keys) == "UnrecognizedClientException"


def test_made_up_session_tokens_cost_the_token_nothing(harness: Harness) -> None:
    """Before the first session is issued, and after; a changed token of another's session costs nothing either."""
    someone = Credentials("ASIA" + "A" * 16, "secret")
    before = calls(harness)
    assert all(refused(harness, replace(someone, session_token=text)) for text in made_up())
    assert calls(harness) == before
    good = temporary(harness)
    harness.client("kms", good).list_keys()
    derived = harness.components.token.counters.derived_misses
    before = calls(harness)
    assert all(refused(harness, replace(someone, session_token=text)) for text in made_up())
    raw = bytearray(base64.b64decode(good.session_token or ""))
    for place in (0, 1, 40, len(raw) - 1):
        raw[place] ^= 1
        changed = base64.b64encode(raw).decode()
        raw[place] ^= 1
        assert refused(harness, replace(good, session_token=changed))
    assert refused(harness, replace(good, access_key_id=someone.access_key_id))
    assert calls(harness) == before
    assert harness.components.token.counters.derived_misses == derived
    harness.client("kms", good).list_keys()


def test_unknown_access_keys_and_wrong_signatures_cost_the_token_nothing(harness: Harness) -> None:
    """A known access key's secret is unsealed once a day; no wrong signature asks for it again."""
    harness.client().list_keys()
    before = calls(harness)
    for _ in range(20):
        unknown = Credentials("AKIA" + secrets.token_hex(8).upper(), "secret")
        assert code_of(harness.client("kms", unknown).list_keys) == "UnrecognizedClientException"
        wrong = replace(harness.admin, secret="wrong")
        assert code_of(harness.client("kms", wrong).list_keys) == "InvalidSignatureException"
    assert calls(harness) == before


def test_two_processes_make_one_key(harness: Harness) -> None:
    """Whoever comes second takes the key that is there."""
    _execute(harness, "UPDATE session_mac SET sealed = NULL")

    async def both() -> list[SessionSealer]:
        store, token = harness.components.store, harness.components.token
        return await asyncio.gather(SessionSealer.made(store, token), SessionSealer.made(store, token))

    one, other = harness.run(both())
    assert one.mac_key == other.mac_key


@pytest.mark.parametrize("service", ["kms", "sts"])
def test_sessions_outlive_a_restart(harness: Harness, service: str) -> None:
    """The key is read back from the store."""
    good = temporary(harness)
    harness.restart()
    client = harness.client(service, good)
    assert code_of(client.list_keys if service == "kms" else client.get_caller_identity) == ""


@pytest.mark.parametrize("service", ["kms", "logs"])
def test_requests_of_other_days_evict_no_signing_key(harness: Harness, service: str) -> None:
    """Each access key costs the token one call for each day of the last eight, whoever sends how many requests."""
    harness.client().list_keys()
    credentials = KnownCredentials(harness.components.token, arn_scope_of(harness.config), signing_key)
    today = harness.clock.now()
    days = [(today - timedelta(days=number)).strftime("%Y%m%d") for number in range(9)]

    async def ask(date: str) -> None:
        scope = Scope(harness.admin.access_key_id, date, REGION, service)
        await credentials.identify(await harness.components.store.read(), scope, None, today)

    for date in (*days, *reversed(days)):
        harness.run(ask(date))
    before = calls(harness)
    for date in (*days, *reversed(days)):
        harness.run(ask(date))
    assert calls(harness) == before
    harness.run(ask((today + timedelta(days=9)).strftime("%Y%m%d")))
    harness.run(ask(days[-1]))
    assert calls(harness) == before + 2


def _as_before(harness: Harness) -> Credentials:
    """Temporary credentials as releases made them that knew no MAC."""

    class OlderBox(SessionSealer):
        async def seal(self, access_key_id: str, content: bytes) -> str:
            return base64.b64encode(await self.sealer.encrypt(session_sealer.PURPOSE, access_key_id, content)).decode()

    async def issue() -> Credentials:
        reader = await harness.components.store.read()
        box = OlderBox(await ServiceSealer.of(reader, harness.components.token), b"")
        access_key = await reader.access_key(harness.admin.access_key_id)
        assert access_key is not None
        now = harness.clock.now()
        made = await session_tokens.for_user(box, access_key.user, access_key.access_key_id, now, 129600)
        return Credentials(made.access_key_id, made.secret, "", made.session_token)

    return harness.run(issue())


def test_sessions_of_the_release_before_go_on(harness: Harness) -> None:
    """For 36 hours after the upgrade, which is as long as they last; from a new database none can be."""
    older = _as_before(harness)
    assert refused(harness, older)
    until = harness.clock.now() + timedelta(hours=36)
    _execute(harness, "UPDATE session_mac SET older_until = ?", int(until.timestamp() * 1e6))
    harness.client("kms", older).list_keys()
    harness.clock.advance(hours=36, seconds=1)
    assert code_of(harness.client("kms", older).list_keys) == "ExpiredTokenException"
    assert refused(harness, _as_before(harness))
