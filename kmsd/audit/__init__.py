"""Contents of audit records: CloudTrail events, one for each call, allowed or refused. docs/audit.md lists the fields.

A record shows every member of request and response whose shape is not secret.
"""

from kmsd.audit.calls import KEY, Outcome, record_of_call, record_of_refusal
from kmsd.audit.job_acts import record_of_service_event
from kmsd.audit.operator_acts import Actor, record_of_administration
from kmsd.audit.record import rfc3339, user_identity
from kmsd.audit.redaction import redact, shown_members
from kmsd.audit.refusal_tally import RefusalSampler, record_of_refusals

__all__ = [
    "KEY",
    "Actor",
    "Outcome",
    "RefusalSampler",
    "record_of_administration",
    "record_of_call",
    "record_of_refusal",
    "record_of_refusals",
    "record_of_service_event",
    "redact",
    "rfc3339",
    "shown_members",
    "user_identity",
]
