"""The key policy that a key has by default, and the check that a new one does not lock its author out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed
from kmsd.errors import MalformedPolicyDocumentException

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest


def check(request: AuthorizationRequest, new_policy: str, *, bypass: bool = False) -> None:
    """Refuse a policy under which the caller of `query` could not make the next PutKeyPolicy on the key.

    `query` is that of the CreateKey or PutKeyPolicy in hand; its resource, if it is `*`, must be replaced by the ARN
    that the new key will have. `bypass` is the request's BypassPolicyLockoutSafetyCheck.
    Raises `MalformedPolicyDocumentException`, with KMS's sentence.
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
    """What CreateKey stores when it is given no policy: the account may give permissions by identity policies.

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
