"""The objects of a token, for tests."""

from __future__ import annotations

from tests.support.harness import House


def object_ids(house: House) -> set[bytes]:
    """What the token holds."""
    return {found.object_id for found in house.run(house.components.token.list_objects())}
