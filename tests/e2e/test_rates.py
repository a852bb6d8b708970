"""Rates of a running daemon: one principal beyond its own does not slow down another."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from botocore.exceptions import ClientError

from tests.clients import Credentials
from tests.daemon import Daemon, provisioned

ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
RATES = "[rates]\ncryptographic = 40\nburst_seconds = 0.5\n[audit]\nrefusals_per_second = 2"
SECONDS = 2.0


def hammer(daemon: Daemon, who: Credentials, key_id: str) -> Counter[str]:
    """Encrypt as fast as it goes, for a while: how often each answer came."""
    kms, found = daemon.client(credentials=who), Counter[str]()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
            found["OK"] += 1
        except ClientError as error:
            found[f"{error.response['Error']['Code']} {error.response['ResponseMetadata']['HTTPStatusCode']}"] += 1
    return found


def test_one_principal_does_not_starve_another(tmp_path: Path) -> None:
    """A loop gets its rate and no more; a calm caller beside it gets all that it asks; everything is in the trail."""
    with provisioned(tmp_path, workers=2, extra=RATES) as daemon:
        daemon.start()
        hog, calm = daemon.user("hog", ALL), daemon.user("calm", ALL)
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        with ThreadPoolExecutor(5) as pool:
            loops = [pool.submit(hammer, daemon, hog, key_id) for _ in range(4)]
            kms, refused = daemon.client(credentials=calm), 0
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                kms.encrypt(KeyId=key_id, Plaintext=b"x")  # raises if it is throttled
                time.sleep(0.1)  # ten a second; a worker's part is twenty
            found = sum((one.result() for one in loops), Counter[str]())
        assert set(found) == {"OK", "ThrottlingException 400"}
        assert 20 <= found["OK"] <= 40 * SECONDS + 20 + 5
        daemon.client(credentials=hog).list_keys()  # another class
        daemon.stop()
        for record in daemon.audit_records():
            if record.get("errorCode") == "ThrottlingException" and "userIdentity" in record:
                assert record["userIdentity"].get("userName") in ("hog", None)
            counted = record.get("additionalEventData", {}).get("refused", {}).get("errorCodes", {})
            refused += counted.get("ThrottlingException", record.get("errorCode") == "ThrottlingException")
        assert refused == found["ThrottlingException 400"]
