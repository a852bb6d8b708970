"""The objects of a token, for tests."""

from __future__ import annotations

from tests.support.harness import Harness


def object_ids(harness: Harness) -> set[bytes]:
    """What the token holds."""
    return {found.object_id for found in harness.run(harness.components.token.list_objects())}
