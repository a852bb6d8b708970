"""What workers get of the main process's environment."""

from __future__ import annotations

from kmsd.environment import of_worker


def test_environment_of_a_worker() -> None:
    """What is for the main process alone is kept from it; what the operator set is not overruled."""
    given = {"PATH": "/bin", "NOTIFY_SOCKET": "/run/x", "MALLOC_TRIM_THRESHOLD_": "1"}
    found = of_worker(given)
    assert found["PATH"] == "/bin"
    assert found["MALLOC_TRIM_THRESHOLD_"] == "1"
    assert int(found["MALLOC_MMAP_THRESHOLD_"]) > 1_048_576
    assert found["MALLOC_ARENA_MAX"] == "1"
    assert "NOTIFY_SOCKET" not in found
