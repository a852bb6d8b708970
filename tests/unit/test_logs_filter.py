"""Filter patterns, by the examples of their documentation and by what must be refused."""

from __future__ import annotations

import json

import pytest

from kmsd.cloudwatch_logs.filter_pattern.pattern import compile_pattern
from kmsd.cloudwatch_logs.filter_pattern.selectors import MAX_FIELDS
from kmsd.cloudwatch_logs.work_budget import MAX_EVENT_WORK
from kmsd.errors import InvalidParameterException

EVENT = json.dumps(
    {
        "eventType": "UpdateTrail",
        "sourceIPAddress": "111.111.111.111",
        "arrayKey": ["value", "another value"],
        "objectList": [{"name": "a", "id": 1}, {"name": "b", "id": 2}],
        "SomeObject": None,
        "errors": True,
        "latency": 50.5,
        "code": 404,
        "text": "404",
        "a b": {"c.d": "x"},
        "nested": {"deep": {"er": "found"}},
    }
)
SPACED = '127.0.0.1 Prod frank [10/Oct/2000:13:25:15 -0700] "GET /index.html HTTP/1.0" 404 1534'


@pytest.mark.parametrize(
    ("pattern", "message", "expected"),
    [
        ("", "anything", True),
        ('" "', "a b", True),
        ("ERROR", "[ERROR] A fatal exception", True),
        ("ERROR", "Exiting with ERRORCODE: -1", True),
        ("ERROR", "error", False),
        ("ERROR ARGUMENTS", "[ERROR] INVALID ARGUMENTS", True),
        ("ERROR ARGUMENTS", "[ERROR] UNAUTHORIZED", False),
        ("?ERROR ?WARN", "[WARN] low", True),
        ("?ERROR ?WARN", "[INFO] fine", False),
        ('"INTERNAL SERVER ERROR"', "500 INTERNAL SERVER ERROR", True),
        ('"INTERNAL SERVER ERROR"', "INTERNAL ERROR SERVER", False),
        ("ERROR -ARGUMENTS", "[ERROR] UNAUTHORIZED", True),
        ("ERROR -ARGUMENTS", "[ERROR] INVALID ARGUMENTS", False),
        ('ERROR -"INVALID ARGUMENTS"', "[ERROR] INVALID ARGUMENTS", False),
        ("-debug", "info", True),
        ("%AUTHORIZED%", "[ERROR 401] UNAUTHORIZED REQUEST", True),
        ("%4[0-9]{2}$%", "status 404", True),
        ("%4[0-9]{2}$%", "status 404 x", False),
        ('"a \\"quoted\\" word"', 'a "quoted" word', True),
    ],
)
def test_terms(pattern: str, message: str, expected: bool) -> None:  # noqa: FBT001 (a table)
    """All plain terms, none after `-`, any after `?`; within words; by case."""
    assert compile_pattern(pattern)(message) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('$.eventType = "UpdateTrail"', True),
        ("$.eventType = UpdateTrail", True),
        ('$.eventType != "UpdateTrail"', False),
        ("$.sourceIPAddress != 123.123.*", True),
        ("$.sourceIPAddress = 111.*.111", True),
        ("$.sourceIPAddress = 111.*.112", False),
        ('$.arrayKey[0] = "value"', True),
        ('$.arrayKey[1] = "value"', False),
        ("$.arrayKey[9] = *", False),
        ("$.objectList[1].id = 2", True),
        ("$.objectList[*].id = 2", True),
        ("$.objectList[*].id = 3", False),
        ("$.SomeObject IS NULL", True),
        ("$.SomeOtherObject NOT EXISTS", True),
        ("$.eventType NOT EXISTS", False),
        ("$.errors IS TRUE", True),
        ("$.errors IS FALSE", False),
        ("$.latency > 50", True),
        ("$.latency >= 50.5", True),
        ("$.latency < 5e1", False),
        ("$.code = 404", True),
        ("$.code = 4*", True),
        ("$.text = 404", True),
        ('$.text = "404"', True),
        ("$.code != 404", False),
        ("$.missing = x", False),
        ("$.missing != x", False),
        ("$.nested.deep.er = found", True),
        ("$.nested.deep = found", False),
        ("$['a b']['c.d'] = x", True),
        ("$.eventType = %^Update%", True),
        ("$.eventType != %^Update%", False),
        ("($.code = 404) && ($.errors IS TRUE)", True),
        ("$.code = 500 || $.errors IS TRUE && $.latency < 1", False),
        ("($.code = 500 || $.errors IS TRUE) && $.latency > 1", True),
    ],
)
def test_json_selectors(condition: str, expected: bool) -> None:  # noqa: FBT001 (a table)
    """Comparisons, wildcards, arrays, existence, and what binds them."""
    assert compile_pattern(f"{{ {condition} }}")(EVENT) is expected


def test_json_patterns_match_only_json() -> None:
    """Text, broken JSON, bare values."""
    matches = compile_pattern("{ $.a NOT EXISTS }")
    assert matches("{}") is True
    for message in ("text", '{"a": ', "5", "", '"{}"', "[" * 100_000):
        assert matches(message) is False


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[ip, server, user, time, request, status, bytes]", True),
        ("[ip, server, user, time, request, status]", False),
        ("[ip, server, user, time, request, status = 4*, bytes]", True),
        ("[ip, server, user, time, request =*.html*, status = 4*, bytes > 1000]", True),
        ("[ip, server, user, time, request, status = 5*, bytes]", False),
        ("[..., status = 404, bytes]", True),
        ("[ip, ..., bytes >= 1534]", True),
        ("[ip = 127.*, ...]", True),
        ("[ip, server = Prod || server = Test, ...]", True),
        ("[ip, server != Prod && server != Test, ...]", False),
        ("[..., status = %4[0-9]{2}%, bytes]", True),
        ('[ip, server, user = "frank", ...]', True),
    ],
)
def test_space_delimited_fields(pattern: str, expected: bool) -> None:  # noqa: FBT001 (a table)
    """Brackets and quotation marks hold fields together; `...` stands for any number."""
    assert compile_pattern(pattern)(SPACED) is expected


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ('a [b c] "d e" f', 4),
        ("[a", 1),
        ("[ [ [ a", 4),
        ("[a]b[c", 2),
        ("[a] [ b ] [ c", 4),
        ('"a b', 2),
        ('a"b c"d', 2),
        ("a]b [c] d]", 3),
        ("", 0),
    ],
)
def test_how_a_message_is_split(message: str, fields: int) -> None:
    """A bracket or quotation mark that is not closed is a sign as any other."""
    names = ", ".join(f"f{number}" for number in range(fields))
    assert not fields or compile_pattern(f"[{names}]")(message) is True
    assert compile_pattern(f"[{', '.join(['f'] * (fields + 1))}]")(message) is False
    assert compile_pattern("[..., last]")(message) is (fields > 0)


def test_a_message_of_very_many_fields() -> None:
    """It is no match where they would all have to be counted; elsewhere the first ones decide."""
    many = "a " * (MAX_FIELDS + 1)
    assert compile_pattern("[..., last]")(many) is False
    assert compile_pattern("[..., last]")(many[2:]) is True
    assert compile_pattern("[a, b]")(many) is False


@pytest.mark.parametrize("member", ["1" + "0" * 400, "-1" + "0" * 4_000, "1e400", "1" * 5_000])
@pytest.mark.parametrize("condition", ["> 5", "= 5", "= x", "IS NULL", "< 5", "<= 1e308"])
def test_numbers_beyond_a_float_are_no_numbers(member: str, condition: str) -> None:
    """A comparison with one is false, and raises nothing: one event must not hide the others."""
    matches = compile_pattern(f"{{ $.n {condition} }}")
    message = f'{{"n":{member}}}'
    assert matches(message) is False
    assert matches('{"n":"x"}') is (condition == "= x")
    assert compile_pattern("[n > 5]")(member) is False


def test_numbers_in_patterns_that_no_float_has() -> None:
    """They are text, which is compared with = and != alone."""
    assert compile_pattern("{ $.n = 1e999 }")('{"n": "1e999"}') is True
    with pytest.raises(InvalidParameterException):
        compile_pattern("{ $.n > 1e999 }")


def test_work_on_one_message_is_bounded() -> None:
    """A message that takes too much is no match; the next has all of its own."""
    pattern = compile_pattern(" ".join(["a"] * 40))
    assert pattern("a" * (MAX_EVENT_WORK // 40)) is True
    assert pattern("a" * (MAX_EVENT_WORK // 40 + 1)) is False
    assert pattern("aaaa") is True
    large = compile_pattern("%[ab]{900}%")
    assert large("ab" * 100_000) is True
    assert large("ab" * 200_000) is False
    assert compile_pattern("%[ab]{200}%")("ab" * 500_000) is True
    assert compile_pattern("{ $[*] = 2 }")(f"[{'1,' * 100_000}2]") is False
    assert compile_pattern("{ $[*] = 2 }")(f"[{'1,' * 10_000}2]") is True


def test_selectors_of_many_steps() -> None:
    """As deep as a pattern can be long."""
    steps = ".a" * 480
    message = '{"a":' * 480 + "1" + "}" * 480
    assert compile_pattern(f"{{ $.{steps[1:]} = 1 }}")(message) is True
    assert compile_pattern("{ $" + "[*]" * 300 + " = 1 }")("[" * 300 + "1" + "]" * 300) is True


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("*", "", True),
        ("**x**", "axb", True),
        ("a*", "ba", False),
        ("*aab", "aaab", True),
    ],
)
def test_wildcards(value: str, text: str, expected: bool) -> None:  # noqa: FBT001 (a table)
    """A star is any text; the whole value has to match."""
    assert compile_pattern(f"{{ $.a = {value} }}")(json.dumps({"a": text})) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        '"open',
        "%open",
        "%(group)%",
        "%[a-%",
        "{ }",
        "{ $.a }",
        "{ $.a = }",
        "{ a = 1 }",
        "{ $.a > x }",
        "{ $.a = 1 && }",
        "{ ($.a = 1 }",
        "{ $.a = 1) }",
        "{ $.a IS 5 }",
        "{ $.a[x] = 1 }",
        "{ $.a > %x% }",
        "[a, ..., b, ...]",
        "[a, , b]",
        "[a = 1 || b = 2]",
        "{ " + "(" * 100 + "$.a = 1" + ")" * 100 + " }",
        "%a{0,1000}a{0,1000}a{0,1000}b%",
        "%a% " * 21,
        "{ " + " || ".join(["$.a = %a%"] * 21) + " }",
        "%é%",
    ],
)
def test_malformed_patterns_are_refused(pattern: str) -> None:
    """By InvalidParameterException, and without quoting the pattern."""
    with pytest.raises(InvalidParameterException, match=r"^Invalid filter pattern"):
        compile_pattern(pattern)
