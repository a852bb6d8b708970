"""What a single event or query may do to others: nothing. Numbers, memory, errors that nobody foresaw."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import pytest

from kmsd.cloudwatch_logs.filter_pattern import selectors
from kmsd.cloudwatch_logs.insights import results
from kmsd.cloudwatch_logs.insights.rows import Record
from tests.support.harness import Harness
from tests.support.log_service import filtered, millis, put, query, refusal, rows, stream_for, wait_for

POISON = '{"n":1' + "0" * 400 + "}"


@pytest.fixture(name="logs")
def _logs(harness: Harness) -> Any:
    return harness.client("logs")


def test_a_number_that_no_float_has_blinds_nobody(logs: Any) -> None:
    """Filters and queries over the time of such an event find the others."""
    stream_for(logs, "/poison")
    put(logs, "/poison", '{"level":"ERROR","n":503}', POISON, '{"n":504}')
    assert filtered(logs, "/poison", "{ $.n > 500 }") == ['{"level":"ERROR","n":503}', '{"n":504}']
    assert [row["n"] for row in rows(query(logs, "fields n | filter n > 500 | sort n", "/poison"))] == ["503", "504"]
    assert rows(query(logs, "stats sum(n) as s, count(n) as c", "/poison")) == [{"s": "1007", "c": "3"}]


@pytest.mark.parametrize(
    "text",
    [
        "fields 1e308 * 10 as x",
        "fields fromMillis(1e300) as x",
        "fields datefloor(1e300, 1h) as x",
        "sort n | fields n",
    ],
)
def test_a_value_that_cannot_be_is_missing(logs: Any, text: str) -> None:
    """The query completes, with the row."""
    group = f"/missing/{abs(hash(text))}"
    stream_for(logs, group)
    put(logs, group, POISON)
    found = query(logs, text, group)
    assert (found["status"], len(found["results"])) == ("Complete", 1)


def test_a_query_ends_whatever_is_raised(
    logs: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Failed; what was raised is in the log, once; the next query is carried out."""
    stream_for(logs, "/raised")
    put(logs, "/raised", "a")

    def fails(row: Record, name: str) -> None:
        raise ZeroDivisionError("unforeseen")

    with monkeypatch.context() as patched:
        patched.setattr(Record, "get", fails)
        found = query(logs, "fields a", "/raised")
    assert (found["status"], found["results"]) == ("Failed", [])
    assert [record.message for record in caplog.records].count("a query failed unexpectedly") == 1
    assert query(logs, "fields @message", "/raised")["status"] == "Complete"


def test_an_event_that_a_pattern_fails_on_hides_no_other(
    logs: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is raised: the others are found, and it is in the log."""
    stream_for(logs, "/fails")
    put(logs, "/fails", '{"a":1}', '{"a":1,"odd":2}', '{"a":1}')
    decode = selectors._decode

    def fails(message: str) -> object:
        if "odd" in message:
            raise ZeroDivisionError("unforeseen")
        return decode(message)

    monkeypatch.setattr(selectors, "_decode", fails)
    assert filtered(logs, "/fails", "{ $.a = 1 }") == ['{"a":1}'] * 2
    assert [record.message for record in caplog.records].count("a filter pattern failed unexpectedly") == 1


def test_results_that_cannot_be_sealed_are_none(logs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query has failed then, whatever the reason."""
    stream_for(logs, "/unsealed")
    put(logs, "/unsealed", "a")
    monkeypatch.setattr(results.zlib, "compress", lambda *_: 1 / 0)
    assert query(logs, "fields @message", "/unsealed")["status"] == "Failed"


def test_memory_is_bounded_for_a_query_and_for_all(logs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that needs more has failed; what it held is free again; a search is refused by a documented error."""
    stream_for(logs, "/memory")
    for number in range(20):
        put(logs, "/memory", f"{number:04d}" + "x" * 100_000)
    monkeypatch.setattr("kmsd.cloudwatch_logs.insights.runner.MAX_QUERY_BYTES", 1_500_000)
    for text in ("sort @message", "fields @message", "stats count(*) by @message", "dedup @message"):
        assert query(logs, text, "/memory")["status"] == "Failed"
    for _ in range(3):
        assert query(logs, "stats count(*) as n", "/memory")["status"] == "Complete"
    monkeypatch.setattr("kmsd.cloudwatch_logs.operations.filter_log_events.MAX_REQUEST_BYTES", 100_000)
    assert refusal(logs.filter_log_events, logGroupName="/memory")[0] == "ServiceUnavailableException"
    monkeypatch.undo()
    assert len(filtered(logs, "/memory", "0019")) == 1


def test_values_that_grow_take_no_memory(logs: Any) -> None:
    """Functions over functions of an event: what would be longer than an event has no value."""
    stream_for(logs, "/growing")
    put(logs, "/growing", *[f"{number:04d}" + "x" * 996 for number in range(20)])
    ninety_nine = ",".join(["@message"] * 99)
    text = f"fields concat({ninety_nine}) as a | fields concat({','.join(['a'] * 99)}) as b | display strlen(a) as n, b"
    found = query(logs, text, "/growing")
    assert found["status"] == "Complete"
    assert rows(found) == [{"n": "99000"}] * 20


def test_large_results_come_in_pages(logs: Any) -> None:
    """Rows are stored in chunks; pages cut them anywhere."""
    stream_for(logs, "/pages")
    for begin in range(0, 1_600, 400):
        put(logs, "/pages", *[f"{number}" for number in range(begin, begin + 400)], at=millis() - 10_000 + begin)
    started = logs.start_query(
        logGroupName="/pages", startTime=0, endTime=millis(), queryString="fields @message as m | limit 1600"
    )["queryId"]
    assert wait_for(logs, started)["status"] == "Complete"
    found, token = [], {}
    while True:
        page = logs.get_query_results(queryId=started, maxItems=370, **token)
        found += [int(row["m"]) for row in rows(page)]
        if "nextToken" not in page:
            break
        token = {"nextToken": page["nextToken"]}
    assert found == list(range(1_600))[::-1]


def test_results_of_an_earlier_version_are_read() -> None:
    """One array of rows is one chunk."""
    old = [[("a", "1")], [("a", "2"), ("b", "é")]]
    content = zlib.compress(msgspec.msgpack.encode(old), 1)
    [chunk] = results.chunks_of(zlib.decompress(content), 1)
    assert (chunk.number, chunk.decoded()) == (2, old)
    new = [results.packed(old[:1]), results.packed(old[1:])]
    assert [json.dumps(one.decoded()) for one in results.chunks_of(msgspec.msgpack.encode(new), 2)] == [
        json.dumps([row]) for row in old
    ]


def test_expressions_that_explode_are_refused_or_quick(logs: Any) -> None:
    """Bounded repetitions within and beside each other, against text that makes each try fail at its end."""
    stream_for(logs, "/explode")
    put(logs, "/explode", "a" * 700)
    for pattern in ("%a{0,1000}a{0,1000}a{0,1000}b%", "%a{0,1000}a{0,1000}b%"):
        assert refusal(logs.filter_log_events, logGroupName="/explode", filterPattern=pattern) == (
            "InvalidParameterException",
            "Invalid filter pattern: the expression is too large.",
        )
    assert filtered(logs, "/explode", "%a{0,200}a{0,200}b%") == []
    assert filtered(logs, "/explode", "%a{0,200}a{0,200}$%") == ["a" * 700]
    put(logs, "/explode", "[ " * 30_000)
    assert filtered(logs, "/explode", "[a, b=x]") == []
    assert filtered(logs, "/explode", "[a = aaa*]") == ["a" * 700]
