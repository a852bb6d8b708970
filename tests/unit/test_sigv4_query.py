"""The query form of signatures, and whatever else somebody may send."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    ServiceError,
)
from kmsd.wire.sigv4.claim import RawRequest
from tests.support.sigv4 import BODY, CREDENTIAL, HEADERS, NOW, QUERY, STAMP, ask, presign, replaced, sign


def test_query_form() -> None:
    """A presigned request is accepted from its date until it expires, and not for a second longer."""
    request = presign({**QUERY, "X-Amz-Security-Token": "t/t=="})
    claim = ask(request)
    assert claim.query_form
    assert claim.session_token == "t/t=="
    ask(request, NOW + timedelta(seconds=59))
    ask(request, NOW - timedelta(minutes=15))
    with pytest.raises(InvalidSignatureException, match="Signature expired: 20261122T120100Z is now earlier than"):
        ask(request, NOW + timedelta(seconds=60))
    with pytest.raises(InvalidSignatureException, match="Signature not yet current"):
        ask(request, NOW - timedelta(minutes=15, seconds=1))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *[(name, None, IncompleteSignatureException) for name in QUERY],
        ("X-Amz-Expires", "604801", IncompleteSignatureException),
        ("X-Amz-Expires", "0", IncompleteSignatureException),
        ("X-Amz-Expires", "-1", IncompleteSignatureException),
        ("X-Amz-Expires", "\u0661", IncompleteSignatureException),
        ("X-Amz-Expires", "9" * 5000, IncompleteSignatureException),
        ("X-Amz-Date", "Sun, 22 Nov 2026 12:00:00 GMT", IncompleteSignatureException),
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA1", IncompleteSignatureException),
        ("X-Amz-Credential", "a/b/c/d", IncompleteSignatureException),
        ("X-Amz-SignedHeaders", "x", InvalidSignatureException),
        ("X-Amz-Security-Token", "", IncompleteSignatureException),
    ],
)
def test_query_form_refusals(name: str, value: str | None, error: type[ServiceError]) -> None:
    """Each parameter is demanded and checked."""
    query = {key: text for key, text in {**QUERY, name: value}.items() if text is not None}
    with pytest.raises(error):
        presign(query)


def test_query_form_tampering() -> None:
    """Any change of the query, its order apart, is refused."""
    request = presign({"a": "1", **QUERY})
    pairs = request.target[2:].split("&")
    assert ask(RawRequest("GET", "/?" + "&".join(reversed(pairs)), request.headers, b"")).query_form
    for pair in pairs:
        for changed in (pair + "0", f"{pair}&{pair}", "", f"z{pair}"):
            target = "/?" + "&".join(changed if part == pair else part for part in pairs)
            with pytest.raises((InvalidSignatureException, IncompleteSignatureException)):
                ask(RawRequest("GET", target, request.headers, b""))


def test_both_forms_at_once() -> None:
    """A request says once who signs it, when, and with which token."""
    presigned = presign()
    for headers in (sign().headers, replaced(sign(), "X-Amz-Content-Sha256", None).headers):
        with pytest.raises(InvalidSignatureException, match="not by both"):
            ask(RawRequest("POST", presigned.target, headers, BODY))
    for name in ("X-Amz-Date", "X-Amz-Security-Token"):
        with pytest.raises(InvalidSignatureException, match="is given as a header of a request that its query signs"):
            ask(RawRequest("GET", presigned.target, (*presigned.headers, (name, STAMP)), b""))


# --- Fuzz -------------------------------------------------------------------------------------------

anything = st.text(max_size=60) | st.text(alphabet="AWS4-HMAC=, ;/%&?\x00\udcff0az", max_size=60)
values = st.one_of(
    anything,
    st.sampled_from([STAMP, CREDENTIAL, "host", "host;x-amz-date", "0" * 64, *HEADERS.values()]),
    st.builds(
        lambda a, c, h, s: f"AWS4-{a} Credential={c}, SignedHeaders={h}, Signature={s}",
        st.just("HMAC-SHA256") | anything,
        st.just(CREDENTIAL) | anything,
        st.just("host;x-amz-date") | anything,
        st.just("0" * 64) | anything,
    ),
)
names = st.sampled_from([*HEADERS, "Date", "Authorization", "authorization", "My-Header"]) | anything
targets = st.one_of(
    anything,
    st.lists(st.tuples(st.sampled_from([*QUERY, "X-Amz-Signature", "X-Amz-Security-Token"]), values), max_size=8).map(
        lambda pairs: "/?" + "&".join(f"{n}={v}" for n, v in pairs)
    ),
)


@settings(max_examples=1000)
@given(
    st.builds(
        RawRequest,
        st.sampled_from(["POST", "GET", ""]),
        targets,
        st.lists(st.tuples(names, values), max_size=8).map(tuple),
        st.binary(max_size=10),
    )
)
def test_nothing_but_service_errors(request: RawRequest) -> None:
    """Whatever is sent, the answer is a claim that does not verify, or an error whose text can be sent."""
    try:
        ask(request)
    except ServiceError as refusal:
        assert refusal.message.encode()  # noqa: PT017
    else:
        pytest.fail("a forged request was accepted")
