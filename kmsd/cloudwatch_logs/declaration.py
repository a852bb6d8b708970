"""Declaration of CloudWatch Logs as a service: its names, and the translation of core errors."""

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
