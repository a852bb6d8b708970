"""All errors that a client may see, with their wire names and HTTP statuses.

    ServiceError
    ├── (400) one class for each documented client error; the class name is the wire name
    ├── (404) UnknownOperationException for a method or path that no operation has
    ├── (408) RequestTimeoutException
    ├── (413) RequestEntityTooLargeException
    └── (500) DependencyTimeoutException, KeyUnavailableException, KMSInternalException, ServiceUnavailableException

Errors are raised, never returned. Only `kmsd.wire` renders them. The names follow the specification's error tables.
For the reference's "Common Errors" they are those of the JSON protocol (docs/divergences.md lists the pairs).
"""

from __future__ import annotations


class ServiceError(Exception):
    """An answer other than success.

    `message` is for the client. `detail` is for the daemon's log only: it may state the cause, but no secret.
    """

    status: int = 400

    def __init__(self, message: str = "", *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    @property
    def code(self) -> str:
        """Return the name sent as `__type`."""
        return type(self).__name__


# --- Errors before an operation is reached ----------------------------------------------------------


class AccessDeniedException(ServiceError):
    """The caller is authenticated but not authorised."""


class ExpiredTokenException(ServiceError):
    """The session token has expired."""


class IncompleteSignatureException(ServiceError):
    """A part of the request's signature is missing or malformed."""


class InvalidSignatureException(ServiceError):
    """The signature does not match, is too old, or is not yet valid."""


class MalformedHttpRequestException(ServiceError):
    """The received bytes are not an HTTP request that this server accepts."""


class MissingAuthenticationTokenException(ServiceError):
    """The request has no signature."""


class RequestEntityTooLargeException(ServiceError):
    """The body is larger than any request of the API can be."""

    status = 413


class RequestTimeoutException(ServiceError):
    """The complete request did not arrive in time."""

    status = 408


class SerializationException(ServiceError):
    """The body is not JSON, or a member has the wrong JSON type."""


class ThrottlingException(ServiceError):
    """The caller exceeds a configured rate, or the daemon sheds load."""


class UnknownOperationException(ServiceError):
    """No such operation. The status is 404 for a method or path that no operation has, as AWS answers there."""

    def __init__(self, message: str = "", *, detail: str = "", status: int = 400) -> None:
        super().__init__(message, detail=detail)
        self.status = status


class UnrecognizedClientException(ServiceError):
    """The access key is unknown or disabled, or kmsd did not issue the session token."""


class ValidationException(ServiceError):
    """A member violates a constraint of the API."""


# --- Key Management Service -------------------------------------------------------------------------


class AlreadyExistsException(ServiceError):
    """The resource already exists."""


class DependencyTimeoutException(ServiceError):
    """The token did not answer in time; the request can be retried."""

    status = 500


class DisabledException(ServiceError):
    """The key is disabled."""


class DryRunOperationException(ServiceError):
    """The request would have succeeded, but `DryRun` was given."""


class ExpiredImportTokenException(ServiceError):
    """The import token is older than 24 hours."""


class IncorrectKeyException(ServiceError):
    """The ciphertext was encrypted under another key than the request names."""


class IncorrectKeyMaterialException(ServiceError):
    """The key material is not the one that was imported into this key before."""


class InvalidAliasNameException(ServiceError):
    """The alias name is malformed or reserved."""


class InvalidArnException(ServiceError):
    """The ARN is malformed, or names another partition, region or kind of resource."""


class InvalidCiphertextException(ServiceError):
    """The blob is not kmsd's, was changed, or has another encryption context."""


class InvalidGrantIdException(ServiceError):
    """The key has no such grant."""


class InvalidGrantTokenException(ServiceError):
    """kmsd did not issue the grant token, or its grant no longer exists."""


class InvalidImportTokenException(ServiceError):
    """kmsd did not issue the import token, or it belongs to another key or wrapping key."""


class InvalidKeyUsageException(ServiceError):
    """The key's usage or algorithm does not fit the operation."""


class InvalidMarkerException(ServiceError):
    """This operation did not give the marker to this caller."""


class KeyUnavailableException(ServiceError):
    """The key exists, but its material cannot be reached now; the request can be retried."""

    status = 500


class KMSInternalException(ServiceError):
    """An internal failure. Nothing was changed; the request can be retried."""

    status = 500


class KMSInvalidMacException(ServiceError):
    """The MAC is not that of the message under this key."""


class KMSInvalidSignatureException(ServiceError):
    """The signature is not that of the message under this key."""


class KMSInvalidStateException(ServiceError):
    """The key's state does not allow the operation."""


class LimitExceededException(ServiceError):
    """A resource limit is reached."""


class MalformedPolicyDocumentException(ServiceError):
    """The policy is invalid; the message names the place."""


class NotFoundException(ServiceError):
    """No such key, alias or grant."""


class TagException(ServiceError):
    """The tags are not valid for a key."""


class ExpiredWebIdentityTokenException(ServiceError):
    """The web token has expired. On the wire: ExpiredTokenException of STS."""


class IDPCommunicationErrorException(ServiceError):
    """The keys of a web token's issuer cannot be fetched now."""


class InvalidIdentityTokenException(ServiceError):
    """A web token is malformed, not of a configured issuer, or its signature is not valid."""


class UnsupportedOperationException(ServiceError):
    """This key or this token does not support the operation."""


# --- CloudWatch Logs --------------------------------------------------------------------------------


class InvalidParameterException(ServiceError):
    """A member violates a constraint of the API or conflicts with another; Logs' name for ValidationException."""


class MalformedQueryException(ServiceError):
    """The query is invalid or uses an unsupported feature, which the message names."""


ABORTED = "A conflicting operation is in progress on this resource."
"""Message of OperationAbortedException."""


class OperationAbortedException(ServiceError):
    """Another request is changing the same resource."""


class ResourceAlreadyExistsException(ServiceError):
    """The log group or stream already exists."""


class ResourceNotFoundException(ServiceError):
    """No such log group, stream or query."""


class ServiceUnavailableException(ServiceError):
    """The store, the token or the segments cannot be reached; the request can be retried."""

    status = 500


class TooManyTagsException(ServiceError):
    """The request would give a log group too many tags."""
