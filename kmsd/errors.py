"""Every error a client may see: its wire name and its HTTP status.

    ServiceError
    ├── (400) one class for each documented client error; the class name is the wire name
    ├── (404) UnknownOperationException for a method or path that no operation has
    ├── (408) RequestTimeoutException
    ├── (413) RequestEntityTooLargeException
    └── (500) DependencyTimeoutException, KeyUnavailableException, KMSInternalException, ServiceUnavailableException

Errors are raised, never returned; `kmsd.wire` renders them, and nothing else does. The names follow
the specification's error tables and, for the "Common Errors" of the reference, the names that the
JSON protocol uses (docs/divergences.md lists the pairs).
"""

from __future__ import annotations


class ServiceError(Exception):
    """An answer other than success.

    `message` is for the client. `detail` is for the daemon's log alone: it may say why, and must not
    hold a secret either.
    """

    status: int = 400

    def __init__(self, message: str = "", *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    @property
    def code(self) -> str:
        """The name sent as `__type`."""
        return type(self).__name__


# --- What the front end answers before an operation is reached --------------------------------------


class AccessDeniedException(ServiceError):
    """The caller is known, and may not."""


class ExpiredTokenException(ServiceError):
    """The session token's time is over."""


class IncompleteSignatureException(ServiceError):
    """The request's signature lacks a part or has a part that cannot be read."""


class InvalidSignatureException(ServiceError):
    """The signature does not match, is too old, or is not yet valid."""


class MalformedHttpRequestException(ServiceError):
    """What was received is not an HTTP request that this server takes."""


class MissingAuthenticationTokenException(ServiceError):
    """The request carries no signature at all."""


class RequestEntityTooLargeException(ServiceError):
    """The body is larger than any request of the API can be."""

    status = 413


class RequestTimeoutException(ServiceError):
    """The request did not arrive whole in time."""

    status = 408


class SerializationException(ServiceError):
    """The body is not JSON, or a member has another JSON type than the API gives it."""


class ThrottlingException(ServiceError):
    """The caller exceeds a configured rate, or the daemon sheds load."""


class UnknownOperationException(ServiceError):
    """No such operation. The status is 404 for a method or path that no operation has, as AWS answers there."""

    def __init__(self, message: str = "", *, detail: str = "", status: int = 400) -> None:
        super().__init__(message, detail=detail)
        self.status = status


class UnrecognizedClientException(ServiceError):
    """The access key is unknown or disabled, or the session token is not ours."""


class ValidationException(ServiceError):
    """A member breaks a constraint of the API."""


# --- Key Management Service -------------------------------------------------------------------------


class AlreadyExistsException(ServiceError):
    """The resource exists already."""


class DependencyTimeoutException(ServiceError):
    """The token did not answer in time; the request can be tried again."""

    status = 500


class DisabledException(ServiceError):
    """The key is disabled."""


class DryRunOperationException(ServiceError):
    """The request would have succeeded, but `DryRun` was given."""


class ExpiredImportTokenException(ServiceError):
    """The import token's 24 hours are over."""


class IncorrectKeyException(ServiceError):
    """The ciphertext was made under another key than the request names."""


class IncorrectKeyMaterialException(ServiceError):
    """Other key material than was imported into this key before."""


class InvalidAliasNameException(ServiceError):
    """The alias name is not one a client may use."""


class InvalidArnException(ServiceError):
    """The ARN is malformed, or names another partition, region or kind of resource."""


class InvalidCiphertextException(ServiceError):
    """The blob was not made here, was changed, or its encryption context differs."""


class InvalidGrantIdException(ServiceError):
    """No such grant on this key."""


class InvalidGrantTokenException(ServiceError):
    """The grant token is not ours, or its grant is gone."""


class InvalidImportTokenException(ServiceError):
    """The import token is not ours, or belongs to another key or wrapping key."""


class InvalidKeyUsageException(ServiceError):
    """The key's usage or algorithm does not fit the operation."""


class InvalidMarkerException(ServiceError):
    """The marker is not one that this operation gave to this caller."""


class KeyUnavailableException(ServiceError):
    """The key exists, but its material cannot be reached now; the request can be tried again."""

    status = 500


class KMSInternalException(ServiceError):
    """Something failed inside; nothing was changed; the request can be tried again."""

    status = 500


class KMSInvalidStateException(ServiceError):
    """The key's state does not allow the operation."""


class LimitExceededException(ServiceError):
    """A resource limit is reached."""


class MalformedPolicyDocumentException(ServiceError):
    """The policy is not one; the message names the place."""


class NotFoundException(ServiceError):
    """No such key, alias or grant."""


class TagException(ServiceError):
    """The tags are not ones a key can carry."""


class UnsupportedOperationException(ServiceError):
    """This key, or this token, cannot do that."""


# --- CloudWatch Logs --------------------------------------------------------------------------------


class InvalidParameterException(ServiceError):
    """A member breaks a constraint of the API, or does not go with another; Logs' word for ValidationException."""


class MalformedQueryException(ServiceError):
    """The query is not one, or uses what is not offered here; the message names it."""


ABORTED = "A conflicting operation is in progress on this resource."
"""Message of OperationAbortedException."""


class OperationAbortedException(ServiceError):
    """Another request changes the same resource at this moment."""


class ResourceAlreadyExistsException(ServiceError):
    """The log group or stream exists already."""


class ResourceNotFoundException(ServiceError):
    """No such log group, stream or query."""


class ServiceUnavailableException(ServiceError):
    """Store, token or segments are out of reach; the request can be tried again."""

    status = 500


class TooManyTagsException(ServiceError):
    """More tags than a log group can carry."""
