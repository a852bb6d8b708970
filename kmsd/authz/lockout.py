"""Default key policy, and the policy lockout safety check for new key policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed
from kmsd.errors import MalformedPolicyDocumentException

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest


def check(request: AuthorizationRequest, new_policy: str, *, bypass: bool = False) -> None:
    """Refuse a policy under which the caller could not make the next PutKeyPolicy on the key.

    `request` is that of the current CreateKey or PutKeyPolicy. A resource `*` must already be replaced by the ARN of
    the new key. `bypass` is the member BypassPolicyLockoutSafetyCheck. Raises `MalformedPolicyDocumentException` with
    KMS's message.
    """
    if bypass:
        return
    following = replace(
        request, action="kms:PutKeyPolicy", resource_policy=new_policy, grants=(), encryption_context={}
    )
    if not isinstance(authorize(following), Allowed):
        msg = "The new key policy will not allow you to update the key policy in the future."
        raise MalformedPolicyDocumentException(msg)


def default_key_policy(account: str, partition: str) -> str:
    """Return the policy that CreateKey stores if the request has none: it lets identity policies grant permissions.

    Text and layout are AWS's (KMS API Reference, GetKeyPolicy, example).
    """
    return (
        "{\n"
        '  "Version" : "2012-10-17",\n'
        '  "Id" : "key-default-1",\n'
        '  "Statement" : [ {\n'
        '    "Sid" : "Enable IAM User Permissions",\n'
        '    "Effect" : "Allow",\n'
        '    "Principal" : {\n'
        f'      "AWS" : "arn:{partition}:iam::{account}:root"\n'
        "    },\n"
        '    "Action" : "kms:*",\n'
        '    "Resource" : "*"\n'
        "  } ]\n"
        "}"
    )
