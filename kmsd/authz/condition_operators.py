"""Condition operators: comparison, negation, set operators and IfExists."""

from __future__ import annotations

import ipaddress
import operator
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kmsd.authz import policy_variables
from kmsd.authz.policy_variables import ARN_PARTS, ArnTemplate, Template
from kmsd.authz.wildcard import fold
from kmsd.domain import canonical_base64

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmsd.authz.request_context import RequestContext


class Quantifier(Enum):
    """Set operator: the rule that combines several values of a request's key."""

    NONE = ""
    FOR_ALL = "ForAllValues:"
    FOR_ANY = "ForAnyValue:"


class Test(Protocol):
    """Compares one value of the request with all values that the policy lists for the key."""

    def matches(self, value: str, request_context: RequestContext) -> bool | None:
        """True if any listed value matches. None if `value` is not of the operator's type."""
        ...

    def unresolved(self, request_context: RequestContext) -> bool:
        """True if a listed value has a variable without value in this request."""
        ...


class _ExactTest:
    """StringEquals and StringEqualsIgnoreCase."""

    __slots__ = ("_fold", "_literals", "_templates")

    def __init__(self, values: Sequence[str], *, variables: bool, folds: bool = False) -> None:
        self._fold = folds
        varying, literals = list[tuple[policy_variables.TemplateToken, ...]](), set[str]()
        for value in values:
            parts = policy_variables.parse(value, variables=variables, wildcards=False)
            if any(isinstance(part, policy_variables.Variable) for part in parts):
                varying.append(parts)
            else:
                text = "".join(part for part in parts if isinstance(part, str))
                literals.add(fold(text) if folds else text)
        self._literals = frozenset(literals)
        self._templates = tuple(varying)

    def matches(self, value: str, request_context: RequestContext) -> bool:
        value = fold(value) if self._fold else value
        return value in self._literals or (bool(self._templates) and value in self._resolved(request_context))

    def unresolved(self, request_context: RequestContext) -> bool:
        return any(text is None for text in self._resolved(request_context))

    def _resolved(self, request_context: RequestContext) -> list[str | None]:
        texts: list[str | None] = []
        for parts in self._templates:
            filled = policy_variables.resolved(parts, request_context)
            text = None if filled is None else "".join(part for part in filled if isinstance(part, str))
            texts.append(fold(text) if self._fold and text is not None else text)
        return texts


class _PatternTest:
    """StringLike, ArnEquals and ArnLike ("the ArnEquals and ArnLike condition operators behave identically")."""

    __slots__ = ("_patterns",)

    def __init__(self, patterns: Sequence[Template | ArnTemplate]) -> None:
        self._patterns = tuple(patterns)

    def matches(self, value: str, request_context: RequestContext) -> bool:
        return any(pattern.matches(value, request_context) for pattern in self._patterns)

    def unresolved(self, request_context: RequestContext) -> bool:
        return any(pattern.unresolved(request_context) for pattern in self._patterns)


class _ReadTest:
    """Numbers, dates, booleans, addresses and binary values: both sides are parsed, then compared."""

    __slots__ = ("_compare", "_listed", "_read")

    def __init__(
        self,
        values: Sequence[str],
        read: Callable[[str], Any],
        compare: Callable[[Any, Any], bool],
        read_listed: Callable[[str], Any] | None = None,
    ) -> None:
        self._read = read
        self._listed = tuple((read_listed or read)(value) for value in values)
        self._compare = compare

    def matches(self, value: str, request_context: RequestContext) -> bool | None:  # noqa: ARG002  # no variables here
        try:
            given = self._read(value)
        except ValueError:
            return None
        return any(self._compare(given, listed) for listed in self._listed)

    def unresolved(self, request_context: RequestContext) -> bool:  # noqa: ARG002  # as above
        return False


_NUMBER = re.compile(r"[+-]?[0-9]{1,32}(?:\.[0-9]{1,32})?(?:[eE][+-]?[0-9]{1,3})?")


def read_number(text: str) -> Decimal:
    """Parse an integer or decimal number. Raises `ValueError`."""
    if not _NUMBER.fullmatch(text):
        msg = "is not a number"
        raise ValueError(msg)
    return Decimal(text)


_DATE = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})?)?)?)?"
)
_EPOCH = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_START = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def read_date(text: str) -> int:
    """Return the microseconds since 1970 of a date: W3C's profile of ISO 8601, or UNIX time in seconds.

    Four digits are a year. A time without zone is in UTC. Raises `ValueError`.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        return _read_epoch(text)
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    moment = datetime(
        int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC
    )
    return (moment - _START) // _MICROSECOND + _microseconds(fraction) - _offset(zone)


def _read_epoch(text: str) -> int:
    found = _EPOCH.fullmatch(text)
    if found is None:
        msg = "is not a date"
        raise ValueError(msg)
    return int(found[1]) * 1_000_000 + _microseconds(found[2])


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "").ljust(6, "0")[:6])


def _offset(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:  # noqa: PLR2004  # of a clock
        msg = "is not a date"
        raise ValueError(msg)
    return (-1 if zone[0] == "-" else 1) * (hours * 60 + minutes) * 60_000_000


def read_bool(text: str) -> bool:
    """Parse `true` or `false`, in any case. Raises `ValueError`."""
    lower = text.lower()
    if lower not in ("true", "false"):
        msg = "is neither true nor false"
        raise ValueError(msg)
    return lower == "true"


def read_binary(text: str) -> bytes:
    """Decode canonical base64: a second text for the same bytes is refused. Raises `ValueError`."""
    try:
        return canonical_base64.decode(text)
    except ValueError as exc:
        msg = "is not base64"
        raise ValueError(msg) from exc


_Network = tuple[int, int, int]
"""IP version, first address, network mask."""


def read_network(text: str) -> _Network:
    """Parse an address or a range in CIDR form. Raises `ValueError`."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:  # noqa: PLR2004  # ::ffff:0:0/96
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network.version, int(network.network_address), int(network.netmask)


def read_address(text: str) -> tuple[int, int]:
    """Return IP version and address. An IPv4-mapped IPv6 address counts as IPv4. Raises `ValueError`."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


def _within(address: tuple[int, int], network: _Network) -> bool:
    return address[0] == network[0] and address[1] & network[2] == network[1]


def _exact(values: Sequence[str], *, variables: bool) -> Test:
    return _ExactTest(values, variables=variables)


def _exact_folded(values: Sequence[str], *, variables: bool) -> Test:
    return _ExactTest(values, variables=variables, folds=True)


def _like(values: Sequence[str], *, variables: bool) -> Test:
    return _PatternTest([Template(policy_variables.parse(value, variables=variables)) for value in values])


def _arn(values: Sequence[str], *, variables: bool) -> Test:
    # "Each of the six colon-delimited components of the ARN is checked separately": a shorter one could never match.
    patterns = [ArnTemplate(policy_variables.parse(value, variables=variables)) for value in values]
    if any(pattern.length < ARN_PARTS for pattern in patterns):
        msg = "is not an ARN of six parts"
        raise ValueError(msg)
    return _PatternTest(patterns)


def _reading(
    read: Callable[[str], Any],
    compare: Callable[[Any, Any], bool] = operator.eq,
    read_listed: Callable[[str], Any] | None = None,
) -> Callable[..., Test]:
    def build(values: Sequence[str], *, variables: bool) -> Test:  # noqa: ARG001  # "You can not use a policy variable"
        return _ReadTest(values, read, compare, read_listed)

    return build


_ADDRESS = _reading(read_address, _within, read_network)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}
_BUILDERS: dict[str, tuple[Callable[..., Test], bool]] = {
    "StringEquals": (_exact, False),
    "StringNotEquals": (_exact, True),
    "StringEqualsIgnoreCase": (_exact_folded, False),
    "StringNotEqualsIgnoreCase": (_exact_folded, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "ArnEquals": (_arn, False),
    "ArnLike": (_arn, False),
    "ArnNotEquals": (_arn, True),
    "ArnNotLike": (_arn, True),
    "NumericEquals": (_reading(read_number), False),
    "NumericNotEquals": (_reading(read_number), True),
    **{f"Numeric{name}": (_reading(read_number, compare), False) for name, compare in _ORDER.items()},
    "DateEquals": (_reading(read_date), False),
    "DateNotEquals": (_reading(read_date), True),
    **{f"Date{name}": (_reading(read_date, compare), False) for name, compare in _ORDER.items()},
    "Bool": (_reading(read_bool), False),
    "BinaryEquals": (_reading(read_binary), False),
    "IpAddress": (_ADDRESS, False),
    "NotIpAddress": (_ADDRESS, True),
}
"""By name without quantifier and IfExists: the function that builds the test, and True if the operator is negated."""


class Operator(msgspec.Struct, frozen=True):
    """The parsed name of an operator."""

    quantifier: Quantifier
    base: str
    if_exists: bool

    @property
    def negated(self) -> bool:
        """True if it holds where nothing matches."""
        return self.base != "Null" and _BUILDERS[self.base][1]

    @classmethod
    def named(cls, name: str) -> Operator:
        """Parse the name of an operator. Raises `ValueError` if there is no such operator."""
        base, quantifier = name, Quantifier.NONE
        for candidate in (Quantifier.FOR_ALL, Quantifier.FOR_ANY):
            if base.startswith(candidate.value):
                base, quantifier = base.removeprefix(candidate.value), candidate
                break
        if base == "Null" and quantifier is Quantifier.NONE:
            return cls(quantifier, base, if_exists=False)
        # "You can add IfExists to the end of any condition operator name except the Null condition."
        plain = base.removesuffix("IfExists")
        if plain not in _BUILDERS:
            msg = "is not a condition operator"
            raise ValueError(msg)
        return cls(quantifier, plain, if_exists=plain != base)

    def test(self, values: Sequence[str], *, variables: bool) -> Test:
        """Return its comparison with `values`. Raises `ValueError` if one of them is not of its type."""
        if self.base == "Null":
            return _ReadTest(values, read_bool, operator.eq)
        return _BUILDERS[self.base][0](values, variables=variables)
