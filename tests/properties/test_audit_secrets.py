"""No secret in the trail, nor anywhere else in the data directory: every operation, with marked values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmsd import services
from kmsd.services import OPERATIONS
from tests.support.harness import House, house
from tests.support.json_schema import violations
from tests.support.secrets_search import Caller, Secrets, files_below

ROUNDS = 2


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), import_token=True) as found:
        yield found


def test_no_secret_of_any_operation_lies_in_the_data_directory(house: House) -> None:
    """Plaintexts, data keys, blobs, materials, tokens and secrets: not in a record, not in the database, nowhere.

    A marker is opaque, and no secret: `list_keys` is where it is tried that it is not shown as what it was sent as.
    """
    known = Secrets()
    known.add("access key secret", house.admin.secret)
    called: set[str] = set()
    caller = Caller(house, known)
    for _ in range(ROUNDS):
        caller = Caller(house, known)
        caller.all()
        called |= caller.called
    names = {operation.name for operation in OPERATIONS if operation.service in (services.KMS, services.STS)}
    assert names - called == set()
    assert len(known.values) > 40
    needles = {needle: what for needle, what in known.needles().items() if what.partition(" ")[0] != "marker"}
    found = []
    for path in files_below(house.config.data_dir):
        data = path.read_bytes()
        found += [(path.name, what) for needle, what in needles.items() if needle in data]
    assert found == []
    shown = caller.key.encode()
    assert any(shown in path.read_bytes() for path in house.config.audit_dir.glob("*.trail"))


def test_every_record_of_every_operation_fits_the_schema(house: House) -> None:
    """docs/audit-record.schema.json tells the truth: what was recorded, allowed and refused, is held to it."""
    if not house.records():
        Caller(house, Secrets()).all()
    records = house.records()
    assert [violation for record in records for violation in violations(record)] == []
    assert {record["eventName"] for record in records if "errorCode" in record} >= {
        "Encrypt",
        "PutKeyPolicy",
        "AssumeRole",
    }
