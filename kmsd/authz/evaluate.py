"""Authorisation decision: policies and grants of one request evaluated to Allowed or Denied.

1. An applicable Deny in the resource's policy, the identity policies or the session policies refuses the request.
2. Within the resource's account, one of three allows it. These are the resource's policy, if it names the caller; a
   grant; an identity policy, if the resource's policy delegates to the account. Session policies limit all three,
   unless the resource's policy or the grant names the session itself (or the policy everyone).
3. From another account, the resource's policy and an identity policy must both allow it, or a grant must. Session
   policies limit both.
4. A service needs only the resource's policy or a grant.

The part that depends only on policies, caller, action and resource is evaluated once and cached (a *partial
decision*). Conditions and grants are evaluated on every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.authz import denial_messages, grants
from kmsd.authz.compiled_policy import PolicyCache, PrincipalMatch, PrincipalView
from kmsd.authz.denial_messages import PolicyType
from kmsd.authz.request import Allowed, Denied
from kmsd.authz.request_context import RequestContext
from kmsd.domain.policy import PolicyKind
from kmsd.domain.principal import PrincipalType
from kmsd.errors import MalformedPolicyDocumentException

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kmsd.authz.compiled_policy import CompiledPolicy, CompiledStatement
    from kmsd.authz.request import AuthorizationRequest, Decision

MAX_PARTIAL_DECISIONS = 4096

# "Cross-account permission is effective only for the following operations … If you give a user in a different account
# permission for other operations, those permissions have no effect" (KMS Developer Guide, Allowing users in other
# accounts to use a KMS key).
CROSS_ACCOUNT_OPERATIONS = frozenset(
    f"kms:{operation}"
    for operation in grants.USABLE | {"GetKeyRotationStatus", "ListGrants", "RetireGrant", "RevokeGrant"}
)


class AllowStatements:
    """The Allow statements of one type of policy that can apply to a request."""

    __slots__ = ("conditional", "unconditional")

    def __init__(self) -> None:
        self.unconditional: str | None = None
        """Label of the first statement that allows the request under any conditions."""
        self.conditional: list[tuple[str, CompiledStatement]] = []

    def add(self, label: str, statement: CompiledStatement) -> None:
        """Add `statement`, which matches caller and action and may match the resource."""
        if statement.unconditional:
            self.unconditional = self.unconditional or label
        else:
            self.conditional.append((label, statement))

    def by(self, resource: str, request_context: RequestContext | None) -> str | None:
        """Return the label of the statement that allows the request, or None.

        Without a context, only statements count that allow it under any conditions.
        """
        if self.unconditional is not None or request_context is None:
            return self.unconditional
        return next(
            (label for label, statement in self.conditional if statement.holds(resource, request_context)), None
        )


POLICY_TYPES = {
    PolicyKind.KEY: PolicyType.RESOURCE,
    PolicyKind.TRUST: PolicyType.TRUST,
    PolicyKind.IDENTITY: PolicyType.IDENTITY,
    PolicyKind.SESSION: PolicyType.SESSION,
}


class PartialDecision(msgspec.Struct):
    """The part of a decision that policies, caller, action and resource determine."""

    policy_type: PolicyType
    """Type of the resource's policy."""
    same_account: bool
    principal_view: PrincipalView
    grantees: tuple[str, ...]
    operation: str | None
    own: AllowStatements
    entity: AllowStatements
    account: AllowStatements
    identity: AllowStatements
    session: AllowStatements | None
    """None if no session policy limits the caller."""
    denials: list[tuple[PolicyType, str, CompiledStatement]]
    """Deny statements that apply if their conditions hold."""
    denied: Denied | None = None
    """Set if a Deny without conditions applies or a policy cannot be read."""
    unreadable: bool = False
    unconditional: Decision | None = None
    """The decision, if conditions cannot change it. A grant can still change a refusal, unless `denied` is set."""


_policies = PolicyCache()


class PartialDecisionCache:
    """Partial decisions by all their inputs, policies by their text: an entry is never stale.

    All entries are evicted when there are `MAX_PARTIAL_DECISIONS`. They are also evicted with the compiled policies,
    which they would otherwise keep alive.
    """

    __slots__ = ("generation", "known")

    def __init__(self) -> None:
        self.generation = 0
        self.known: dict[Hashable, PartialDecision] = {}

    def put(self, key: Hashable, partial: PartialDecision) -> None:
        """Cache `partial` under `key`."""
        if len(self.known) >= MAX_PARTIAL_DECISIONS or _policies.generation != self.generation:
            self.known.clear()
            self.generation = _policies.generation
        self.known[key] = partial


_partial_decisions = PartialDecisionCache()


def authorize(request: AuthorizationRequest) -> Decision:
    """Return Allowed with its source, or Denied with the reason. Never raises: an unreadable policy allows nothing."""
    partial = _partial_decision_of(request)
    decision = partial.unconditional
    if decision is not None and (not request.grants or partial.denied is not None or type(decision) is Allowed):
        return decision
    return decide(partial, request)


def is_unconditional(request: AuthorizationRequest, decision: Decision) -> bool:
    """True if `decision` depends on policies, caller, action and resource alone."""
    return decision is _partial_decision_of(request).unconditional


def _partial_decision_of(request: AuthorizationRequest) -> PartialDecision:
    caller = request.caller
    kind = caller.principal_type
    key = (
        request.resource,
        request.action,
        caller.arn,
        request.resource_policy,
        caller.identity_policies,
        caller.session_policies,
        caller.role_arn,
        caller.account,
        request.resource_account,
        # Enum members hash slowly; a partial decision distinguishes only these types.
        kind is PrincipalType.ASSUMED_ROLE,
        kind is PrincipalType.SERVICE,
        kind is PrincipalType.ACCOUNT,
    )
    partial = _partial_decisions.known.get(key)
    if partial is None:
        partial = partially_evaluate(request)
        if not partial.unreadable:
            # Store the texts that the compiled policies hold, not the request's, so that equal texts are kept once.
            _partial_decisions.put((*key[:3], *_cached_texts(request, partial.policy_type), *key[6:]), partial)
    return partial


def decide(partial: PartialDecision, request: AuthorizationRequest) -> Decision:
    """Complete a partial decision with the conditions and grants of one request."""
    request_context = RequestContext(request)
    if (denied := explicit_denial(partial, request, request_context)) is not None:
        return denied
    by_policy = _weigh(partial, request, request_context)
    if isinstance(by_policy, Allowed) or not request.grants or partial.operation is None:
        return by_policy
    return _by_grant(partial, request, request_context) or by_policy


def explicit_denial(
    partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext
) -> Denied | None:
    """Return the refusal by an applicable Deny or by an unreadable policy, which may hold a Deny; None if neither."""
    if partial.denied is not None:
        return partial.denied
    for policy_type, label, statement in partial.denials:
        if statement.holds(request.resource, request_context):
            return denial_messages.denied(request, policy_type, f"{label} denies")
    return None


def partially_evaluate(request: AuthorizationRequest) -> PartialDecision:
    """Compute the partial decision of a request without the cache of partial decisions."""
    caller = request.caller
    principal_view = PrincipalView(caller)
    trust = request.action.startswith("sts:")
    same_account = not principal_view.is_service and caller.account == request.resource_account
    partial = PartialDecision(
        policy_type=PolicyType.TRUST if trust else PolicyType.RESOURCE,
        same_account=same_account,
        principal_view=principal_view,
        grantees=caller.grantee_names,
        operation=grants.operation_of(request.action),
        own=AllowStatements(),
        entity=AllowStatements(),
        account=AllowStatements(),
        identity=AllowStatements(),
        session=None if caller.session_policies is None else AllowStatements(),
        denials=[],
    )
    if request.resource_policy is None:
        # Without a resource policy, the identity policies of the resource's account decide.
        partial.account.unconditional = "account" if same_account else None
    else:
        by_reach = {
            PrincipalMatch.EXACT: partial.own,
            PrincipalMatch.ENTITY: partial.entity,
            PrincipalMatch.ACCOUNT: partial.account,
        }
        kind = PolicyKind.TRUST if trust else PolicyKind.KEY
        _read(partial, request, (request.resource_policy,), kind, by_reach)
    if principal_view.is_root:
        # "… with the exception of the AWS account root user, which has full access": root needs no identity policy.
        partial.identity.unconditional = "account-root"
    if not principal_view.is_service:
        _read(partial, request, caller.identity_policies, PolicyKind.IDENTITY, {PrincipalMatch.EXACT: partial.identity})
    if partial.session is not None:
        texts = caller.session_policies or ()
        _read(partial, request, texts, PolicyKind.SESSION, {PrincipalMatch.EXACT: partial.session})
    _without_conditions(partial, request)
    return partial


def _read(
    partial: PartialDecision,
    request: AuthorizationRequest,
    texts: tuple[str, ...],
    kind: PolicyKind,
    by_reach: dict[PrincipalMatch, AllowStatements],
) -> None:
    """Add the statements of one kind of policy that can apply to the partial decision."""
    policy_type = POLICY_TYPES[kind]
    for text in texts:
        policy = _compiled(partial, request, policy_type, text, kind)
        if policy is None:
            return
        for statement, reach in policy.candidates(partial.principal_view, request.action.lower(), request.resource):
            label = f"{kind.value}:{statement.source.label}"
            if statement.allows:
                by_reach[reach].add(label, statement)
            elif not statement.unconditional:
                partial.denials.append((policy_type, label, statement))
            elif partial.denied is None:
                partial.denied = denial_messages.denied(request, policy_type, f"{label} denies")


def _compiled(
    partial: PartialDecision, request: AuthorizationRequest, policy_type: PolicyType, text: str, kind: PolicyKind
) -> CompiledPolicy | None:
    try:
        return _policies.get(text, kind)
    except MalformedPolicyDocumentException as error:
        # Policies are parsed before they are stored. One that cannot be read may hold a Deny: nothing is allowed.
        partial.denied = denial_messages.not_allowed(
            request, policy_type, f"{kind.value} cannot be read: {error.message}"
        )
        partial.unreadable = True
        return None


def _weigh(partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext | None) -> Decision:
    """Return the decision of the Allow statements, if no Deny applies. `request_context=None`: under any conditions."""
    resource = request.resource
    if not partial.same_account and not partial.principal_view.is_service:
        return _weigh_across(partial, request, request_context)
    own = partial.own.by(resource, request_context)
    if own is not None:
        return Allowed(own)
    bounded = partial.entity.by(resource, request_context)
    delegated = partial.account.by(resource, request_context)
    if bounded is None and delegated is not None:
        bounded = partial.identity.by(resource, request_context)
        if bounded is None:
            return denial_messages.not_allowed(
                request, PolicyType.IDENTITY, f"{delegated} delegates, no identity-policy allows"
            )
    if bounded is None:
        return denial_messages.not_allowed(request, partial.policy_type, "no resource-based policy allows")
    if partial.session is not None and partial.session.by(resource, request_context) is None:
        return denial_messages.not_allowed(request, PolicyType.SESSION, f"{bounded} allows, no session-policy does")
    return Allowed(bounded)


def _weigh_across(
    partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext | None
) -> Decision:
    # "The request is allowed only if both evaluations return a decision of Allow" (Cross-account policy evaluation
    # logic). The exemption of a session that is named itself holds only within the same account.
    resource = request.resource
    theirs = (
        partial.own.by(resource, request_context)
        or partial.entity.by(resource, request_context)
        or partial.account.by(resource, request_context)
    )
    if theirs is None:
        return denial_messages.not_allowed(
            request, partial.policy_type, "no resource-based policy allows, from another account"
        )
    if request.action.startswith("kms:") and request.action not in CROSS_ACCOUNT_OPERATIONS:
        return denial_messages.not_allowed(request, partial.policy_type, "this action is not for other accounts")
    ours = partial.identity.by(resource, request_context)
    if ours is None:
        return denial_messages.not_allowed(request, PolicyType.IDENTITY, f"{theirs} allows, no identity-policy does")
    if partial.session is not None and partial.session.by(resource, request_context) is None:
        return denial_messages.not_allowed(
            request, PolicyType.SESSION, f"{theirs} and {ours} allow, no session-policy does"
        )
    return Allowed(f"{theirs}+{ours}")


def _by_grant(
    partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext
) -> Decision | None:
    """Return the decision of the grants; None if none of them matches."""
    operation = partial.operation or ""
    fits = grants.fitting(request.grants, partial.grantees, operation, request.encryption_context, request.resource)
    within = partial.session is None or partial.session.by(request.resource, request_context) is not None
    held, blocked = list[str](), None
    for grant in fits:
        # As with a key policy, session policies limit a session unless it is itself the grantee, in its own account.
        if within or (
            partial.same_account
            and partial.principal_view.is_session
            and grant.grantee_principal == partial.principal_view.arn
        ):
            held.append(grant.grant_id)
            if operation != "CreateGrant":
                break  # only delegation needs all of them
        else:
            blocked = grant.grant_id
    if held:
        return Allowed(f"grant:{held[0]}", tuple(held))
    if blocked is not None:
        return denial_messages.not_allowed(
            request, PolicyType.SESSION, f"grant:{blocked} allows, no session-policy does"
        )
    return None


def _without_conditions(partial: PartialDecision, request: AuthorizationRequest) -> None:
    """Set the unconditional decision, if the request's conditions cannot change it."""
    if partial.denied is not None:
        partial.unconditional = partial.denied
    elif not partial.denials:
        certain = _weigh(partial, request, None)
        sources = (partial.own, partial.entity, partial.account, partial.identity, partial.session)
        # Further conditions that hold can only allow more. So an Allow is final, and a refusal is final if no
        # statement has conditions.
        if isinstance(certain, Allowed) or not any(source is not None and source.conditional for source in sources):
            partial.unconditional = certain


def _cached_texts(
    request: AuthorizationRequest, policy_type: PolicyType
) -> tuple[str | None, tuple[str, ...], tuple[str, ...] | None]:
    """Return the texts of the request's policies as the cache of compiled policies holds them."""
    caller, kind = request.caller, PolicyKind.TRUST if policy_type is PolicyType.TRUST else PolicyKind.KEY
    policy = request.resource_policy
    sessions = caller.session_policies
    return (
        None if policy is None else _policies.interned(policy, kind),
        tuple(_policies.interned(text, PolicyKind.IDENTITY) for text in caller.identity_policies),
        None if sessions is None else tuple(_policies.interned(text, PolicyKind.SESSION) for text in sessions),
    )
