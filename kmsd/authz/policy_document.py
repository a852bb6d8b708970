"""Parser for policy documents. Refusals name the place of the error."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from kmsd.authz import policy_elements
from kmsd.authz.compiled_condition import CompiledCondition
from kmsd.authz.condition_operators import Operator, Quantifier
from kmsd.authz.wildcard import fold
from kmsd.domain.policy import Condition, Effect, Policy, PolicyKind, Principals, Statement
from kmsd.errors import MalformedPolicyDocumentException

MAX_LENGTH = 131_072
"""Characters of a document: the limit of the API's type. Callers enforce lower limits."""
MAX_DEPTH = 8
"""Nesting depth of brackets. A policy needs six."""
MAX_VALUES = 16_384
"""Strings, numbers and booleans in one document, including element names."""

MAX_MESSAGE = 400
"""Characters of a refusal's message, which quotes parts of the document."""

VERSIONS = ("2008-10-17", "2012-10-17")
DEFAULT_VERSION = "2008-10-17"
"""Version of a document without the element Version."""

_SYNTAX = "Syntax errors in policy."
_INVALID_JSON = "This policy contains invalid Json"
# "Printable ASCII characters, printable characters in the Basic Latin and Latin-1 Supplement character set, the tab,
# line feed, and carriage return" (KMS Developer Guide, Key policy format). Others can be written as JSON escapes.
_CHARACTERS = re.compile(r"[\t\n\r\x20-\xff]*")
# The closing quote is optional, so an unterminated string is read once, to the end of the text.
_BRACKETS_AND_VALUES = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]|[^\s"\[\]{},:]+', re.DOTALL)
_SID_OF_IAM = re.compile(r"[0-9A-Za-z]*")
_SID_OF_KEY = re.compile(r"[\x20-\x7e\xa0-\xff]*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_POLICY_ELEMENTS = frozenset({"Version", "Id", "Statement"})
_STATEMENT_ELEMENTS = frozenset(
    {
        *("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction"),
        *("Resource", "NotResource", "Condition"),
    }
)
_PRINCIPAL_KINDS = frozenset({"AWS", "Service", "Federated", "CanonicalUser"})
_ON_IDENTITIES = (PolicyKind.IDENTITY, PolicyKind.SESSION)


class _Object(list[tuple[str, Any]]):
    """A JSON object as a list of pairs, so that duplicate names can be detected."""


class _Number(str):
    """A JSON number as its text: keeps the precision and computes no large integer."""

    __slots__ = ()


def parse(text: str, *, kind: PolicyKind) -> Policy:
    """Parse a policy document. Raises `MalformedPolicyDocumentException` and nothing else."""
    document = _object(_json(text), "", _POLICY_ELEMENTS)
    version = document.get("Version", DEFAULT_VERSION)
    if version not in VERSIONS:
        refuse(_SYNTAX, "Version", f"must be one of {' and '.join(VERSIONS)}")
    policy_id = None
    if "Id" in document:
        policy_id = _string(document["Id"], "Id")
        if kind in _ON_IDENTITIES:
            # Id: "it must not be included in identity-based policies" (Grammar of the IAM JSON policy language).
            refuse("Has prohibited field Id", "Id")
    if "Statement" not in document:
        refuse(_SYNTAX, "Statement", "is missing")
    written = document["Statement"]
    listed = [written] if isinstance(written, _Object) else _list(written, "Statement")
    reader = _Reader(kind, variables=version == "2012-10-17")
    return Policy(kind, version, policy_id, tuple(reader.statement(one, number) for number, one in enumerate(listed)))


class _Reader:
    """Reads the statements of one document."""

    def __init__(self, kind: PolicyKind, *, variables: bool) -> None:
        self._kind = kind
        self._variables = variables
        self._sids: set[str] = set()

    def statement(self, written: Any, number: int) -> Statement:
        place = f"Statement[{number}]"
        elements = _object(written, place, _STATEMENT_ELEMENTS)
        effect = elements.get("Effect")
        if effect not in ("Allow", "Deny"):
            refuse(_SYNTAX, f"{place}.Effect", "must be Allow or Deny" if "Effect" in elements else "is missing")
        principal, excludes_principals = _either(elements, "Principal", place)
        actions, excludes_actions = _either(elements, "Action", place)
        resources, excludes_resources = _either(elements, "Resource", place)
        return Statement(
            number,
            self._sid(elements, place),
            Effect(effect),
            self._principals(principal, place, excluded=excludes_principals),
            excludes_principals,
            self._actions(actions, place, excluded=excludes_actions),
            excludes_actions,
            self._resources(resources, place, excluded=excludes_resources),
            excludes_resources,
            self._conditions(elements["Condition"], f"{place}.Condition") if "Condition" in elements else (),
        )

    def _sid(self, elements: dict[str, Any], place: str) -> str | None:
        if "Sid" not in elements:
            return None
        place = f"{place}.Sid"
        sid = _string(elements["Sid"], place)
        # In a key policy the Sid can include spaces, unlike in IAM (KMS Developer Guide, Key policy format).
        if self._kind is PolicyKind.KEY:
            if not _SID_OF_KEY.fullmatch(sid):
                refuse(_SYNTAX, place, "has characters that cannot be printed")
        elif not _SID_OF_IAM.fullmatch(sid):
            refuse("Statement IDs (SID) must be alpha-numeric.", place)
        if sid and sid in self._sids:
            refuse("Statement IDs (SID) in a single policy must be unique.", place)
        self._sids.add(sid)
        return sid or None

    def _principals(self, written: Any, place: str, *, excluded: bool) -> Principals | None:
        name = "NotPrincipal" if excluded else "Principal"
        if self._kind in _ON_IDENTITIES:
            if written is not None:
                refuse("Policy document should not specify a principal.", f"{place}.{name}")
            return None
        if written is None:
            refuse("Policy contains a statement with no principal.", place)
        place = f"{place}.{name}"
        if written == "*":
            return Principals(everyone=True)
        if not isinstance(written, _Object):
            refuse(policy_elements.INVALID_PRINCIPALS, place)
        kinds = _object(written, place, _PRINCIPAL_KINDS)
        if not kinds:
            refuse("Policy contains a statement with no principal.", place)
        named = {kind: _strings(value, f"{place}.{kind}") for kind, value in kinds.items()}
        for kind, values in named.items():
            for position, value in enumerate(values):
                try:
                    policy_elements.check_principal(kind, value)
                except ValueError as error:
                    refuse(str(error), f"{place}.{kind}[{position}]")
        return policy_elements.principals(named)

    def _actions(self, written: Any, place: str, *, excluded: bool) -> tuple[str, ...] | None:
        if written is None:
            if self._kind is not PolicyKind.KEY:
                refuse("Policy statement must contain actions.", place)
            return None
        place = f"{place}.{'NotAction' if excluded else 'Action'}"
        actions = _strings(written, place)
        for position, action in enumerate(actions):
            try:
                policy_elements.check_action(action)
            except ValueError as error:
                refuse(str(error), f"{place}[{position}]")
            if self._kind is PolicyKind.TRUST and not action.lower().startswith("sts:"):
                refuse("AssumeRole policy may only specify STS AssumeRole actions.", f"{place}[{position}]")
        return actions

    def _resources(self, written: Any, place: str, *, excluded: bool) -> tuple[str, ...] | None:
        name = "NotResource" if excluded else "Resource"
        if written is None:
            if self._kind in _ON_IDENTITIES:
                refuse("Policy statement must contain resources.", place)
            return None
        if self._kind is PolicyKind.TRUST:
            refuse(f"Has prohibited field {name}", f"{place}.{name}")
        place = f"{place}.{name}"
        resources = _strings(written, place)
        for position, text in enumerate(resources):
            try:
                policy_elements.resource(text, variables=self._variables)
            except ValueError as error:
                refuse(str(error), f"{place}[{position}]")
        return resources

    def _conditions(self, written: Any, place: str) -> tuple[Condition, ...]:
        conditions = []
        for operator, keys in _object(written, place).items():
            at = f"{place}.{operator[:64]}"
            by_key = _object(keys, at)
            if not by_key:
                refuse(_SYNTAX, at, "names no condition key")
            for key, values in by_key.items():
                condition = Condition(operator, key, _strings(values, f"{at}.{key[:64]}", scalars=True))
                self._check_condition(condition, at)
                conditions.append(condition)
        return tuple(conditions)

    def _check_condition(self, condition: Condition, place: str) -> None:
        try:
            quantifier = Operator.named(condition.operator).quantifier
        except ValueError as error:
            refuse(_SYNTAX, place, str(error))
        place = f"{place}.{condition.key[:64]}"
        try:
            policy_elements.check_key(condition.key)
        except ValueError as error:
            refuse(str(error), place)
        single = fold(condition.key).startswith(("kms:encryptioncontext:", "aws:requesttag/"))
        if self._kind is PolicyKind.KEY and quantifier is Quantifier.FOR_ALL and single:
            # KMS's error message (KMS Developer Guide, AWS KMS condition keys, Warning).
            refuse(
                "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key "
                "matches requests without the specified [encryption context or tag] or with an unspecified "
                "[encryption context or tag]. To fix, remove ForAllValues.",
                place,
            )
        try:
            CompiledCondition(condition, variables=self._variables)
        except ValueError as error:
            refuse(_SYNTAX, place, str(error))


def _json(text: str) -> Any:
    if len(text) > MAX_LENGTH:
        refuse(_SYNTAX, "", f"is longer than {MAX_LENGTH} characters")
    if not _CHARACTERS.fullmatch(text):
        refuse(_SYNTAX, "", "has characters that a policy cannot hold")
    depth = values = 0
    for found in _BRACKETS_AND_VALUES.finditer(text):
        first = found[0][0]
        depth += (first in "[{") - (first in "]}")
        values += first not in "[]{}"
        if depth > MAX_DEPTH or values > MAX_VALUES:
            refuse(_SYNTAX, "", f"nests deeper than {MAX_DEPTH} or holds more than {MAX_VALUES} values")
    try:
        return json.loads(
            text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant
        )
    except ValueError:
        refuse(_INVALID_JSON, "")


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _object(written: Any, place: str, allowed: frozenset[str] | None = None) -> dict[str, Any]:
    if not isinstance(written, _Object):
        refuse(_SYNTAX, place, "must be an object")
    elements: dict[str, Any] = {}
    for name, value in written:
        at = f"{place}.{name[:64]}" if place else name[:64]
        if _SURROGATE.search(name):
            refuse(_SYNTAX, place, "has a name that is no text")
        if name in elements:
            refuse(_SYNTAX, at, "stands there twice")
        if allowed is not None and name not in allowed:
            refuse(_SYNTAX, at, "is not an element of the policy language")
        elements[name] = value
    return elements


def _either(elements: dict[str, Any], name: str, place: str) -> tuple[Any, bool]:
    """Return the value of `name` or of its `Not…` form, and True if it is the latter."""
    if name in elements and f"Not{name}" in elements:
        refuse(_SYNTAX, place, f"cannot have both {name} and Not{name}")
    for present, excluded in ((name, False), (f"Not{name}", True)):
        if present in elements:
            if elements[present] is None:
                refuse(_SYNTAX, f"{place}.{present}", "must not be null")
            return elements[present], excluded
    return None, False


def _list(written: Any, place: str) -> list[Any]:
    if not isinstance(written, list) or isinstance(written, _Object):
        refuse(_SYNTAX, place, "must be a list")
    # "Arrays can take one or more values."
    if not written:
        refuse(_SYNTAX, place, "is an empty list")
    return written


def _strings(written: Any, place: str, *, scalars: bool = False) -> tuple[str, ...]:
    """Read one string or a list of strings. `scalars`: accept numbers and booleans too, as their text."""
    if isinstance(written, list) and not isinstance(written, _Object):
        listed = _list(written, place)
        return tuple(_string(one, f"{place}[{position}]", scalars=scalars) for position, one in enumerate(listed))
    return (_string(written, place, scalars=scalars),)


def _string(written: Any, place: str, *, scalars: bool = False) -> str:
    if scalars and isinstance(written, bool):
        return "true" if written else "false"
    if not isinstance(written, str) or (isinstance(written, _Number) and not scalars):
        refuse(_SYNTAX, place, "must be a string" if not scalars else "must be a string, number or boolean")
    if _SURROGATE.search(written):
        refuse(_SYNTAX, place, "is no text")
    return str(written)


def refuse(sentence: str, place: str, problem: str = "") -> NoReturn:
    """Raise with AWS's message, the place and the problem there, in printable ASCII."""
    where = " ".join(part for part in (place, problem) if part)
    message = f"{sentence} ({where})" if where else sentence
    printable = message.encode("unicode_escape").decode("ascii")
    raise MalformedPolicyDocumentException(printable[:MAX_MESSAGE])
