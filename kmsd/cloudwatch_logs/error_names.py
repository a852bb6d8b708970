"""Error names of CloudWatch Logs for the errors that the core raises."""

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


def translate_error(error: ServiceError, exc: Exception | None = None) -> ServiceError:
    """Return `error` under the name that CloudWatch Logs uses; `exc` is the exception that it was derived from."""
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
