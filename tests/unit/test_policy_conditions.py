"""Conditions that are none, and what the operators read as numbers, dates, addresses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kmsd.authz import condition_operators as operators
from kmsd.authz.policy_document import parse
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException

CASES: list[tuple[Any, str]] = [
    ([], "(Statement[0].Condition must be an object)"),
    ({"StringEquals": {}}, "(Statement[0].Condition.StringEquals names no condition key)"),
    ({"StringEquals": "x"}, "(Statement[0].Condition.StringEquals must be an object)"),
    ({"StringEqual": {"aws:x": "y"}}, "(Statement[0].Condition.StringEqual is not a condition operator)"),
    ({"stringequals": {"aws:x": "y"}}, "stringequals is not a condition operator)"),
    ({"NullIfExists": {"aws:x": "true"}}, "NullIfExists is not a condition operator)"),
    ({"ForAllValues:Null": {"aws:x": "true"}}, "ForAllValues:Null is not a condition operator)"),
    ({"ForAllValues:ForAnyValue:Bool": {"aws:x": "true"}}, "is not a condition operator)"),
    ({"StringEqualsIfExistsIfExists": {"aws:x": "y"}}, "is not a condition operator)"),
    ({"StringEquals": {"x": "y"}}, "vendor, e.g., iam, sdb, ec2, etc. (Statement[0].Condition.StringEquals.x)"),
    ({"StringEquals": {"aws:x": []}}, "(Statement[0].Condition.StringEquals.aws:x is an empty list)"),
    ({"StringEquals": {"aws:x": None}}, "aws:x must be a string, number or boolean)"),
    ({"StringEquals": {"aws:x": {"y": "z"}}}, "aws:x must be a string, number or boolean)"),
    ({"StringEquals": {"aws:x": "${aws:y"}}, "aws:x a policy variable is not closed)"),
    ({"NumericEquals": {"aws:x": "one"}}, "(Statement[0].Condition.NumericEquals.aws:x is not a number)"),
    ({"NumericEquals": {"aws:x": "\u0661"}}, "aws:x is not a number)"),
    ({"NumericEquals": {"aws:x": "9" * 40}}, "aws:x is not a number)"),
    ({"DateEquals": {"aws:x": "tomorrow"}}, "aws:x is not a date)"),
    ({"DateEquals": {"aws:x": "2026-02-30"}}, "day is out of range for month)"),
    ({"DateEquals": {"aws:x": "2026-01-01T00:00:00+99:00"}}, "aws:x is not a date)"),
    ({"Bool": {"aws:x": "yes"}}, "aws:x is neither true nor false)"),
    ({"Null": {"aws:x": "null"}}, "aws:x is neither true nor false)"),
    ({"BinaryEquals": {"aws:x": "a"}}, "aws:x is not base64)"),
    ({"IpAddress": {"aws:x": "300.1.1.1"}}, "(Statement[0].Condition.IpAddress.aws:x"),
    ({"ArnEquals": {"aws:x": "*"}}, "aws:x is not an ARN of six parts)"),
    ({"ArnLike": {"aws:x": "user/alice"}}, "aws:x is not an ARN)"),
    ({"ForAllValues:StringEquals": {"kms:EncryptionContext:a": "b"}}, "OverlyPermissiveCondition: "),
]


@pytest.mark.parametrize(("condition", "message"), CASES)
def test_refusals(condition: Any, message: str) -> None:
    """Unknown operators, keys without prefix and values of another type are refused; the place is named."""
    statement = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": condition}
    with pytest.raises(MalformedPolicyDocumentException) as caught:
        parse(json.dumps({"Version": "2012-10-17", "Statement": statement}), kind=PolicyKind.KEY)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970", 0),
        ("1970-01", 0),
        ("1970-01-02", 86_400),
        ("1970-01-01T00:01Z", 60),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T00:00:00.25Z", 0.25),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:30:00-00:30", 0),
        ("1970-01-01T00:00:01", 1),
        ("0", 0),
        ("86400", 86_400),
        ("123456.5", 123_456.5),
        ("2013", 1_356_998_400),
        ("1000000000000", None),
        ("19700101T000000Z", None),
        ("1970-01-01 00:00:00Z", None),
        ("1970-01-01T24:00:00Z", None),
        ("1970-01-01T00:00:60Z", None),
        ("1970-1-1", None),
        ("0000-01-01", None),
        ("1970-01-01T00:00:00+24:00", None),
        ("-1", None),
        ("", None),
    ],
)
def test_dates(text: str, seconds: float | None) -> None:
    """W3C's forms and UNIX time; four digits are a year; what is no date is none."""
    if seconds is None:
        with pytest.raises(ValueError):
            operators.read_date(text)
    else:
        assert operators.read_date(text) == round(seconds * 1_000_000)


def test_addresses() -> None:
    """Host bits do not matter in a range; ranges of mapped addresses are IPv4."""
    assert operators.read_network("203.0.113.77/24") == operators.read_network("203.0.113.0/24")
    assert operators.read_network("::ffff:203.0.113.0/120") == operators.read_network("203.0.113.0/24")
    assert operators.read_network("::ffff:0:0/96") == operators.read_network("0.0.0.0/0")
    assert operators.read_address("::ffff:203.0.113.7") == operators.read_address("203.0.113.7")
    assert operators.read_network("::/96")[0] == 6
    assert operators.read_network("2001:db8::/32")[0] == 6


def test_numbers() -> None:
    """Exact, not in floating point."""
    assert operators.read_number("0.1") + operators.read_number("0.2") == operators.read_number("0.30")
    assert operators.read_number("1e3") == 1000
    assert operators.read_number("9007199254740993") > 9007199254740992
