"""The query language: each command and function, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from kmsd.cloudwatch_logs.events import LogEvent, position_at
from kmsd.cloudwatch_logs.insights.planner import plan
from kmsd.cloudwatch_logs.insights.rows import Record
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery
from kmsd.cloudwatch_logs.work_budget import Budget, TooLarge

START = 1_700_000_100_000
JSON = [
    f'{{"level":"{"error" if n % 2 else "info"}","ms":{n * 10},"u":{{"id":"u{n % 3}"}},"list":[{n}]}}' for n in range(8)
]
TEXT = "user=bob, id:7 took 12ms"


def ask(query: str, *messages: str, most: int = 10_000, several: bool = False) -> list[dict[str, str]]:
    """Rows without pointers; events a minute apart, the newest first."""
    run = plan(query).run(most, multiple_groups=several)
    for number, message in reversed(list(enumerate(messages or JSON))):
        at = START + number * 60_000
        run.feed(Record(LogEvent(position_at(at) + number + 1, at, message, at + 5, b"s"), "stream", "1:g"))
        if run.done:
            break
    run.end()
    return [{name: value for name, value in row if name != "@ptr"} for row in run.results]


def row(message: str, number: int = 0) -> Record:
    """An event as queries see it."""
    return Record(LogEvent(position_at(number) + 1, number, message, 0, b"s"))


def values(query: str, *messages: str) -> list[str]:
    """Of the one column that is shown."""
    return [next(iter(row.values()), "") for row in ask(query, *messages)]


def test_without_columns_time_and_message_are_shown() -> None:
    """And a pointer to each event."""
    run = plan("limit 1").run(10, multiple_groups=False)
    run.feed(Record(LogEvent(position_at(START) + 1, START, "x", START, b"s"), "stream", "1:g"))
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
    run = plan("limit 1").run(10, multiple_groups=False)
    run.feed(Record(LogEvent(1, 0, "x", 0, b"s")))
    assert run.done is True
    assert plan("sort ms | limit 1").run(10, multiple_groups=False).done is False


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ("stats count(*) by ms", 60_000),
        ("stats pct(ms, 50)", 2_000),
        ("stats count_distinct(@message)", 4_000),
        ("stats max(@message) by ms % 10", 10_000),
        ("dedup ms", 20_000),
        ("sort ms | limit 1000", 60_000),
        ("fields @message", 20_000),
    ],
)
def test_memory_is_bounded_in_bytes(query: str, size: int) -> None:
    """Groups, values, rows that wait and results share one budget; a query that needs more ends."""
    run = plan(query).run(10_000, multiple_groups=False, budget=Budget(size))

    def feed() -> None:
        for number in range(300):
            run.feed(row(f'{{"ms": {number}}}', number))

    with pytest.raises(TooLarge):
        feed()
    assert run.budget.used <= size


def test_what_is_let_go_counts_no_more() -> None:
    """Sorting keeps only what can be asked for, the extreme only the last; results count until they are packed."""
    budget = Budget(2_000_000)
    run = plan("sort ms asc | limit 3").run(10, multiple_groups=False, budget=budget)
    for number in range(5_000):
        run.feed(row(f'{{"ms": {number}}}', number))
        assert len(run.stages[0]._rows) <= 1_010  # type: ignore[attr-defined] # a Sort
    run.end()
    assert len(run.results) == 3
    assert run.drain()
    assert budget.used == 0
    run = plan("stats max(@message)").run(10, multiple_groups=False, budget=Budget(20_000))
    for number in range(1_000):
        run.feed(row(f"{number:08d}" + "x" * 1_000))


def test_a_budget_is_a_part_of_another() -> None:
    """What the process has is shared; what cannot be had in full is not had in part."""
    process = Budget(100)
    one, other = Budget(80, process), Budget(80, process)
    one.reserve(60)
    with pytest.raises(TooLarge):
        other.reserve(50)
    with pytest.raises(TooLarge):
        one.reserve(30)
    assert (one.used, other.used, process.used) == (60, 0, 60)
    one.close()
    other.reserve(80)
    assert process.used == 80


@pytest.mark.parametrize(
    "growing",
    [
        f"concat({','.join(['@message'] * 99)})",
        "replace(@message, 'x', '" + "y" * 5_000 + "')",
        "concat(@message, @message)",
    ],
)
def test_a_value_is_no_longer_than_an_event_can_be(growing: str) -> None:
    """A function that would make a longer one has no value; the row and its other fields are there."""
    columns = f"fields strlen({growing}) as n, {growing} as long, 1 as one | display n, long, one"
    assert ask(columns, "x" * 600_000) == [{"one": "1"}]


def test_work_on_one_event_is_bounded() -> None:
    """What goes beyond has no value; the next event has all of its own."""
    passes = " or ".join(["toupper(@message) = 'y'"] * 40)
    query = f"filter {passes} or @message like 'x' | stats count(*) as n"
    assert ask(query, "x" * 1_000_000) == [{"n": "0"}]
    assert ask(query, "x" * 1_000_000, "x" * 100, "x" * 200_000) == [{"n": "2"}]
    large = " or ".join(["@message like /y[xy]{800}z/"] * 19)
    assert ask(f"filter {large} or @message like 'x' | stats count(*) as n", "x" * 1_000_000, "x" * 9_000) == [
        {"n": "1"}
    ]
    assert ask("parse @message /(?<a>[x]{900})/ | display a", "x" * 400_000, "x" * 900) == [{"a": "x" * 900}, {}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("n > 5", []),
        ("n = 5", []),
        ("ispresent(n)", ["1"]),
        ("n + 1 > 0", []),
        ("abs(n) > 0", []),
    ],
)
def test_numbers_beyond_a_float_are_no_numbers(value: str, expected: list[str]) -> None:
    """Such an event takes no part in what is asked of numbers, and hides no other."""
    poison, other = f'{{"n":1{"0" * 400},"k":1}}', '{"n":6,"k":2}'
    found = values(f"fields k | filter {value}", poison, other)
    assert [one for one in found if one == "1"] == expected
    assert values(f"fields k | filter {value}", other) == [one for one in found if one == "2"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("fromMillis(0)", "1970-01-01 00:00:00.000"),
        ("fromMillis(-1)", "1969-12-31 23:59:59.999"),
        ("fromMillis(253402300799999)", "9999-12-31 23:59:59.999"),
        ("fromMillis(-62135596800000)", "0001-01-01 00:00:00.000"),
        ("fromMillis(253402300800000)", None),
        ("fromMillis(1e300)", None),
        ("fromMillis(-1e300)", None),
        ("datefloor(1e18, 1h)", None),
        ("dateceil(253402300799999, 999999999999w)", None),
        ("1e308 * 10", None),
        ("1" + "0" * 400, None),
        ("substr(@message, 1e300)", ""),
        ("ceil(1e308) > 1e307", "1"),
        ("list." + "9" * 5_000, None),
        ("`list.٣`", None),
    ],
)
def test_what_no_value_can_stand_for_is_nothing(expression: str, expected: str | None) -> None:
    """Instants that no calendar has, numbers that no float has, indexes that no list has."""
    assert ask(f"fields {expression} as x | display x", '{"list":[1]}') == [{} if expected is None else {"x": expected}]


def test_sums_of_large_numbers_have_a_result() -> None:
    """Whole numbers of 300 digits beside fractions."""
    large = f'{{"n":{"9" * 300}}}'
    [found] = ask("stats sum(n), avg(n), stddev(n), max(n), pct(n, 99)", large, '{"n":0.5}', large)
    assert found["sum(n)"] == "2e+300"


@pytest.mark.parametrize(
    "query",
    [
        "filter " + " or ".join(["a = 1"] * 1_000),
        "filter " + " and ".join(["a != 1"] * 1_000),
        "fields " + "+".join(["1"] * 1_900) + " as x",
        "fields " + "*".join(["1"] * 1_900) + " as x",
        "fields " + "abs(" * 45 + "1" + ")" * 45 + " as x",
        "filter " + "(not " * 24 + "a" + ")" * 24,
    ],
)
def test_long_expressions_are_worked_out(query: str) -> None:
    """However many parts stand beside each other; what stands within each other is bounded when it is read."""
    assert len(ask(query, "{}", "{}")) in (0, 2)


def test_sorting_is_exact() -> None:
    """Nothing, numbers of either sign, text with zeros and beyond the BMP; each key in its own direction."""
    texts = ["a", "a\\u0000", "a\\u0000b", "ab", "", "\uffff", "\U00010000", "b"]
    rows = [f'{{"t":"{one}","n":{number}}}' for number, one in enumerate(texts)]
    sorted_texts = sorted(json.loads(one)["t"] for one in rows)
    assert [json.loads(one)["t"] for one in values("fields @message | sort t asc", *rows)] == sorted_texts
    assert [json.loads(one)["t"] for one in values("fields @message | sort t desc", *rows)] == sorted_texts[::-1]
    numbers = ["-1e300", "-2", "-0.0", "0", "1e-300", "3", "1e300"]
    shown = [
        json.loads(one)["n"] for one in values("fields @message | sort n", *(f'{{"n":{n}}}' for n in numbers[::-1]))
    ]
    assert shown == sorted(shown)
    assert values("fields @message | sort a, b desc", '{"a":1,"b":1}', '{"b":9}', '{"a":1,"b":2}') == [
        '{"b":9}', '{"a":1,"b":2}', '{"a":1,"b":1}',
    ]  # fmt: skip


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
        ("filter " + " or ".join(["a like /x/"] * 21), "20 regular expressions"),
        ("fields " + ",".join(["a"] * 2_001), "2000 fields, numbers and texts"),
        ("fields " + "-" * 5_000 + "1", "too many signs"),
        ("fields datefloor(a, " + "9" * 5_000 + "h)", "a span of time"),
        ("filter a like /" + "a{1000}" * 5 + "/", "the expression is too large"),
        ("filter a like /(?=secret)/", "look-around"),
    ],
)
def test_what_is_not_supported_is_named(query: str, why: str) -> None:
    """And where it stands; the query itself is not quoted, for errors are recorded."""
    with pytest.raises(MalformedQuery) as refused:
        plan(query)
    assert why in str(refused.value)
