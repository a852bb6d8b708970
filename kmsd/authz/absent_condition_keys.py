"""Condition keys that AWS documents and the daemon never provides, each with the reason."""

from __future__ import annotations

_ORGANIZATION = "there are no organizations"
_VPC = "there are no VPCs or VPC endpoints; use aws:SourceIp"
_MANAGED = "there are no such AWS services from which a session could come"
_FORWARDED = "no service acts with a caller's credentials"
_FEDERATED = "no issuer of this name is configured, or the policy is not a trust policy"
_MULTI_REGION = "multi-Region keys are not supported"
_ENCLAVE = "there are no Nitro enclaves, and Recipient is refused"
_NO_OPERATION = "the operations that have it are not supported"

NOT_PROVIDED: dict[str, str] = {
    **dict.fromkeys(
        (
            *("aws:PrincipalOrgID", "aws:PrincipalOrgPaths", "aws:ResourceOrgID", "aws:ResourceOrgPaths"),
            *("aws:SourceOrgID", "aws:SourceOrgPaths", "aws:VpceOrgID", "aws:VpceOrgPaths"),
        ),
        _ORGANIZATION,
    ),
    **dict.fromkeys(
        ("aws:SourceVpc", "aws:SourceVpcArn", "aws:SourceVpce", "aws:VpceAccount", "aws:VpcSourceIp"), _VPC
    ),
    **dict.fromkeys(
        (
            *("aws:ChatbotSourceArn", "aws:Ec2InstanceSourceVpc", "aws:Ec2InstanceSourcePrivateIPv4"),
            *("aws:SignInSessionArn", "ec2:RoleDelivery", "ec2:SourceInstanceArn", "glue:RoleAssumedBy"),
            *("glue:CredentialIssuingService", "codebuild:BuildArn", "codebuild:ProjectArn"),
            *("lambda:SourceFunctionArn", "ssm:SourceInstanceArn", "identitystore:UserId"),
        ),
        _MANAGED,
    ),
    "aws:AssumedRoot": "AssumeRoot is not supported",
    "aws:MultiFactorAuthAge": "there are no MFA devices",
    **dict.fromkeys(
        (
            *("aws:CalledVia", "aws:CalledViaFirst", "aws:CalledViaLast", "aws:CalledViaAWSMCP"),
            *("aws:ViaAWSMCPService", "aws:IsMcpServiceAction", "kms:ViaService"),
        ),
        _FORWARDED,
    ),
    "aws:referer": "the header is set by browsers, and anybody may set it",
    **dict.fromkeys(("kms:MultiRegionKeyType", "kms:PrimaryRegion", "kms:ReplicaRegion"), _MULTI_REGION),
    "kms:RecipientAttestation:${Measurement}": _ENCLAVE,
    **dict.fromkeys(
        ("kms:GranteeServicePrincipal", "kms:RetiringServicePrincipal", "kms:GrantConstraintSourceArn"),
        "CreateGrant refuses service principals and SourceArn constraints",
    ),
    **dict.fromkeys(("logs:DeliveryDestinationResourceArn", "logs:LogGeneratingResourceArns"), _NO_OPERATION),
    **dict.fromkeys(
        (
            *("sts:AWSServiceName", "sts:DurationSeconds", "sts:IdentityTokenAudience", "sts:RequestContextProviders"),
            *("sts:RequestContext/${ContextKey}", "sts:SigningAlgorithm", "sts:TaskPolicyArn"),
        ),
        _NO_OPERATION,
    ),
    **dict.fromkeys(
        (
            *("saml:${Attribute}", "accounts.google.com:${Claim}", "cognito-identity.amazonaws.com:${Claim}"),
            *("graph.facebook.com:${Claim}", "www.amazon.com:${Claim}"),
        ),
        _FEDERATED,
    ),
}
"""Reason why a Deny on a condition key could never apply, by the key's name as AWS writes it."""
