"""Import as an operator does it: docs/import.md as it is written, the script, and a recorded module that shows nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.domain.wrapping import WrappingAlgorithm
from tests import recorder
from tests.daemon import Daemon, provisioned
from tests.imports import ALGORITHMS, external_key, parameters, state_of
from tests.recorder import Recorder
from tests.shim import compiler
from tests.tokens import SOFTHSM, available, nss_module

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "import.md"


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With the two tokens of `scripts/run`."""
    with provisioned(tmp_path_factory.mktemp("daemon"), workers=2, import_token=True) as found:
        found.start()
        yield found


def blocks_by_heading() -> dict[str, list[str]]:
    """The commands of the page, under the headings that they stand under."""
    found: dict[str, list[str]] = {}
    heading, block = "", None
    for line in PAGE.read_text().splitlines():
        if block is None and line.startswith("#"):
            heading = line.lstrip("# ")
        elif line == "```sh":
            block = []
        elif line == "```":
            if block is not None:
                found.setdefault(heading, []).append("\n".join(block))
            block = None
        elif block is not None:
            block.append(line)
    return found


def environment(daemon: Daemon) -> dict[str, str]:
    """Of a shell with the stock aws CLI in its PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(daemon.folder), "AWS_PAGER": "", "AWS_EC2_METADATA_DISABLED": "true"}


def write_client_env(daemon: Daemon, folder: Path) -> None:
    """What `scripts/run` writes."""
    values = {
        "AWS_ENDPOINT_URL": daemon.endpoint,
        "AWS_ACCESS_KEY_ID": daemon.admin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": daemon.admin.secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    lines = (f"export {name}={value}\n" for name, value in values.items())
    (folder / "client.env").write_text("".join(lines))


def shell(script: str, folder: Path, daemon: Daemon) -> list[str]:
    """Run commands in one shell that stops at the first failure; the lines that they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(daemon),
        capture_output=True,
        check=False,
        timeout=120,
        text=True,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}\n{daemon.log()[-2000:]}"
    return done.stdout.splitlines()


@pytest.mark.parametrize("algorithm", WrappingAlgorithm)
def test_the_page_as_it_is_written(daemon: Daemon, tmp_path: Path, algorithm: str) -> None:
    """Every command of docs/import.md in its order, with the wrapping commands of one algorithm."""
    blocks = blocks_by_heading()
    assert set(ALGORITHMS) <= set(blocks)
    write_client_env(daemon, tmp_path)
    create = blocks.pop("1. Make a key that awaits material")
    get = [
        text.replace("ALGORITHM=RSAES_OAEP_SHA_256", f"ALGORITHM={algorithm}")
        for text in blocks.pop("2. Get the wrapping key")
    ]
    draw, wrap = blocks.pop("3. Wrap the material"), blocks.pop(algorithm)
    forever, expiring = blocks.pop("4. Import it")
    verify, (delete, again, shred) = blocks.pop("5. Verify"), blocks.pop("6. Delete the material, and bring it back")
    assert set(blocks) == set(ALGORITHMS) - {algorithm}
    steps = [*create, *get, *draw, *wrap, forever, expiring, *verify, delete, *get, *wrap, forever, again, shred]
    printed = shell("\n".join(steps), tmp_path, daemon)
    assert re.fullmatch(r"[0-9a-f-]{36}", printed[0])
    told = [
        line
        for line in printed
        if line in ("it works", "PendingImport") or line.startswith("Enabled\tKEY_MATERIAL_EXPIRES\t")
    ]
    assert [line.split("\t")[0] for line in told] == ["Enabled", "it works", "PendingImport", "it works"]
    assert state_of(daemon.client(), printed[0]) == "Enabled"
    assert not (tmp_path / "material.bin").exists()
