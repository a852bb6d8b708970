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
from tests.support.harness import House


def calls(house: House) -> int:
    """How many calls the token has got, but for the signatures of checkpoints, which go by time and lines."""
    counters = house.components.token.counters
    return sum(call.calls for name, call in counters.calls.items() if name != "sign")


def made_up() -> list[str]:
    """Session tokens that nobody issued, each well formed: of both versions, and of none."""
    return [
        base64.b64encode(head + secrets.token_bytes(200)).decode()
        for head in (b"\x01\x01", b"\x01\x02", b"\x02", b"\x02\x01\x01", b"\x03", b"")
        for _ in range(20)
    ]


def temporary(house: House) -> Credentials:
    """Temporary credentials of the administrator."""
    given = house.client("sts").get_session_token()["Credentials"]
    return Credentials(given["AccessKeyId"], given["SecretAccessKey"], "", given["SessionToken"])


def _execute(house: House, sql: str, *values: int) -> None:
    with sqlite3.connect(house.config.database) as database:
        database.execute(sql, values)
    database.close()


def refused(house: House, credentials: Credentials) -> bool:
    """Whether ListKeys with these credentials is refused for its session token."""
    return code_of(house.client("kms", credentials).list_keys) == "UnrecognizedClientException"


def test_made_up_session_tokens_cost_the_token_nothing(house: House) -> None:
    """Before the first session is issued, and after; a changed token of another's session costs nothing either."""
    someone = Credentials("ASIA" + "A" * 16, "secret")
    before = calls(house)
    assert all(refused(house, replace(someone, session_token=text)) for text in made_up())
    assert calls(house) == before
    good = temporary(house)
    house.client("kms", good).list_keys()
    derived = house.components.token.counters.derived_misses
    before = calls(house)
    assert all(refused(house, replace(someone, session_token=text)) for text in made_up())
    raw = bytearray(base64.b64decode(good.session_token or ""))
    for place in (0, 1, 40, len(raw) - 1):
        raw[place] ^= 1
        changed = base64.b64encode(raw).decode()
        raw[place] ^= 1
        assert refused(house, replace(good, session_token=changed))
    assert refused(house, replace(good, access_key_id=someone.access_key_id))
    assert calls(house) == before
    assert house.components.token.counters.derived_misses == derived
    house.client("kms", good).list_keys()


def test_unknown_access_keys_and_wrong_signatures_cost_the_token_nothing(house: House) -> None:
    """A known access key's secret is unsealed once a day; no wrong signature asks for it again."""
    house.client().list_keys()
    before = calls(house)
    for _ in range(20):
        unknown = Credentials("AKIA" + secrets.token_hex(8).upper(), "secret")
        assert code_of(house.client("kms", unknown).list_keys) == "UnrecognizedClientException"
        wrong = replace(house.admin, secret="wrong")
        assert code_of(house.client("kms", wrong).list_keys) == "InvalidSignatureException"
    assert calls(house) == before


def test_two_processes_make_one_key(house: House) -> None:
    """Whoever comes second takes the key that is there."""
    _execute(house, "UPDATE session_mac SET sealed = NULL")

    async def both() -> list[SessionSealer]:
        store, token = house.components.store, house.components.token
        return await asyncio.gather(SessionSealer.made(store, token), SessionSealer.made(store, token))

    one, other = house.run(both())
    assert one.mac_key == other.mac_key


@pytest.mark.parametrize("service", ["kms", "sts"])
def test_sessions_outlive_a_restart(house: House, service: str) -> None:
    """The key is read back from the store."""
    good = temporary(house)
    house.restart()
    client = house.client(service, good)
    assert code_of(client.list_keys if service == "kms" else client.get_caller_identity) == ""


@pytest.mark.parametrize("service", ["kms", "logs"])
def test_requests_of_other_days_evict_no_signing_key(house: House, service: str) -> None:
    """Each access key costs the token one call for each day of the last eight, whoever sends how many requests."""
    house.client().list_keys()
    credentials = KnownCredentials(house.components.token, arn_scope_of(house.config), signing_key)
    today = house.clock.now()
    days = [(today - timedelta(days=number)).strftime("%Y%m%d") for number in range(9)]

    async def ask(date: str) -> None:
        scope = Scope(house.admin.access_key_id, date, REGION, service)
        await credentials.identify(await house.components.store.read(), scope, None, today)

    for date in (*days, *reversed(days)):
        house.run(ask(date))
    before = calls(house)
    for date in (*days, *reversed(days)):
        house.run(ask(date))
    assert calls(house) == before
    house.run(ask((today + timedelta(days=9)).strftime("%Y%m%d")))
    house.run(ask(days[-1]))
    assert calls(house) == before + 2


def _as_before(house: House) -> Credentials:
    """Temporary credentials as releases made them that knew no MAC."""

    class OlderBox(SessionSealer):
        async def seal(self, access_key_id: str, content: bytes) -> str:
            return base64.b64encode(await self.sealer.encrypt(session_sealer.PURPOSE, access_key_id, content)).decode()

    async def issue() -> Credentials:
        reader = await house.components.store.read()
        box = OlderBox(await ServiceSealer.of(reader, house.components.token), b"")
        access_key = await reader.access_key(house.admin.access_key_id)
        assert access_key is not None
        now = house.clock.now()
        made = await session_tokens.for_user(box, access_key.user, access_key.access_key_id, now, 129600)
        return Credentials(made.access_key_id, made.secret, "", made.session_token)

    return house.run(issue())


def test_sessions_of_the_release_before_go_on(house: House) -> None:
    """For 36 hours after the upgrade, which is as long as they last; from a new database none can be."""
    older = _as_before(house)
    assert refused(house, older)
    until = house.clock.now() + timedelta(hours=36)
    _execute(house, "UPDATE session_mac SET older_until = ?", int(until.timestamp() * 1e6))
    house.client("kms", older).list_keys()
    house.clock.advance(hours=36, seconds=1)
    assert code_of(house.client("kms", older).list_keys) == "ExpiredTokenException"
    assert refused(house, _as_before(house))
