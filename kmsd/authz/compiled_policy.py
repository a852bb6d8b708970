"""Policies compiled for evaluation. Only this module decides whether a statement applies to a request.

`kmsd.authz.evaluate` uses it for the decision, `kmsd.authz.explain` for the reasons.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from kmsd.authz import policy_document, policy_elements
from kmsd.authz.compiled_condition import CompiledCondition
from kmsd.domain.policy import Effect, Policy, PolicyKind, Statement
from kmsd.domain.principal import PrincipalType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.authz.request_context import RequestContext
    from kmsd.domain.policy import Principals
    from kmsd.domain.principal import Caller

CACHED_CHARACTERS = 4 * 1024 * 1024
"""Characters of policy text that stay compiled. The compiled form takes about twelve times the memory of the text."""
CACHED_ACTIONS = 256
"""Actions for which a policy caches the statements that cover them."""


class PrincipalMatch(IntEnum):
    """The way in which an Allow statement names the caller. A higher value is stronger."""

    NONE = 0
    ACCOUNT = 1
    """It names the caller's account: the account's identity policies then decide."""
    ENTITY = 2
    """It names the user or role: session policies limit it."""
    EXACT = 3
    """It names this very session, or everyone: neither identity nor session policies limit it."""


class PrincipalView:
    """The attributes of a caller that statements are compared with."""

    __slots__ = (
        "accounts",
        "arn",
        "has_bound",
        "is_federated",
        "is_root",
        "is_service",
        "is_session",
        "names",
        "role_arn",
    )

    def __init__(self, caller: Caller) -> None:
        self.arn = caller.arn
        self.role_arn = caller.role_arn
        self.is_service = caller.principal_type is PrincipalType.SERVICE
        self.is_federated = caller.principal_type is PrincipalType.WEB_IDENTITY
        self.is_root = caller.principal_type is PrincipalType.ACCOUNT
        self.is_session = caller.principal_type is PrincipalType.ASSUMED_ROLE
        self.has_bound = caller.session_policies is not None
        partition = caller.arn.split(":", 2)[1] if caller.arn.startswith("arn:") else "aws"
        # A service acts for an account, and the bearer of a web token is a stranger: account principals do not include
        # them.
        self.accounts = (
            ()
            if self.is_service or self.is_federated
            else (caller.account, f"arn:{partition}:iam::{caller.account}:root")
        )
        self.names = (self.arn, *self.accounts) if self.role_arn is None else (self.arn, self.role_arn, *self.accounts)


class CompiledPrincipals:
    """Principal or NotPrincipal of one statement."""

    __slots__ = ("_accounts", "_entities", "_federated", "_services", "everyone", "excluded", "names")

    def __init__(self, principals: Principals, *, excluded: bool) -> None:
        self.everyone = principals.everyone
        self.excluded = excluded
        self._accounts = frozenset(principals.accounts)
        self._entities = frozenset(principals.entities)
        self._services = frozenset(principals.services)
        self._federated = frozenset(principals.federated)
        self.names = self._accounts | self._entities | self._services | self._federated

    def match(self, principal_view: PrincipalView) -> PrincipalMatch:
        """Return the way in which an Allow statement names the caller. The issuer of a web token must be named."""
        if principal_view.is_federated and (self.everyone or self.excluded):
            return PrincipalMatch.NONE
        if not self.excluded:
            return self._named(principal_view)
        if self.everyone or self._named(principal_view):
            return PrincipalMatch.NONE
        # AWS does not document that NotPrincipal names a session, so session policies limit it.
        return PrincipalMatch.ENTITY

    def denies(self, principal_view: PrincipalView) -> bool:
        """True if a Deny statement applies to the caller."""
        return (
            not self._excepted(principal_view)
            if self.excluded
            else self._named(principal_view) is not PrincipalMatch.NONE
        )

    def _named(self, principal_view: PrincipalView) -> PrincipalMatch:
        if self.everyone:
            return PrincipalMatch.EXACT
        if principal_view.is_service:
            return PrincipalMatch.EXACT if principal_view.arn in self._services else PrincipalMatch.NONE
        if principal_view.is_federated:
            return PrincipalMatch.EXACT if principal_view.arn in self._federated else PrincipalMatch.NONE
        if principal_view.arn in self._entities:
            # "Permissions granted directly to a session are not limited by an implicit deny in … a session policy".
            # A session of an IAM user has the user's ARN; a statement with this ARN does not name the session itself.
            return (
                PrincipalMatch.EXACT
                if principal_view.is_session or not principal_view.has_bound
                else PrincipalMatch.ENTITY
            )
        if principal_view.role_arn is not None and principal_view.role_arn in self._entities:
            return PrincipalMatch.ENTITY
        if any(account in self._accounts for account in principal_view.accounts):
            # "The account principal represents the account and its administrators, including the account root user."
            return PrincipalMatch.EXACT if principal_view.is_root else PrincipalMatch.ACCOUNT
        return PrincipalMatch.NONE

    def _excepted(self, principal_view: PrincipalView) -> bool:
        # "When you use NotPrincipal with Deny, you must also specify the account ARN of the not-denied principal";
        # a session must be listed with its role and its account (IAM User Guide, NotPrincipal with Deny).
        if self.everyone:
            return True
        if principal_view.is_service or principal_view.is_federated:
            return principal_view.arn in self._services | self._federated
        if not any(account in self._accounts for account in principal_view.accounts):
            return False
        levels = (
            ()
            if principal_view.is_root
            else (principal_view.arn,)
            if principal_view.role_arn is None
            else (principal_view.arn, principal_view.role_arn)
        )
        return all(level in self._entities for level in levels)


class CompiledStatement:
    """One compiled statement."""

    __slots__ = (
        "_actions",
        "_resources",
        "_varies",
        "allows",
        "conditions",
        "effective",
        "source",
        "unconditional",
        "who",
    )

    def __init__(self, statement: Statement, policy: Policy) -> None:
        self.source = statement
        self.allows = statement.effect is Effect.ALLOW
        self.who = (
            None
            if statement.principals is None
            else CompiledPrincipals(statement.principals, excluded=statement.excludes_principals)
        )
        # "If the required Resource element is missing from a key policy statement, the policy statement has no
        # effect". A trust policy has no Resource and applies to its role.
        self.effective = statement.actions is not None and (
            statement.resources is not None or policy.kind is PolicyKind.TRUST
        )
        self._actions = tuple(policy_elements.action(text) for text in statement.actions or ())
        self._resources = tuple(
            policy_elements.resource(text, variables=policy.has_variables)
            for text in (statement.resources if statement.resources is not None else ("*",))
        )
        self.conditions = tuple(
            CompiledCondition(condition, variables=policy.has_variables) for condition in statement.conditions
        )
        self._varies = any(pattern.varies for pattern in self._resources)
        self.unconditional = not self.conditions and not self._varies
        """True if caller, action and resource alone decide whether it applies."""

    def reaches(self, principal_view: PrincipalView) -> PrincipalMatch:
        """Return the way in which it names the caller, by the rules of its effect."""
        if self.who is None:
            return PrincipalMatch.EXACT
        if self.allows:
            return self.who.match(principal_view)
        return PrincipalMatch.EXACT if self.who.denies(principal_view) else PrincipalMatch.NONE

    def covers_action(self, action: str) -> bool:
        """True if it covers `action`, which must be in lower case."""
        return any(pattern.matches(action) for pattern in self._actions) is not self.source.excludes_actions

    def may_cover(self, resource: str) -> bool:
        """True if it covers `resource`, or may do so once its variables have values."""
        return self._varies or self.covers(resource, None)

    def covers(self, resource: str, request_context: RequestContext | None) -> bool:
        """True if it covers `resource`.

        A pattern whose variable has no value matches nothing. With NotResource this would widen an Allow, so an Allow
        with such a NotResource does not apply.
        """
        matched = any(pattern.matches(resource, request_context) for pattern in self._resources)
        if not self.source.excludes_resources:
            return matched
        if (
            self.allows
            and request_context is not None
            and any(pattern.unresolved(request_context) for pattern in self._resources)
        ):
            return False
        return not matched

    def holds(self, resource: str, request_context: RequestContext) -> bool:
        """True if resource and conditions match. Only for statements that `CompiledPolicy.candidates` yields."""
        if self._varies and not self.covers(resource, request_context):
            return False
        for condition in self.conditions:  # a loop: this is on the path of every request  # noqa: SIM110
            if not condition.holds(request_context, allows=self.allows):
                return False
        return True


class CompiledPolicy:
    """A policy document with its statements indexed by principal and by action."""

    __slots__ = ("_by_action", "_by_name", "_unnamed", "statements", "text")

    def __init__(self, text: str, policy: Policy) -> None:
        self.text = text
        self.statements = tuple(CompiledStatement(statement, policy) for statement in policy.statements)
        self._by_name: dict[str, list[int]] = {}
        unnamed = []
        for number, statement in enumerate(self.statements):
            if statement.who is None or statement.who.everyone or statement.who.excluded:
                unnamed.append(number)
                continue
            for name in statement.who.names:
                self._by_name.setdefault(name, []).append(number)
        self._unnamed = tuple(unnamed)
        self._by_action: dict[str, frozenset[int]] = {}

    def candidates(
        self, principal_view: PrincipalView, action: str, resource: str
    ) -> Iterator[tuple[CompiledStatement, PrincipalMatch]]:
        """Yield, in document order, the statements that match caller and action and may match `resource`.

        `action` is in lower case.
        """
        numbers = set(self._unnamed)
        for name in principal_view.names:
            numbers.update(self._by_name.get(name, ()))
        for number in sorted(numbers & self._about(action)):
            statement = self.statements[number]
            reach = statement.reaches(principal_view)
            if reach and statement.may_cover(resource):
                yield statement, reach

    def _about(self, action: str) -> frozenset[int]:
        found = self._by_action.get(action)
        if found is None:
            if len(self._by_action) >= CACHED_ACTIONS:
                self._by_action.clear()
            found = self._by_action[action] = frozenset(
                number
                for number, statement in enumerate(self.statements)
                if statement.effective and statement.covers_action(action)
            )
        return found


class PolicyCache:
    """Compiled policies by kind and text.

    A compiled policy depends on its text alone, so an entry is never stale. All entries are evicted when the texts
    would exceed `limit` characters. `generation` then counts up, so that other caches drop what refers to them.
    """

    def __init__(self, limit: int = CACHED_CHARACTERS) -> None:
        self._limit = limit
        self._held = 0
        self._policies: dict[tuple[PolicyKind, str], CompiledPolicy] = {}
        self.generation = 0

    def get(self, text: str, kind: PolicyKind) -> CompiledPolicy:
        """Return the compiled policy. Raises `MalformedPolicyDocumentException`; failures are not cached."""
        found = self._policies.get((kind, text))
        if found is None:
            found = CompiledPolicy(text, policy_document.parse(text, kind=kind))
            if self._held + len(text) > self._limit and self._policies:
                self._policies.clear()
                self._held = 0
                self.generation += 1
            self._held += len(text)
            self._policies[kind, text] = found
        return found

    def interned(self, text: str, kind: PolicyKind) -> str:
        """Return the equal text that the cache holds, or `text` itself."""
        found = self._policies.get((kind, text))
        return text if found is None else found.text
