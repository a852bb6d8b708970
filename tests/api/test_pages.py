"""Lists in pages: stable under change, and markers that nobody else can make or use."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.harness import Harness

ME = "arn:aws:iam::000000000000:user/admin"


@pytest.fixture(name="filled", scope="module")
def _filled(harness: Harness) -> dict[str, Any]:
    """A key with aliases, grants and tags, and a few more keys."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    for number in range(12):
        kms.create_key(Origin="EXTERNAL")
        kms.create_alias(AliasName=f"alias/page{number:02}", TargetKeyId=key_id)
        kms.create_grant(KeyId=key_id, GranteePrincipal=ME, RetiringPrincipal=ME, Operations=["Decrypt"])
        kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": f"t{number:02}", "TagValue": "v"}])
    return {"KeyId": key_id}


LISTS = {
    "list_keys": ("Keys", "KeyId", ()),
    "list_aliases": ("Aliases", "AliasName", ()),
    "list_grants": ("Grants", "GrantId", ("KeyId",)),
    "list_retirable_grants": ("Grants", "GrantId", ("RetiringPrincipal",)),
    "list_resource_tags": ("Tags", "TagKey", ("KeyId",)),
}


def members_of(name: str, filled: dict[str, Any]) -> dict[str, Any]:
    """What the list wants beside limit and marker."""
    return {key: {**filled, "RetiringPrincipal": ME}[key] for key in LISTS[name][2]}


def walk(kms: Any, name: str, limit: int, **members: Any) -> list[str]:
    """All items, page by page."""
    items, identity, _ = LISTS[name]
    found: list[str] = []
    marker: dict[str, str] = {}
    while True:
        page = getattr(kms, name)(Limit=limit, **members, **marker)
        assert len(page[items]) <= limit
        assert page["Truncated"] is ("NextMarker" in page)
        found += [item[identity] for item in page[items]]
        if not page["Truncated"]:
            return found
        assert len(page["NextMarker"]) <= 320
        marker = {"Marker": page["NextMarker"]}


@pytest.mark.parametrize("name", LISTS)
def test_pages_add_up(harness: Harness, filled: dict[str, Any], name: str) -> None:
    """Every item exactly once, whatever the page size."""
    kms, members = harness.client(), members_of(name, filled)
    whole = walk(kms, name, 100, **members)
    assert len(whole) == len(set(whole)) >= 12
    for limit in (1, 5, len(whole), len(whole) - 1):
        assert walk(kms, name, limit, **members) == whole


@pytest.mark.parametrize("name", LISTS)
def test_foreign_and_changed_markers_are_refused(harness: Harness, filled: dict[str, Any], name: str) -> None:
    """A marker is good for the list, the account and the filters it was made for, unchanged, and for nothing else."""
    kms, members = harness.client(), members_of(name, filled)
    markers = {other: getattr(kms, other)(Limit=1, **members_of(other, filled))["NextMarker"] for other in LISTS}
    own = markers.pop(name)
    spoiled = [*markers.values(), own[:-1] + ("A" if own[-1] != "A" else "B"), own[4:], own + "AAAA", "x", "1"]
    for marker in spoiled:
        with pytest.raises(ClientError, match="InvalidMarkerException"):
            getattr(kms, name)(Limit=1, Marker=marker, **members)
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    stranger = harness.client(credentials=harness.user(policy, account="111122223333"))
    if name in ("list_keys", "list_aliases"):
        with pytest.raises(ClientError, match="InvalidMarkerException"):
            getattr(stranger, name)(Limit=1, Marker=own)


def test_a_marker_is_bound_to_its_filters(harness: Harness, filled: dict[str, Any]) -> None:
    """ListAliases of one key does not go on with the marker of all aliases."""
    kms = harness.client()
    marker = kms.list_aliases(Limit=1)["NextMarker"]
    with pytest.raises(ClientError, match="InvalidMarkerException"):
        kms.list_aliases(KeyId=filled["KeyId"], Limit=1, Marker=marker)


def test_pages_are_stable_while_the_list_changes(harness: Harness) -> None:
    """Items that are there all the time are seen exactly once, while others come and go."""
    kms, writer = harness.client(), harness.client()
    key_id = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    lasting = [f"alias/lasting{number:02}" for number in range(20)]
    for name in lasting:
        kms.create_alias(AliasName=name, TargetKeyId=key_id)
    leave = threading.Event()

    def change() -> None:
        number = 0
        while not leave.is_set():
            number += 1
            name = f"alias/lasting{number % 20:02}-passing"
            writer.create_alias(AliasName=name, TargetKeyId=key_id)
            writer.delete_alias(AliasName=name)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            seen = walk(kms, "list_aliases", 3)
            assert [name for name in seen if name in lasting] == lasting
    finally:
        leave.set()
        thread.join()


def test_page_sizes(harness: Harness, filled: dict[str, Any]) -> None:
    """A limit of 1000 is accepted; a page of these lists holds at most 100."""
    kms = harness.client()
    assert len(kms.list_grants(KeyId=filled["KeyId"], Limit=1000)["Grants"]) <= 100
    unchecked = harness.client(parameter_validation=False)
    for bad in (0, 1001):
        with pytest.raises(ClientError, match="ValidationException"):
            unchecked.list_keys(Limit=bad)


def test_list_key_policies_has_one_page(harness: Harness, filled: dict[str, Any]) -> None:
    """Its only policy; no marker is ever ours."""
    kms = harness.client()
    assert kms.list_key_policies(**filled)["PolicyNames"] == ["default"]
    with pytest.raises(ClientError, match="InvalidMarkerException"):
        kms.list_key_policies(**filled, Marker="x")
