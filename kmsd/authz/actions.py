"""AWS's actions of KMS, CloudWatch Logs and STS, to report misspelt actions to the author of a policy.

An action that no service has silently allows and denies nothing. An action that AWS has and kmsd does not offer is
accepted: a policy may be written for both.
"""

from __future__ import annotations

from collections.abc import Iterator

from kmsd.authz.wildcard import Pattern
from kmsd.domain.near import did_you_mean, nearest
from kmsd.domain.policy import Policy

# Service Authorization Reference: Actions, resources, and condition keys for AWS Key Management Service, Amazon
# CloudWatch Logs, AWS Security Token Service.
_NAMES = {
    "kms": """
        CancelKeyDeletion ConnectCustomKeyStore CreateAlias CreateCustomKeyStore CreateGrant CreateKey
        Decapsulate Decrypt DeleteAlias DeleteCustomKeyStore DeleteImportedKeyMaterial DeriveSharedSecret
        DescribeCustomKeyStores DescribeKey DisableKey DisableKeyRotation DisconnectCustomKeyStore EnableKey
        EnableKeyRotation Encapsulate Encrypt GenerateDataKey GenerateDataKeyPair
        GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext GenerateMac GenerateRandom
        GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus GetParametersForImport GetPublicKey
        ImportKeyMaterial ListAliases ListGrants ListKeyPolicies ListKeyRotations ListKeys ListResourceTags
        ListRetirableGrants PutKeyPolicy ReEncryptFrom ReEncryptTo ReplicateKey RetireGrant RevokeGrant
        RotateKeyOnDemand ScheduleKeyDeletion Sign SynchronizeMultiRegionKey TagResource UntagResource
        UpdateAlias UpdateCustomKeyStore UpdateKeyDescription UpdatePrimaryRegion Verify VerifyMac
    """,
    "logs": """
        AssociateKmsKey AssociateSourceToS3TableIntegration CancelExportTask CancelImportTask CreateDelivery
        CreateExportTask CreateImportTask CreateLogAnomalyDetector CreateLogDelivery CreateLogGroup
        CreateLogStream CreateLookupTable CreateScheduledQuery DeleteAccountPolicy
        DeleteDataProtectionPolicy DeleteDelivery DeleteDeliveryDestination DeleteDeliveryDestinationPolicy
        DeleteDeliverySource DeleteDestination DeleteIndexPolicy DeleteIntegration DeleteLogAnomalyDetector
        DeleteLogDelivery DeleteLogGroup DeleteLogStream DeleteLookupTable DeleteMetricFilter
        DeleteQueryDefinition DeleteResourcePolicy DeleteRetentionPolicy DeleteScheduledQuery
        DeleteSubscriptionFilter DeleteSyslogConfiguration DeleteTransformer DescribeAccountPolicies
        DescribeConfigurationTemplates DescribeDeliveries DescribeDeliveryDestinations
        DescribeDeliverySources DescribeDestinations DescribeExportTasks DescribeFieldIndexes
        DescribeImportTaskBatches DescribeImportTasks DescribeIndexPolicies DescribeLogGroups
        DescribeLogStreams DescribeLookupTables DescribeMetricFilters DescribeQueries
        DescribeQueryDefinitions DescribeResourcePolicies DescribeSubscriptionFilters DisassociateKmsKey
        DisassociateSourceFromS3TableIntegration FilterLogEvents GetDataProtectionPolicy GetDelivery
        GetDeliveryDestination GetDeliveryDestinationPolicy GetDeliverySource GetIntegration
        GetLogAnomalyDetector GetLogDelivery GetLogEvents GetLogFields GetLogGroupFields GetLogObject
        GetLogRecord GetLookupTable GetQueryResults GetScheduledQuery GetScheduledQueryHistory
        GetStorageTierPolicy GetTransformer Link ListAggregateLogGroupSummaries ListAnomalies
        ListEntitiesForLogGroup ListIntegrations ListLogAnomalyDetectors ListLogDeliveries ListLogGroups
        ListLogGroupsForEntity ListLogGroupsForQuery ListScheduledQueries ListSourcesForS3TableIntegration
        ListSyslogConfigurations ListTagsForResource ListTagsLogGroup PutAccountPolicy
        PutBearerTokenAuthentication PutDataProtectionPolicy PutDeliveryDestination
        PutDeliveryDestinationPolicy PutDeliverySource PutDestination PutDestinationPolicy PutIndexPolicy
        PutIntegration PutLogEvents PutLogGroupDeletionProtection PutMetricFilter PutQueryDefinition
        PutResourcePolicy PutRetentionPolicy PutStorageTierPolicy PutSubscriptionFilter
        PutSyslogConfiguration PutTransformer StartLiveTail StartQuery StopLiveTail StopQuery TagLogGroup
        TagResource TestMetricFilter TestTransformer Unmask UntagLogGroup UntagResource UpdateAnomaly
        UpdateDeliveryConfiguration UpdateLogAnomalyDetector UpdateLogDelivery UpdateLookupTable
        UpdateScheduledQuery
    """,
    "sts": """
        AssumeRole AssumeRoleWithSAML AssumeRoleWithWebIdentity AssumeRoot DecodeAuthorizationMessage
        GetAccessKeyInfo GetCallerIdentity GetDelegatedAccessToken GetFederationToken GetScopedCredentials
        GetServiceBearerToken GetSessionToken GetWebIdentityToken SetContext SetSourceIdentity
        TagGetFederationToken TagSession
    """,
}
ACTIONS = {service: tuple(names.split()) for service, names in _NAMES.items()}
"""Action names by service prefix."""


def complaint(action: str) -> str | None:
    """Return what is wrong with an action of a policy, or None if some service has it. The action may have wildcards.

    Actions of services other than KMS, CloudWatch Logs and STS are not checked.
    """
    service, _, name = action.partition(":")
    if service == "*":
        return None
    known = ACTIONS.get(service.lower())
    if known is None:
        meant = nearest(service, ACTIONS)
        return None if meant is None else f"{action} is an action of no service here; did you mean {meant}:{name}?"
    pattern = Pattern.of(name.lower())
    if any(pattern.matches(one.lower()) for one in known):
        return None
    whole = [f"{service.lower()}:{one}" for one in known]
    return f"{action} is not an action of AWS{did_you_mean(action, whole)}"


def complaints(policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield the place and the complaint for each action of a policy that no service has."""
    for statement in policy.statements:
        for action in statement.actions or ():
            if (found := complaint(action)) is not None:
                yield f"Statement[{statement.number}]", found
