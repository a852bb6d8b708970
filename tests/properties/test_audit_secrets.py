"""No secret in the trail, nor anywhere else in the data directory: every operation, with marked values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmsd import services
from kmsd.services import OPERATIONS
from tests.support.harness import Harness, harness
from tests.support.json_schema import violations
from tests.support.secrets_search import Caller, Secrets, files_below
from tests.support.web_identity import Issuer, trusting_table

ROUNDS = 2


@pytest.fixture(scope="module", name="issuer")
def _issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("harness")
    with harness(folder, import_token=True, extra=trusting_table(issuer, folder)) as found:
        yield found


def test_no_secret_of_any_operation_lies_in_the_data_directory(harness: Harness, issuer: Issuer) -> None:
    """Plaintexts, data keys, blobs, materials, tokens and secrets: not in a record, not in the database, nowhere.

    A marker is opaque, and no secret: `list_keys` is where it is tried that it is not shown as what it was sent as.
    """
    known = Secrets()
    known.add("access key secret", harness.admin.secret)
    called: set[str] = set()
    caller = Caller(harness, known)
    for _ in range(ROUNDS):
        caller = Caller(harness, known, issuer)
        caller.all()
        called |= caller.called
    names = {operation.name for operation in OPERATIONS if operation.service in (services.KMS, services.STS)}
    assert names - called == set()
    assert len(known.values) > 40
    needles = {needle: what for needle, what in known.needles().items() if what.partition(" ")[0] != "marker"}
    found = []
    for path in files_below(harness.config.data_dir):
        data = path.read_bytes()
        found += [(path.name, what) for needle, what in needles.items() if needle in data]
    assert found == []
    shown = caller.key.encode()
    assert any(shown in path.read_bytes() for path in harness.config.audit_dir.glob("*.trail"))


def test_every_record_of_every_operation_fits_the_schema(harness: Harness) -> None:
    """docs/audit-record.schema.json tells the truth: what was recorded, allowed and refused, is held to it."""
    if not harness.records():
        Caller(harness, Secrets()).all()
    records = harness.records()
    assert [violation for record in records for violation in violations(record)] == []
    assert {record["eventName"] for record in records if "errorCode" in record} >= {
        "Encrypt",
        "PutKeyPolicy",
        "AssumeRole",
    }
