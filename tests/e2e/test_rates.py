"""Rates of a running daemon: one principal beyond its own does not slow down another."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from botocore.exceptions import ClientError

from tests.support.clients import Credentials
from tests.support.daemon import Daemon, provisioned

ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
RATE, BURST_SECONDS = 10, 0.5
RATES = f"[rates]\ncryptographic = {RATE}\nburst_seconds = {BURST_SECONDS}\n[audit]\nrefusals_per_second = 2"
THROTTLED = "ThrottlingException 400"


def hammer(daemon: Daemon, who: Credentials, key_id: str) -> Counter[str]:
    """Encrypt as fast as it goes, until it is throttled again and again: how often each answer came."""
    kms, found = daemon.client(credentials=who), Counter[str]()
    while found[THROTTLED] < 50:
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
        begun = time.monotonic()
        with ThreadPoolExecutor(5) as pool:
            loops = [pool.submit(hammer, daemon, hog, key_id) for _ in range(4)]
            kms, refused = daemon.client(credentials=calm), 0
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
            while not all(loop.done() for loop in loops):
                time.sleep(2.5 / RATE)  # four a second; a worker's part is five
                kms.encrypt(KeyId=key_id, Plaintext=b"x")  # raises if it is throttled
            found = sum((one.result() for one in loops), Counter[str]())
        assert set(found) == {"OK", THROTTLED}
        # One more for each worker: a part of a call is none.
        assert 2 <= found["OK"] <= RATE * (time.monotonic() - begun + BURST_SECONDS) + 2
        daemon.client(credentials=hog).list_keys()  # another class
        daemon.stop()
        for record in daemon.audit_records():
            if record.get("errorCode") == "ThrottlingException" and "userIdentity" in record:
                assert record["userIdentity"].get("userName") in ("hog", None)
            counted = record.get("additionalEventData", {}).get("refused", {}).get("errorCodes", {})
            refused += counted.get("ThrottlingException", record.get("errorCode") == "ThrottlingException")
        assert refused == found[THROTTLED]
