"""The query language: each command and function, and what is refused by name."""

from __future__ import annotations

import pytest

from kmsd.domain.log_event import Event, position_at
from kmsd.domain.log_query import MalformedQuery
from kmsd.domain.log_query_plan import plan
from kmsd.domain.log_query_rows import Row
from kmsd.domain.log_query_stats import TooLarge

START = 1_700_000_100_000
JSON = [
    f'{{"level":"{"error" if n % 2 else "info"}","ms":{n * 10},"u":{{"id":"u{n % 3}"}},"list":[{n}]}}' for n in range(8)
]
TEXT = "user=bob, id:7 took 12ms"


def ask(query: str, *messages: str, most: int = 10_000, several: bool = False) -> list[dict[str, str]]:
    """Rows without pointers; events a minute apart, the newest first."""
    run = plan(query).run(most, several=several)
    for number, message in reversed(list(enumerate(messages or JSON))):
        at = START + number * 60_000
        run.feed(Row(Event(position_at(at) + number + 1, at, message, at + 5, b"s"), "stream", "1:g"))
        if run.done:
            break
    run.end()
    return [{name: value for name, value in row if name != "@ptr"} for row in run.results]


def values(query: str, *messages: str) -> list[str]:
    """Of the one column that is shown."""
    return [next(iter(row.values()), "") for row in ask(query, *messages)]


def test_without_columns_time_and_message_are_shown() -> None:
    """And a pointer to each event."""
    run = plan("limit 1").run(10, several=False)
    run.feed(Row(Event(position_at(START) + 1, START, "x", START, b"s"), "stream", "1:g"))
    assert run.results == [
        [("@timestamp", "2023-11-14 22:15:00.000"), ("@message", "x"), ("@ptr", f"{position_at(START) + 1:056d}")]
    ]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("ms = 70", ["70"]),
        ("ms >= 60", ["70", "60"]),
        ("ms != 70 and ms > 50", ["60"]),
        ("level = 'error' and ms < 30", ["10"]),
        ('level = "info" and (ms < 10 or ms > 50)', ["60", "0"]),
        ("not level = 'info' and ms > 40", ["70", "50"]),
        ("ms in [10, 20]", ["20", "10"]),
        ("ms not in [0, 10, 20, 30, 40, 50]", ["70", "60"]),
        ("u.id = 'u1'", ["70", "40", "10"]),
        ("list.0 = 3", ["30"]),
        ("@message like 'u2' and ms > 30", ["50"]),
        ("@message not like /u[01]/", ["50", "20"]),
        ("level =~ /^err/ and ms > 50", ["70"]),
        ("ms % 40 = 0", ["40", "0"]),
        ("ms / 10 + 1 = 8", ["70"]),
        ("-ms = -70", ["70"]),
        ("2 ^ 3 = 8 and ms = 70", ["70"]),
        ("nothing = 1", []),
        ("ispresent(nothing)", []),
        ("`ms` = 70", ["70"]),
        ("abs(ms - 100) = 30", ["70"]),
        ("strlen(level) = 5 and ms > 60", ["70"]),
        ("toupper(level) = 'INFO' and ms > 50", ["60"]),
        ("strcontains(@message, 'u0') and ms > 50", ["60"]),
        ("coalesce(nothing, ms) = 20", ["20"]),
        ("greatest(ms, 65) = 65 and ms > 50", ["60"]),
        ("@logStream = 'stream' and @log = '1:g' and ms = 0", ["0"]),
        ("@timestamp = 1700000100000", ["0"]),
        ("1 / 0 = 1", []),
    ],
)
def test_filter(condition: str, expected: list[str]) -> None:
    """Comparisons, words, functions, arithmetic."""
    assert values(f"fields ms | filter {condition}") == expected


def test_fields_and_display() -> None:
    """Columns add up; display replaces them; names after `as`."""
    assert ask("fields ms, level | fields ms * 2 as twice | limit 1") == [
        {"ms": "70", "level": "error", "twice": "140"}
    ]
    assert ask("fields ms, level | display level, ms + 1 | limit 1") == [{"level": "error", "ms + 1": "71"}]
    assert ask(
        "fields concat(level, '-', ms) as both, substr(level, 0, 3) as short, replace(level, 'r', 'R') as r | limit 1"
    ) == [{"both": "error-70", "short": "err", "r": "eRRoR"}]


def test_parse() -> None:
    """With stars and with named groups; what does not match adds nothing."""
    glob = 'parse @message "user=*, id:* took *ms" as user, id, took | display user, id, took'
    assert ask(glob, TEXT, "other") == [{}, {"user": "bob", "id": "7", "took": "12"}]
    assert ask('parse "took *" as rest | display rest', TEXT) == [{"rest": "12ms"}]
    assert ask(r"parse @message /id:(?<id>\d+) took (?<n>\d+)/ | filter n > 5 | display id", TEXT) == [{"id": "7"}]
    assert ask("parse u.id 'u*' as n | filter n = 2 | display n, ms") == [
        {"n": "2", "ms": "50"},
        {"n": "2", "ms": "20"},
    ]


def test_stats() -> None:
    """Each function, by field, by expression and by time."""
    assert ask("stats count(*), count(nothing), sum(ms) as s, avg(ms), min(ms), max(ms), pct(ms, 50), median(ms)") == [
        {
            "count(*)": "8", "count(nothing)": "0", "s": "280", "avg(ms)": "35", "min(ms)": "0", "max(ms)": "70",
            "pct(ms, 50)": "35", "median(ms)": "35",
        }
    ]  # fmt: skip
    assert ask(
        "stats count_distinct(u.id) as d, stddev(ms) as sd, earliest(ms) as e, latest(ms) as l, sortsLast(level) as z"
    ) == [{"d": "3", "sd": "22.9128784747792", "e": "0", "l": "70", "z": "info"}]
    assert ask("stats count(*) as n by level | sort level asc") == [
        {"level": "error", "n": "4"},
        {"level": "info", "n": "4"},
    ]
    assert ask("stats sum(ms) as s by bin(5m) | sort s") == [
        {"bin(5m)": "2023-11-14 22:15:00.000", "s": "100"},
        {"bin(5m)": "2023-11-14 22:20:00.000", "s": "180"},
    ]
    assert ask("stats max(ms) by u.id as who | sort max(ms) desc | limit 1") == [{"who": "u1", "max(ms)": "70"}]
    assert ask("filter ms > 1000 | stats count(*) as n") == [{"n": "0"}]
    assert ask("filter ms > 1000 | stats count(*) as n by level") == []
    assert ask("stats count(*) as n by level | filter n > 3 | stats count(*) as groups") == [{"groups": "2"}]


def test_sort_limit_dedup() -> None:
    """By several keys; numbers as numbers; the first of each."""
    assert values("fields ms | sort level asc, ms desc | limit 3") == ["70", "50", "30"]
    assert values("fields ms | sort ms | limit 2") == ["0", "10"]
    assert values("fields ms | limit 2") == ["70", "60"]
    assert values("fields ms | dedup u.id") == ["70", "60", "50"]
    assert values("fields @message | sort @message", "10", "9", "b", "a") == ["9", "10", "a", "b"]
    assert ask("fields ms", most=2) == [{"ms": "70"}, {"ms": "60"}]
    assert ask("fields ms", most=2, several=True) == [{"ms": "70"}, {"ms": "60"}]


def test_comments_and_line_breaks() -> None:
    """As people write them."""
    assert values("# slow ones\nfields ms # milliseconds\n  | filter ms > 60\n  | limit 5") == ["70"]


def test_a_query_stops_when_it_has_enough() -> None:
    """No further event is asked for."""
    run = plan("limit 1").run(10, several=False)
    run.feed(Row(Event(1, 0, "x", 0, b"s")))
    assert run.done is True
    assert plan("sort ms | limit 1").run(10, several=False).done is False


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many groups or values end a query; sorting keeps only what can be asked for."""
    monkeypatch.setattr("kmsd.domain.log_query_stages.MOST_GROUPS", 3)
    monkeypatch.setattr("kmsd.domain.log_query_stats.MOST_VALUES", 5)
    with pytest.raises(TooLarge):
        ask("stats count(*) by ms")
    with pytest.raises(TooLarge):
        ask("stats pct(ms, 50)")
    run = plan("sort ms asc | limit 3").run(10, several=False)
    for number in range(5_000):
        run.feed(Row(Event(number, number, f'{{"ms": {number}}}', 0, b"s")))
        assert len(run.stages[0]._rows) <= 1_010  # type: ignore[attr-defined] # a Sort
    run.end()
    assert len(run.results) == 3


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "the query is empty"),
        ("pattern @message", "the command pattern is not supported"),
        ("filter frob(a)", "the function frob is not supported"),
        ("stats frob(a)", "the function frob is not supported in stats"),
        ("stats sum(a) + 1", "calculating with the results of stats is not supported"),
        ("filter strlen(a, b)", "the function strlen does not take 2 arguments"),
        ("fields a,", "is expected"),
        ("fields a |", "a command is expected"),
        ("fields a b", "'|' is expected"),
        ("limit 0", "limit takes a number from 1"),
        ("limit many", "limit takes a number from 1"),
        ("filter a like b", "a text or /regular expression/ is expected"),
        ("filter a like /(/", "a parenthesis is not closed"),
        ("filter a in 5", "'[' is expected"),
        ("filter (a = 1", "')' is expected"),
        ("filter " + "(" * 99, "too many parentheses"),
        ("filter " + "not " * 99 + "a", "too many words of negation"),
        ("parse @message 'a*b*' as x", "as many names"),
        ("parse @message /a/", "named groups"),
        ("parse @message", "a text with stars"),
        ("stats pct(a)", "takes a field and a number from 0 to 100"),
        ("stats count(*) by bin(5x)", "a span of time"),
        ("stats avg(*)", "takes one argument"),
        ("filter a = 'open", "is expected"),
        ("|".join(["limit 5"] * 51), "50 commands"),
    ],
)
def test_what_is_not_supported_is_named(query: str, why: str) -> None:
    """And where it stands; the query itself is not quoted, for errors are recorded."""
    with pytest.raises(MalformedQuery) as refused:
        plan(query)
    assert why in str(refused.value)
