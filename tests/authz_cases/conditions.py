"""Condition operators and keys."""

from __future__ import annotations

from tests.authz_cases.support import A, B, Case, session, when

OPERATORS = "IAM User Guide, IAM JSON policy elements: Condition operators"
LOGIC = "IAM User Guide, Conditions with multiple context keys or values"
KMS = "KMS Developer Guide, AWS KMS condition keys"
GLOBAL = "IAM User Guide, AWS global condition context keys"

ABSENT = "If the key is not in the request, the condition is false."
ABSENT_NOT = "If the key is not in the request, a condition with a negated operator is true."
IF_EXISTS = "With IfExists, a key that is not in the request makes the condition true."
OR = "The values listed for one key are alternatives."
NOR = "For a negated operator, none of the listed values may match."
AND = "Several keys and several operators must all be satisfied."
EXACT = "StringEquals is exact and case sensitive; an asterisk is an asterisk."
FOLDED = "StringEqualsIgnoreCase disregards case."
LIKE = "StringLike is case sensitive and knows both wildcards."
NUMBER = "Numeric operators compare integers and decimals."
DATE = "Date operators compare W3C dates or UNIX time."
BOOL = "Bool compares true and false."
BINARY = "BinaryEquals compares what the base64 texts stand for."
ADDRESS = "IpAddress is an address or a CIDR range; a lone address is itself."
ARN = "ARN operators compare each of the six parts by itself; Equals and Like are the same."

CONTEXT = "kms:EncryptionContext:Department"
IT = {"Department": "IT"}

CASES = [
    Case("equal", "allow", EXACT, OPERATORS, when({"StringEquals": {CONTEXT: "IT"}}, context=IT)),
    Case("unequal", "resource", EXACT, OPERATORS, when({"StringEquals": {CONTEXT: "HR"}}, context=IT)),
    Case("equal but for case", "resource", EXACT, OPERATORS, when({"StringEquals": {CONTEXT: "it"}}, context=IT)),
    Case("equal, no wildcard", "resource", EXACT, OPERATORS, when({"StringEquals": {CONTEXT: "*"}}, context=IT)),
    Case("key absent", "resource", ABSENT, OPERATORS, when({"StringEquals": {CONTEXT: "IT"}})),
    Case("not equal", "allow", NOR, OPERATORS, when({"StringNotEquals": {CONTEXT: "HR"}}, context=IT)),
    Case("not equal, but equal", "resource", NOR, OPERATORS, when({"StringNotEquals": {CONTEXT: "IT"}}, context=IT)),
    Case("not equal, key absent", "allow", ABSENT_NOT, OPERATORS, when({"StringNotEquals": {CONTEXT: "IT"}})),
    Case(
        "not equal, one of several",
        "resource",
        NOR,
        LOGIC,
        when({"StringNotEquals": {CONTEXT: ["IT", "HR"]}}, context=IT),
    ),
    Case("one of several", "allow", OR, LOGIC, when({"StringEquals": {CONTEXT: ["HR", "IT"]}}, context=IT)),
    Case(
        "two keys, both",
        "allow",
        AND,
        LOGIC,
        when({"StringEquals": {CONTEXT: "IT", "kms:CallerAccount": A}}, context=IT),
    ),
    Case(
        "two keys, one",
        "resource",
        AND,
        LOGIC,
        when({"StringEquals": {CONTEXT: "IT", "kms:CallerAccount": B}}, context=IT),
    ),
    Case(
        "two operators, one",
        "resource",
        AND,
        LOGIC,
        when(
            {"StringEquals": {CONTEXT: "IT"}, "Bool": {"aws:SecureTransport": "true"}},
            context=IT,
            aws__SecureTransport="false",
        ),
    ),
    Case("ignore case", "allow", FOLDED, OPERATORS, when({"StringEqualsIgnoreCase": {CONTEXT: "it"}}, context=IT)),
    Case(
        "ignore case, no wildcard",
        "resource",
        FOLDED,
        OPERATORS,
        when({"StringEqualsIgnoreCase": {CONTEXT: "i*"}}, context=IT),
    ),
    Case(
        "not, ignoring case",
        "resource",
        FOLDED,
        OPERATORS,
        when({"StringNotEqualsIgnoreCase": {CONTEXT: "it"}}, context=IT),
    ),
    Case("like", "allow", LIKE, OPERATORS, when({"StringLike": {CONTEXT: "I*"}}, context=IT)),
    Case("like, one character", "allow", LIKE, OPERATORS, when({"StringLike": {CONTEXT: "?T"}}, context=IT)),
    Case("like, case", "resource", LIKE, OPERATORS, when({"StringLike": {CONTEXT: "i*"}}, context=IT)),
    Case("like anything, but absent", "resource", ABSENT, OPERATORS, when({"StringLike": {CONTEXT: "*"}})),
    Case(
        "like anything, empty",
        "allow",
        LIKE,
        OPERATORS,
        when({"StringLike": {CONTEXT: "*"}}, context={"Department": ""}),
    ),
    Case("not like", "resource", LIKE, OPERATORS, when({"StringNotLike": {CONTEXT: "I*"}}, context=IT)),
    Case("if exists, absent", "allow", IF_EXISTS, OPERATORS, when({"StringEqualsIfExists": {CONTEXT: "IT"}})),
    Case(
        "if exists, differs",
        "resource",
        IF_EXISTS,
        OPERATORS,
        when({"StringEqualsIfExists": {CONTEXT: "HR"}}, context=IT),
    ),
    Case(
        "deny, negated, if exists, absent",
        "explicit",
        IF_EXISTS,
        OPERATORS,
        when({"StringNotEqualsIfExists": {CONTEXT: "IT"}}, effect="Deny"),
    ),
    Case("number", "allow", NUMBER, OPERATORS, when({"NumericEquals": {"kms:x": 7}}, kms__x="7.0")),
    Case("number below", "allow", NUMBER, OPERATORS, when({"NumericLessThan": {"kms:x": "10"}}, kms__x="9")),
    Case("number not below", "resource", NUMBER, OPERATORS, when({"NumericLessThan": {"kms:x": "10"}}, kms__x="10")),
    Case("number at most", "allow", NUMBER, OPERATORS, when({"NumericLessThanEquals": {"kms:x": "10"}}, kms__x="10")),
    Case("number above", "resource", NUMBER, OPERATORS, when({"NumericGreaterThan": {"kms:x": "10"}}, kms__x="9.99")),
    Case(
        "number at least", "allow", NUMBER, OPERATORS, when({"NumericGreaterThanEquals": {"kms:x": "-1"}}, kms__x="0")
    ),
    Case(
        "number not equal", "resource", NUMBER, OPERATORS, when({"NumericNotEquals": {"kms:x": ["1", "2"]}}, kms__x="2")
    ),
    Case(
        "numbers are not texts", "allow", NUMBER, OPERATORS, when({"NumericGreaterThan": {"kms:x": "9"}}, kms__x="10")
    ),
    Case("no number", "resource", NUMBER, OPERATORS, when({"NumericLessThan": {"kms:x": "10"}}, kms__x="ten")),
    Case(
        "waiting period too short",
        "explicit",
        NUMBER,
        KMS,
        when(
            {"NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": 20}},
            effect="Deny",
            kms__ScheduleKeyDeletionPendingWindowInDays="7",
        ),
    ),
    Case(
        "before",
        "allow",
        DATE,
        OPERATORS,
        when({"DateLessThan": {"aws:CurrentTime": "2026-02-01T00:00:00Z"}}, aws__CurrentTime="2026-01-31T23:59:59Z"),
    ),
    Case(
        "not before",
        "resource",
        DATE,
        OPERATORS,
        when({"DateLessThan": {"aws:CurrentTime": "2026-02-01"}}, aws__CurrentTime="2026-02-01T00:00:00Z"),
    ),
    Case(
        "epoch against date",
        "allow",
        DATE,
        OPERATORS,
        when({"DateEquals": {"aws:EpochTime": "2026-01-02T03:04:05Z"}}, aws__EpochTime="1767323045"),
    ),
    Case(
        "date against epoch",
        "allow",
        DATE,
        OPERATORS,
        when({"DateGreaterThanEquals": {"aws:CurrentTime": 1767323045}}, aws__CurrentTime="2026-01-02T03:04:05+00:00"),
    ),
    Case(
        "time zones",
        "allow",
        DATE,
        OPERATORS,
        when({"DateEquals": {"kms:ValidTo": "2026-01-02T04:04:05+01:00"}}, kms__ValidTo="2026-01-01T22:04:05-05:00"),
    ),
    Case(
        "after, fraction",
        "allow",
        DATE,
        OPERATORS,
        when({"DateGreaterThan": {"kms:ValidTo": "2026-01-01T00:00:00Z"}}, kms__ValidTo="2026-01-01T00:00:00.001Z"),
    ),
    Case(
        "not that day",
        "resource",
        DATE,
        OPERATORS,
        when({"DateNotEquals": {"kms:ValidTo": "2026-01-01"}}, kms__ValidTo="2026-01-01T00:00:00Z"),
    ),
    Case(
        "old credentials",
        "resource",
        DATE,
        GLOBAL,
        when({"DateGreaterThan": {"aws:TokenIssueTime": "2026-01-03"}}, caller=session()),
    ),
    Case("true", "allow", BOOL, OPERATORS, when({"Bool": {"kms:y": True}}, kms__y="true")),
    Case("true as text, other case", "allow", BOOL, OPERATORS, when({"Bool": {"kms:y": "True"}}, kms__y="true")),
    Case("false", "resource", BOOL, OPERATORS, when({"Bool": {"kms:y": "true"}}, kms__y="false")),
    Case(
        "deny without TLS",
        "explicit",
        BOOL,
        OPERATORS,
        when({"Bool": {"aws:SecureTransport": "false"}}, effect="Deny", aws__SecureTransport="false"),
    ),
    Case("bool absent", "resource", ABSENT, OPERATORS, when({"Bool": {"kms:y": "false"}})),
    Case("binary", "allow", BINARY, OPERATORS, when({"BinaryEquals": {"kms:b": "VGVzdA=="}}, kms__b="VGVzdA==")),
    Case(
        "binary differs",
        "resource",
        BINARY,
        OPERATORS,
        when({"BinaryEquals": {"kms:b": "VGVzdA=="}}, kms__b="VGVzdB=="),
    ),
    Case(
        "address in range",
        "allow",
        ADDRESS,
        OPERATORS,
        when({"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, aws__SourceIp="203.0.113.255"),
    ),
    Case(
        "address out of range",
        "resource",
        ADDRESS,
        OPERATORS,
        when({"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, aws__SourceIp="203.0.114.0"),
    ),
    Case(
        "lone address",
        "resource",
        ADDRESS,
        OPERATORS,
        when({"IpAddress": {"aws:SourceIp": "203.0.113.7"}}, aws__SourceIp="203.0.113.8"),
    ),
    Case(
        "IPv6",
        "allow",
        ADDRESS,
        OPERATORS,
        when(
            {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "2001:DB8:1234:5678::/64"]}},
            aws__SourceIp="2001:db8:1234:5678::1",
        ),
    ),
    Case(
        "IPv4 in IPv6 clothes",
        "allow",
        ADDRESS,
        OPERATORS,
        when({"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, aws__SourceIp="::ffff:203.0.113.9"),
    ),
    Case(
        "not from there",
        "explicit",
        ADDRESS,
        OPERATORS,
        when({"NotIpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, effect="Deny", aws__SourceIp="198.51.100.1"),
    ),
    Case(
        "not from there, but from there",
        "allow",
        ADDRESS,
        OPERATORS,
        when({"NotIpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, effect="Deny", aws__SourceIp="203.0.113.1"),
    ),
    Case("ARN", "allow", ARN, OPERATORS, when({"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{A}:user/al*"}})),
    Case(
        "ARN equals is ARN like",
        "allow",
        ARN,
        OPERATORS,
        when({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/alice"}}),
    ),
    Case(
        "ARN, wildcard within its part",
        "resource",
        ARN,
        OPERATORS,
        when(
            {"ArnLike": {"kms:z": f"arn:aws:some:*:{A}:finance/*"}},
            kms__z=f"arn:aws:some:us-east-2:{B}:store/abc:{A}:finance/document.txt",
        ),
    ),
    Case(
        "string, wildcard across parts",
        "allow",
        LIKE,
        OPERATORS,
        when(
            {"StringLike": {"kms:z": f"arn:aws:some:*:{A}:finance/*"}},
            kms__z=f"arn:aws:some:us-east-2:{B}:store/abc:{A}:finance/document.txt",
        ),
    ),
    Case(
        "not that ARN",
        "resource",
        ARN,
        OPERATORS,
        when({"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::{A}:user/*"}}),
    ),
    Case(
        "role's ARN for its session",
        "allow",
        "For a session, aws:PrincipalArn is the role's ARN.",
        GLOBAL,
        when({"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{A}:role/app"}}, caller=session()),
    ),
]
