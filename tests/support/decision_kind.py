"""The kind of a decision."""

from __future__ import annotations

import re

from kmsd.authz.request import Allowed, Decision

LACKS = {"resource-based": "resource", "role": "resource", "identity-based": "identity", "session": "session"}


def sort_of(decision: Decision) -> str:
    """`allow`, `explicit`, or which sort of policy lacks an Allow, read from AWS's sentence."""
    if isinstance(decision, Allowed):
        return "allow"
    if " with an explicit deny in " in decision.message:
        return "explicit"
    found = re.search(r" because no (\S+) .*policy allows the (\S+) action$", decision.message)
    assert found is not None, decision.message
    return LACKS[found[1]]
