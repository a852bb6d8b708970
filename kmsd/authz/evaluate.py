"""The decision: may this caller do this, now?

1. A Deny that applies, in the resource's policy, the caller's identity policies or its session's, ends it.
2. Within the resource's account it is allowed by the resource's policy if that names the caller; or by a grant; or
   by an identity policy, if the resource's policy delegates to the account. Session policies bound all three,
   unless the session itself is named (or everyone is).
3. From another account the resource's policy and an identity policy must both allow it, within the session
   policies; or a grant must.
4. A service is allowed by the resource's policy, or by a grant, alone.

What depends only on policies, caller, action and resource is worked out once (a *case*) and remembered; conditions
and grants are looked at on every call.
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

CACHED_CASES = 4096

# "Cross-account permission is effective only for the following operations … If you give a user in a different account
# permission for other operations, those permissions have no effect" (KMS Developer Guide, Allowing users in other
# accounts to use a KMS key).
CROSS_ACCOUNT_OPERATIONS = frozenset(
    f"kms:{operation}"
    for operation in grants.USABLE | {"GetKeyRotationStatus", "ListGrants", "RetireGrant", "RevokeGrant"}
)


class AllowStatements:
    """The statements of one layer that can allow a request."""

    __slots__ = ("conditional", "unconditional")

    def __init__(self) -> None:
        self.unconditional: str | None = None
        """The first that does, whatever the request's conditions."""
        self.conditional: list[tuple[str, CompiledStatement]] = []

    def add(self, label: str, statement: CompiledStatement) -> None:
        """Count `statement`, which fits caller and action, and may fit the resource."""
        if statement.unconditional:
            self.unconditional = self.unconditional or label
        else:
            self.conditional.append((label, statement))

    def by(self, resource: str, request_context: RequestContext | None) -> str | None:
        """What allows; None: nothing does. Without facts, only what does so under any conditions."""
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
    """All that policies, caller, action and resource decide by themselves."""

    layer: PolicyType
    """What the resource's policy is called."""
    same_account: bool
    principal_view: PrincipalView
    grantees: tuple[str, ...]
    operation: str | None
    own: AllowStatements
    entity: AllowStatements
    account: AllowStatements
    identity: AllowStatements
    session: AllowStatements | None
    """None: no session policy bounds the caller."""
    denials: list[tuple[PolicyType, str, CompiledStatement]]
    """Deny statements that apply if their conditions hold."""
    ended: Denied | None = None
    """A Deny without conditions applies, or a policy cannot be read."""
    unreadable: bool = False
    unconditional: Decision | None = None
    """The decision, where neither conditions nor (if it is a refusal) grants can change it."""


_policies = PolicyCache()


class PartialDecisionCache:
    """Cases by all that goes into them, the policies by their text: an entry is never wrong.

    All end when there are `CACHED_CASES`, and when the compiled policies end, which they would keep alive.
    """

    __slots__ = ("generation", "known")

    def __init__(self) -> None:
        self.generation = 0
        self.known: dict[Hashable, PartialDecision] = {}

    def put(self, key: Hashable, case: PartialDecision) -> None:
        """Keep `case`."""
        if len(self.known) >= CACHED_CASES or _policies.generation != self.generation:
            self.known.clear()
            self.generation = _policies.generation
        self.known[key] = case


_cases = PartialDecisionCache()


def authorize(request: AuthorizationRequest) -> Decision:
    """Whether `query` is allowed, and by what; or why not. Never raises: what cannot be read allows nothing."""
    case = _partial_decision_of(request)
    settled = case.unconditional
    if settled is not None and (not request.grants or case.ended is not None or type(settled) is Allowed):
        return settled
    return decide(case, request)


def is_unconditional(request: AuthorizationRequest, decision: Decision) -> bool:
    """Whether `decision` follows from policies, caller, action and resource alone, whatever else a request brings."""
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
        # Enum members hash slowly; these are what a case distinguishes.
        kind is PrincipalType.ASSUMED_ROLE,
        kind is PrincipalType.SERVICE,
        kind is PrincipalType.ACCOUNT,
    )
    case = _cases.known.get(key)
    if case is None:
        case = partially_evaluate(request)
        if not case.unreadable:
            # The texts that the compiled policies hold, not the query's: equal texts are kept once.
            _cases.put((*key[:3], *_cached_texts(request, case.layer), *key[6:]), case)
    return case


def decide(case: PartialDecision, request: AuthorizationRequest) -> Decision:
    """The decision of a case for the conditions and grants of one request."""
    request_context = RequestContext(request)
    if (denied := explicit_denial(case, request, request_context)) is not None:
        return denied
    by_policy = _weigh(case, request, request_context)
    if isinstance(by_policy, Allowed) or not request.grants or case.operation is None:
        return by_policy
    return _by_grant(case, request, request_context) or by_policy


def explicit_denial(
    case: PartialDecision, request: AuthorizationRequest, request_context: RequestContext
) -> Denied | None:
    """The Deny that applies, or that must be supposed in a policy that cannot be read."""
    if case.ended is not None:
        return case.ended
    for layer, label, statement in case.denials:
        if statement.holds(request.resource, request_context):
            return denial_messages.denied(request, layer, f"{label} denies")
    return None


def partially_evaluate(request: AuthorizationRequest) -> PartialDecision:
    """Work out the case of a query, with nothing remembered but the compiled policies."""
    caller = request.caller
    principal_view = PrincipalView(caller)
    trust = request.action.startswith("sts:")
    same_account = not principal_view.is_service and caller.account == request.resource_account
    case = PartialDecision(
        layer=PolicyType.TRUST if trust else PolicyType.RESOURCE,
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
        # Resources without a policy are their account's to give.
        case.account.unconditional = "account" if same_account else None
    else:
        by_reach = {
            PrincipalMatch.EXACT: case.own,
            PrincipalMatch.ENTITY: case.entity,
            PrincipalMatch.ACCOUNT: case.account,
        }
        kind = PolicyKind.TRUST if trust else PolicyKind.KEY
        _read(case, request, (request.resource_policy,), kind, by_reach)
    if principal_view.is_root:
        # "… with the exception of the AWS account root user, which has full access": to what is its account's to give.
        case.identity.unconditional = "account-root"
    if not principal_view.is_service:
        _read(case, request, caller.identity_policies, PolicyKind.IDENTITY, {PrincipalMatch.EXACT: case.identity})
    if case.session is not None:
        _read(case, request, caller.session_policies or (), PolicyKind.SESSION, {PrincipalMatch.EXACT: case.session})
    _without_conditions(case, request)
    return case


def _read(
    case: PartialDecision,
    request: AuthorizationRequest,
    texts: tuple[str, ...],
    kind: PolicyKind,
    by_reach: dict[PrincipalMatch, AllowStatements],
) -> None:
    """Sort the statements of one kind of policy that can apply into the case."""
    layer = POLICY_TYPES[kind]
    for text in texts:
        policy = _compiled(case, request, layer, text, kind)
        if policy is None:
            return
        for statement, reach in policy.candidates(case.principal_view, request.action.lower(), request.resource):
            label = f"{kind.value}:{statement.source.label}"
            if statement.allows:
                by_reach[reach].add(label, statement)
            elif not statement.unconditional:
                case.denials.append((layer, label, statement))
            elif case.ended is None:
                case.ended = denial_messages.denied(request, layer, f"{label} denies")


def _compiled(
    case: PartialDecision, request: AuthorizationRequest, layer: PolicyType, text: str, kind: PolicyKind
) -> CompiledPolicy | None:
    try:
        return _policies.get(text, kind)
    except MalformedPolicyDocumentException as error:
        # Policies are parsed before they are stored. One that cannot be read may hold a Deny: nothing is allowed.
        case.ended = denial_messages.not_allowed(request, layer, f"{kind.value} cannot be read: {error.message}")
        case.unreadable = True
        return None


def _weigh(case: PartialDecision, request: AuthorizationRequest, request_context: RequestContext | None) -> Decision:
    """What the Allow statements come to, no Deny having applied. `facts=None`: under any conditions."""
    resource = request.resource
    if not case.same_account and not case.principal_view.is_service:
        return _weigh_across(case, request, request_context)
    own = case.own.by(resource, request_context)
    if own is not None:
        return Allowed(own)
    bounded = case.entity.by(resource, request_context)
    delegated = case.account.by(resource, request_context)
    if bounded is None and delegated is not None:
        bounded = case.identity.by(resource, request_context)
        if bounded is None:
            return denial_messages.not_allowed(
                request, PolicyType.IDENTITY, f"{delegated} delegates, no identity-policy allows"
            )
    if bounded is None:
        return denial_messages.not_allowed(request, case.layer, "no resource-based policy allows")
    if case.session is not None and case.session.by(resource, request_context) is None:
        return denial_messages.not_allowed(request, PolicyType.SESSION, f"{bounded} allows, no session-policy does")
    return Allowed(bounded)


def _weigh_across(
    case: PartialDecision, request: AuthorizationRequest, request_context: RequestContext | None
) -> Decision:
    # "The request is allowed only if both evaluations return a decision of Allow" (Cross-account policy evaluation
    # logic): the exemption of sessions that are named themselves is for the same account.
    resource = request.resource
    theirs = (
        case.own.by(resource, request_context)
        or case.entity.by(resource, request_context)
        or case.account.by(resource, request_context)
    )
    if theirs is None:
        return denial_messages.not_allowed(request, case.layer, "no resource-based policy allows, from another account")
    if request.action.startswith("kms:") and request.action not in CROSS_ACCOUNT_OPERATIONS:
        return denial_messages.not_allowed(request, case.layer, "this action is not for other accounts")
    ours = case.identity.by(resource, request_context)
    if ours is None:
        return denial_messages.not_allowed(request, PolicyType.IDENTITY, f"{theirs} allows, no identity-policy does")
    if case.session is not None and case.session.by(resource, request_context) is None:
        return denial_messages.not_allowed(
            request, PolicyType.SESSION, f"{theirs} and {ours} allow, no session-policy does"
        )
    return Allowed(f"{theirs}+{ours}")


def _by_grant(case: PartialDecision, request: AuthorizationRequest, request_context: RequestContext) -> Decision | None:
    """What the grants come to; None: none of them fits."""
    operation = case.operation or ""
    fits = grants.fitting(request.grants, case.grantees, operation, request.encryption_context, request.resource)
    within = case.session is None or case.session.by(request.resource, request_context) is not None
    held, blocked = list[str](), None
    for grant in fits:
        # As in a key policy, a session is bounded unless it is itself the grantee, in its own account.
        if within or (
            case.same_account and case.principal_view.is_session and grant.grantee_principal == case.principal_view.arn
        ):
            held.append(grant.grant_id)
            if operation != "CreateGrant":
                break  # only delegation needs to know them all
        else:
            blocked = grant.grant_id
    if held:
        return Allowed(f"grant:{held[0]}", tuple(held))
    if blocked is not None:
        return denial_messages.not_allowed(
            request, PolicyType.SESSION, f"grant:{blocked} allows, no session-policy does"
        )
    return None


def _without_conditions(case: PartialDecision, request: AuthorizationRequest) -> None:
    """Decide the case, if the request's conditions cannot change it."""
    if case.ended is not None:
        case.unconditional = case.ended
    elif not case.denials:
        certain = _weigh(case, request, None)
        layers = (case.own, case.entity, case.account, case.identity, case.session)
        # More conditions met only allow more: an Allow without them stands; a refusal does if there are none.
        if isinstance(certain, Allowed) or not any(layer is not None and layer.conditional for layer in layers):
            case.unconditional = certain


def _cached_texts(
    request: AuthorizationRequest, layer: PolicyType
) -> tuple[str | None, tuple[str, ...], tuple[str, ...] | None]:
    """Resource, identity and session policies of the query, as the cache of compiled policies holds them."""
    caller, kind = request.caller, PolicyKind.TRUST if layer is PolicyType.TRUST else PolicyKind.KEY
    policy = request.resource_policy
    sessions = caller.session_policies
    return (
        None if policy is None else _policies.held_bytes(policy, kind),
        tuple(_policies.held_bytes(text, PolicyKind.IDENTITY) for text in caller.identity_policies),
        None if sessions is None else tuple(_policies.held_bytes(text, PolicyKind.SESSION) for text in sessions),
    )
