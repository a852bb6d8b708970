"""Requests without a signature."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest


def ask_unsigned(endpoint: str, operation: str, agent: str = "x") -> str:
    """The error that a request without a signature gets."""
    headers = {"X-Amz-Target": f"TrentService.{operation}", "User-Agent": agent}
    request = urllib.request.Request(endpoint, data=b"{}", headers=headers)  # noqa: S310 (our own endpoint)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310 (as above)
    with caught.value as answer:
        return str(json.load(answer)["__type"])
