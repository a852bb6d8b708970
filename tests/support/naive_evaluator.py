"""A second evaluator, written from the documentation as plain loops over the JSON, slow and without any cleverness.

It shares nothing with kmsd.authz but the types of the question. The documents that it is given are valid.
`verdict` answers "allow", "explicit" (a Deny applies), or which sort of policy lacks an Allow: "resource",
"identity", "session".
"""

# one plain function for each rule, however many ways out it has

from __future__ import annotations

import json
from typing import Any

from kmsd.authz.request import AuthorizationRequest  # the one thing shared
from kmsd.domain.grant import Grant
from kmsd.domain.principal import Caller, PrincipalType
from tests.support.naive_comparison import arn_like, compare, like, same_name

CRYPTO = ["Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"]
BY_GRANT = [*CRYPTO, "CreateGrant", "DescribeKey"]
FOREIGN = [*BY_GRANT, "GetKeyRotationStatus", "ListGrants", "RetireGrant", "RevokeGrant"]


def verdict(query: AuthorizationRequest) -> str:
    """The decision, by AWS's order of evaluation, step by step."""
    caller = query.caller
    service = caller.principal_type is PrincipalType.SERVICE
    key_statements = [] if query.resource_policy is None else statements(query.resource_policy)
    mine = [] if service else [s for text in caller.identity_policies for s in statements(text)]
    bounds = [s for text in caller.session_policies or () for s in statements(text)]

    # An explicit Deny anywhere wins.
    for statement in key_statements:
        if statement["Effect"] == "Deny" and denied_by_principal(statement, caller) and rest_fits(statement, query):
            return "explicit"
    for statement in mine + bounds:
        if statement["Effect"] == "Deny" and rest_fits(statement, query):
            return "explicit"

    reach = set()
    for statement in key_statements:
        if statement["Effect"] == "Allow" and rest_fits(statement, query):
            reach.add(allowed_by_principal(statement, caller))
    identity = caller.principal_type is PrincipalType.ACCOUNT or any(
        s["Effect"] == "Allow" and rest_fits(s, query) for s in mine
    )
    session = caller.session_policies is None or any(s["Effect"] == "Allow" and rest_fits(s, query) for s in bounds)
    operation = query.action.removeprefix("kms:")

    held, bounded_grant = False, False
    for grant in query.grants:
        if grant_fits(grant, query, operation):
            itself = grant.grantee_principal == caller.arn and caller.principal_type is PrincipalType.ASSUMED_ROLE
            if session or (itself and caller.account == query.resource_account):
                held = True
            else:
                bounded_grant = True

    answer = by_policies(query, reach, identity=identity, session=session, service=service, operation=operation)
    if answer == "allow" or held:
        return "allow"
    return "session" if bounded_grant else answer


def by_policies(
    query: AuthorizationRequest, reach: set[str], *, identity: bool, session: bool, service: bool, operation: str
) -> str:
    """The decision without grants, no Deny having applied."""
    if service:
        return "allow" if "itself" in reach or "entity" in reach else "resource"
    if query.caller.account != query.resource_account:
        # Both the key policy and the caller's own identity policy.
        if not reach - {"no"}:
            return "resource"
        if query.action.startswith("kms:") and operation not in FOREIGN:
            return "resource"
        if not identity:
            return "identity"
        return "allow" if session else "session"
    if "itself" in reach:
        return "allow"
    delegated = "account" in reach or query.resource_policy is None
    if "entity" in reach or (delegated and identity):
        return "allow" if session else "session"
    return "identity" if delegated else "resource"


def statements(text: str) -> list[dict[str, Any]]:
    """The statements of a document, each with its document's version."""
    document = json.loads(text)
    listed = document["Statement"]
    if isinstance(listed, dict):
        listed = [listed]
    return [{**statement, "version": document.get("Version", "2008-10-17")} for statement in listed]


def several(value: Any) -> list[Any]:
    """A list of one or more."""
    return value if isinstance(value, list) else [value]


def names(principal: Any, caller: Caller) -> set[str]:
    """By which of its levels a Principal map names the caller: "everyone", "itself", "role", "account"."""
    found: set[str] = set()
    if principal == "*" or "*" in several(principal.get("AWS", [])):
        found.add("everyone")
    if principal == "*":
        return found
    if caller.principal_type is PrincipalType.SERVICE:
        if caller.arn in several(principal.get("Service", [])):
            found.add("itself")
        return found
    for value in several(principal.get("AWS", [])):
        if value in (caller.account, f"arn:aws:iam::{caller.account}:root"):
            found.add("account")
        elif value == caller.arn:
            found.add("itself")
        if caller.role_arn is not None and value == caller.role_arn:
            found.add("role")
    return found


def allowed_by_principal(statement: dict[str, Any], caller: Caller) -> str:
    """How an Allow statement reaches the caller: "itself" (unbounded), "entity", "account", "no"."""
    if "NotPrincipal" in statement:
        return "no" if names(statement["NotPrincipal"], caller) else "entity"
    found = names(statement["Principal"], caller)
    if "everyone" in found:
        return "itself"
    if "itself" in found:
        user_with_bound = caller.principal_type is PrincipalType.USER and caller.session_policies is not None
        return "entity" if user_with_bound else "itself"
    if "role" in found:
        return "entity"
    if "account" in found:
        return "itself" if caller.principal_type is PrincipalType.ACCOUNT else "account"
    return "no"


def denied_by_principal(statement: dict[str, Any], caller: Caller) -> bool:
    """Whether a Deny statement is meant for the caller."""
    if "Principal" in statement:
        return bool(names(statement["Principal"], caller))
    found = names(statement["NotPrincipal"], caller)
    if "everyone" in found:
        return False
    if caller.principal_type is PrincipalType.SERVICE:
        needed = {"itself"}
    elif caller.principal_type is PrincipalType.ACCOUNT:
        needed = {"account"}
    elif caller.role_arn is not None:
        needed = {"account", "role", "itself"}
    else:
        needed = {"account", "itself"}
    return not needed <= found


def rest_fits(statement: dict[str, Any], query: AuthorizationRequest) -> bool:
    """Action, Resource and Condition."""
    if "Action" not in statement and "NotAction" not in statement:
        return False
    trust = query.action.startswith("sts:") and "Principal" in statement
    if "Resource" not in statement and "NotResource" not in statement and not trust:
        return False
    if "Action" in statement:
        if not any(like(a.lower(), query.action.lower()) for a in several(statement["Action"])):
            return False
    elif any(like(a.lower(), query.action.lower()) for a in several(statement["NotAction"])):
        return False
    if "Resource" in statement and not resource_fits(statement["Resource"], statement, query, missing=False):
        return False
    allow = statement["Effect"] == "Allow"
    if "NotResource" in statement and resource_fits(statement["NotResource"], statement, query, missing=allow):
        return False
    for operator, keys in statement.get("Condition", {}).items():
        for key, values in keys.items():
            if not condition(operator, key, several(values), statement, query):
                return False
    return True


def resource_fits(patterns: Any, statement: dict[str, Any], query: AuthorizationRequest, *, missing: bool) -> bool:
    """Whether a pattern fits the resource; one with a variable without value counts as `missing`."""
    for pattern in several(patterns):
        filled = substitute(pattern, statement["version"], query)
        if filled is None:
            if missing:
                return True
        elif arn_like(filled, query.resource):
            return True
    return False


def substitute(value: str, version: str, query: AuthorizationRequest) -> str | None:
    """Policy variables; None: one has no value."""
    if version != "2012-10-17":
        return value
    result, rest = "", value
    while "${" in rest:
        before, after = rest.split("${", 1)
        inside, rest = after.split("}", 1)
        result += before
        if inside in "*?$":
            result += "\0" + inside
            continue
        key, comma, default = inside.partition(",")
        found = lookup(key.strip(), query)
        text = found[0] if len(found) == 1 and not isinstance(found, tuple) else None
        if text is None and comma:
            text = default.strip()[1:-1]
        if text is None:
            return None
        result += "".join("\0" + character for character in text)
    return result + rest


def lookup(key: str, query: AuthorizationRequest) -> list[str] | tuple[str, ...]:
    """The values of a key: a list for a key with one value, a tuple for one that can have several; empty: none."""
    caller, lower = query.caller, key.lower()
    service = caller.principal_type is PrincipalType.SERVICE
    if lower.startswith("kms:encryptioncontext:"):
        return [v for k, v in query.encryption_context.items() if same_name("kms:EncryptionContext:" + k, key)]
    if lower.startswith("aws:principaltag/"):
        return [v for k, v in caller.tags.items() if same_name("aws:PrincipalTag/" + k, key)]
    of_caller: dict[str, str | None] = {
        "aws:principaltype": str(caller.principal_type.value),
        "aws:principalisawsservice": "true" if service else "false",
        "aws:principalservicename": caller.arn if service else None,
        "kms:calleraccount": caller.account,
        "aws:principalarn": None if service else (caller.role_arn or caller.arn),
        "aws:principalaccount": None if service else caller.account,
        "aws:userid": None if service else (caller.principal_id or None),
        "aws:username": None if service else caller.user_name,
        "aws:tokenissuetime": None if caller.issued_at is None else caller.issued_at.isoformat(),
    }
    if service:
        of_caller["aws:sourceaccount"] = caller.account
    if lower in of_caller:
        value = of_caller[lower]
        return [] if value is None else [value]
    if lower == "kms:encryptioncontextkeys":
        return tuple(query.encryption_context)
    found = [given for name, given in query.conditions.items() if same_name(name, key)]
    if not found and lower == "kms:grantisforawsresource":
        # No service makes grants here: the value follows from the action alone.
        return ["false"] if query.action in ("kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant") else []
    if len(found) == 1 and not isinstance(found[0], str):
        return found[0]
    return [value for given in found for value in ([given] if isinstance(given, str) else given)]


def condition(
    operator: str, key: str, values: list[Any], statement: dict[str, Any], query: AuthorizationRequest
) -> bool:
    """One operator on one key."""
    allow = statement["Effect"] == "Allow"
    listed = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    given = lookup(key, query)
    if operator == "Null":
        null = not given or all(value == "" for value in given)
        return any((text.lower() == "true") == null for text in listed)
    quantifier, _, base = operator.rpartition(":")
    if_exists = base.endswith("IfExists")
    base = base.removesuffix("IfExists")
    negated = "Not" in base
    if not given:
        return if_exists or quantifier == "ForAllValues" or (negated and quantifier == "")
    filled = [substitute(text, statement["version"], query) if base[:3] in ("Str", "Arn") else text for text in listed]
    if allow and negated and None in filled:
        return False
    if isinstance(given, list) and len(given) > 1:
        # Names that differ in case alone.
        outcomes = [quantified(quantifier, base, filled, [value], allow=allow) for value in given]
        return all(outcomes) if allow else any(outcomes)
    return quantified(quantifier, base, filled, list(given), allow=allow)


def quantified(quantifier: str, base: str, filled: list[str | None], given: list[str], *, allow: bool) -> bool:
    """The several values of the request together."""
    if quantifier and all(value == "" for value in given):
        return quantifier == "ForAllValues"
    outcomes = []
    for value in given:
        matched = matches_any(base, filled, value)
        if "Not" in base:
            outcomes.append(matched is False or (matched is None and not allow))
        else:
            outcomes.append(matched is True)
    if quantifier == "ForAllValues" or (quantifier == "" and "Not" in base):
        return all(outcomes)
    return any(outcomes)


def matches_any(base: str, filled: list[str | None], value: str) -> bool | None:
    """Whether `value` matches any of the listed; None: it is not of the operator's type."""
    outcomes = [compare(base.replace("Not", ""), text, value) for text in filled if text is not None]
    if None in outcomes:
        return None
    return True in outcomes


def grant_fits(grant: Grant, query: AuthorizationRequest, operation: str) -> bool:
    """Whether a grant allows the request, session policies apart."""
    if not query.action.startswith("kms:") or operation not in BY_GRANT or operation not in grant.operations:
        return False
    if grant.grantee_principal not in (query.caller.arn, query.caller.role_arn):
        return False
    if query.resource.rpartition(":key/")[2] != grant.key_id.rpartition(":key/")[2]:
        return False
    if operation in CRYPTO:
        context = dict(query.encryption_context)
        if grant.encryption_context_equals is not None:
            return context == dict(grant.encryption_context_equals)
        for name, value in (grant.encryption_context_subset or {}).items():
            if name not in context or context[name] != value:
                return False
    return True
