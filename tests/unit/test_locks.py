"""The requirements files are complete: pip installs them with --no-deps, and resolves nothing."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ("requirements",)
CLIENT = ("requirements-cli",)
TESTS = ("requirements", "requirements-cli", "requirements-dev")
BUILD = ("requirements-build",)
ELSEWHERE = ("requirements-integrations", "requirements-bench")
"""Each in an environment of its own: the metadata of its packages is not at hand here."""
Pins = dict[str, str]


def pins_of(*locks: str) -> Pins:
    """Name and version of every package that these files pin."""
    found: Pins = {}
    for lock in locks:
        for line in (ROOT / f"{lock}.txt").read_text().splitlines():
            if line and not line.startswith(("#", " ")):
                pinned = re.fullmatch(r"([A-Za-z0-9._-]+)==([^ ;]+) \\", line)
                assert pinned is not None, line
                name = canonicalize_name(pinned[1])
                assert found.setdefault(name, pinned[2]) == pinned[2], f"{name} has two versions"
    return found


def asked_for(*locks: str) -> list[Requirement]:
    """What the files behind the locks name, and what the package itself declares."""
    lines = [line for lock in locks for line in (ROOT / f"{lock}.in").read_text().splitlines()]
    named = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    own = distribution("kmsd").requires or [] if "requirements" in locks else []
    return [*named, *map(Requirement, own)]


def problems(pins: Pins, wanted: list[Requirement]) -> tuple[list[str], set[str]]:
    """What is wrong with a lock, by the metadata of what is installed; and which packages are needed.

    Extras are followed: what a dependency `x[y]` brings in is needed too.
    """
    wrong: list[str] = []
    done: set[tuple[str, str]] = set()
    queue = [(requirement, "the .in file") for requirement in wanted]
    while queue:
        requirement, asker = queue.pop()
        name = canonicalize_name(requirement.name)
        pinned = pins.get(name)
        if pinned is None:
            wrong.append(f"{asker} needs {requirement}, which is not pinned")
            continue
        if not requirement.specifier.contains(pinned, prereleases=True):
            wrong.append(f"{asker} needs {requirement}, and {pinned} is pinned")
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in done:
                done.add((name, extra))
                for text in distribution(name).requires or ():
                    needed = Requirement(text)
                    # A dependency of the package itself has a marker that holds without any extra.
                    if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                        queue.append((needed, f"{name}[{extra}]" if extra else name))
    return wrong, {name for name, _ in done}


@pytest.mark.parametrize("locks", [RUNTIME, CLIENT, TESTS, BUILD], ids="+".join)
def test_every_dependency_is_pinned_as_it_is_asked_for(locks: tuple[str, ...]) -> None:
    """Nothing is missing, nothing has another version than what needs it allows, and nothing is left over."""
    pins = pins_of(*locks)
    wrong, needed = problems(pins, asked_for(*locks))
    assert wrong == []
    assert needed == set(pins)


@pytest.mark.parametrize("locks", [RUNTIME, CLIENT, TESTS, BUILD], ids="+".join)
def test_the_metadata_is_that_of_the_pinned_versions(locks: tuple[str, ...]) -> None:
    """What is installed is what is pinned; otherwise this module would judge other packages."""
    pins = pins_of(*locks)
    assert {name: distribution(name).version for name in pins} == pins


@pytest.mark.parametrize("lock", ELSEWHERE)
def test_what_is_installed_elsewhere_is_pinned_as_it_is_asked_for(lock: str) -> None:
    """Each by name, with a version that its `.in` file allows."""
    pins = pins_of(lock)
    wanted = asked_for(lock)
    assert wanted
    assert [one.name for one in wanted if not one.specifier.contains(pins[canonicalize_name(one.name)])] == []


def test_a_lock_that_lacks_something_is_found() -> None:
    """A dependency, one that only an extra brings in, and a version that does not fit."""
    wanted, pins = asked_for(*TESTS), pins_of(*TESTS)
    for name in ("multidict", "coverage"):
        wrong, _ = problems({other: version for other, version in pins.items() if other != name}, wanted)
        assert any(f"{name}" in text and "not pinned" in text for text in wrong)
    assert any("0.1 is pinned" in text for text in problems({**pins, "botocore": "0.1"}, wanted)[0])
    extra = [Requirement("urllib3[brotli]")]
    assert any("urllib3[brotli] needs" in text for text in problems(pins, extra)[0])
