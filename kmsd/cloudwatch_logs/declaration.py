"""CloudWatch Logs as a service: its names, and how it speaks of errors of the core."""

from __future__ import annotations

from kmsd.cloudwatch_logs.error_names import translate_error
from kmsd.errors import InvalidParameterException, ServiceUnavailableException
from kmsd.operations.declaration import Service

LOGS = Service(
    "logs",
    "Logs_20140328.",
    "logs.amazonaws.com",
    translate_error,
    (InvalidParameterException, ServiceUnavailableException),
)
