"""What the scripts share (scripts/lib.sh)."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """# Made by scripts/run; yours to change.
data_dir = "/d"
workers = 2

[metrics]
address = "127.0.0.1:9464"

[listen]  # the API
address = "127.0.0.1:8480"
drain_seconds = 1

[audit]
address = "elsewhere"
workers = 7
"""


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that has sourced lib.sh."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"root={ROOT}; . {ROOT}/scripts/lib.sh; {script}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_value_is_set_in_its_section_alone(tmp_path: Path) -> None:
    """`[metrics] address` is another than `[listen] address`, and so is `workers` of a section."""
    path = tmp_path / "kmsd.toml"
    path.write_text(CONFIG)
    done = shell(f"set_value {path} listen address '\"[::1]:9\"'; set_value {path} '' workers 5")
    assert done.returncode == 0, done.stderr
    assert path.read_text() == CONFIG.replace('"127.0.0.1:8480"', '"[::1]:9"').replace("workers = 2", "workers = 5")


def test_a_value_that_is_not_there_is_said(tmp_path: Path) -> None:
    """The file stays as it was."""
    path = tmp_path / "kmsd.toml"
    path.write_text(CONFIG)
    done = shell(f"set_value {path} metrics port 1")
    assert done.returncode == 1
    assert "has no port in [metrics]" in done.stderr
    assert [entry.read_text() for entry in tmp_path.iterdir()] == [CONFIG]
