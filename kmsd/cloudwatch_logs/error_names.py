"""The errors of the Logs side: the same faults, by the names that CloudWatch Logs has for them."""

from __future__ import annotations

from kmsd.cloudwatch_logs.ports import SegmentDamaged
from kmsd.errors import (
    DependencyTimeoutException,
    InvalidMarkerException,
    InvalidParameterException,
    KeyUnavailableException,
    KMSInternalException,
    ServiceError,
    ServiceUnavailableException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.declaration import Service

ABORTED = "A conflicting operation is in progress on this resource."


def in_words_of(service: Service, error: ServiceError, exc: Exception | None = None) -> ServiceError:
    """`error` as `service` names it; `exc` is what it was made from."""
    if service is not Service.LOGS:
        return error
    match exc:
        case SegmentDamaged() if exc.last_at:
            what = f"Log events between {exc.first_at} and {exc.last_at} are damaged in storage and cannot be read."
            return ServiceUnavailableException(what, detail=str(exc))
        case SegmentDamaged():
            return ServiceUnavailableException(
                "What is asked for is damaged in storage and cannot be read.", detail=str(exc)
            )
        case _:
            return _renamed(error)


def _renamed(error: ServiceError) -> ServiceError:
    match error:
        case ValidationException():
            return InvalidParameterException(error.message, detail=error.detail)
        case InvalidMarkerException():
            return InvalidParameterException("The specified nextToken is invalid.", detail=error.detail)
        case KMSInternalException() | DependencyTimeoutException() | KeyUnavailableException():
            return ServiceUnavailableException(
                error.message or "The service cannot complete the request.", detail=error.detail
            )
        case UnsupportedOperationException():
            return InvalidParameterException(error.message, detail=error.detail)
        case _:
            return error
