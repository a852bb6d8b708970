"""The Debian package as a file: what is in it, and that a second build makes the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import kmsd
from tests.host import image, packages

ROOT = image.ROOT
ENVIRONMENT = f"usr/lib/kmsd/{kmsd.__version__}"
pytestmark = [
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed"),
    pytest.mark.timeout(1800),
    pytest.mark.slow,
]


@pytest.fixture(scope="module", name="package")
def _package() -> Path:
    try:
        return packages.deb()
    except image.UnavailableError as error:
        pytest.skip(f"no wheels for Debian 12: {error}")


@pytest.fixture(scope="module", name="files")
def _files(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package holds, unpacked."""
    folder = tmp_path_factory.mktemp("files")
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder


def field(package: Path, name: str) -> str:
    """One field of the package's control file."""
    done = subprocess.run(["dpkg-deb", "--field", package, name], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def listed(package: Path) -> list[tuple[str, str, str]]:
    """Mode, owner and name of all that is in it, in its order."""
    done = subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True)
    rows = [line.split(maxsplit=5) for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[5]) for row in rows]


def test_it_depends_on_the_python_that_it_was_made_for(package: Path) -> None:
    """A host with another minor version must not get it: the extension modules would not load."""
    depends = field(package, "Depends").split(", ")
    assert {"python3 (>= 3.11)", "python3 (<< 3.12)"} <= set(depends)
    assert field(package, "Version") == f"{kmsd.__version__}+deb12"


def test_a_second_build_makes_the_same_bytes(package: Path, tmp_path: Path) -> None:
    """From a copy in another folder, at another time, under another umask."""
    copy = tmp_path / "copy"
    image.checkout(copy)
    before = os.umask(0o077)
    try:
        packages.build(copy, tmp_path / "output")
    finally:
        os.umask(before)
    (again,) = (tmp_path / "output").iterdir()
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_files_are_roots_and_nobody_else_writes_them(package: Path, files: Path) -> None:
    """Nothing is writable by others, set-user-id, or compiled; and no file names the folder of the build."""
    rows = listed(package)
    assert {owner for _, owner, _ in rows} == {"root/root"}
    assert [
        name for mode, _, name in rows if not re.fullmatch(r"d(rwxr-xr-x)|-rw[x-]r-[x-]r-[x-]|lrwxrwxrwx", mode)
    ] == []
    assert [name for _, _, name in rows if name.endswith(".pyc") or "/direct_url.json" in name] == []
    names = [path for path in files.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in names if str(ROOT).encode() in path.read_bytes()] == []


def test_units_are_those_of_the_checkout(files: Path) -> None:
    """Only the places of the program differ from systemd/; nothing names a place that the package has not."""
    for name in ("kmsd.service", "kmsd.socket"):
        ours = (ROOT / "systemd" / name).read_text()
        packaged = (files / "usr/lib/systemd/system" / name).read_text()
        assert packaged == ours.replace("/opt/kmsd/bin/", "/usr/bin/").replace(
            "/opt/kmsd/share/doc/", "/usr/share/doc/kmsd/"
        )
    for name in ("sysusers.d", "tmpfiles.d"):
        assert (files / "usr/lib" / name / "kmsd.conf").read_bytes() == (
            ROOT / "systemd" / name / "kmsd.conf"
        ).read_bytes()
    assert (files / "usr/share/kmsd/examples/kmsd.toml").read_bytes() == (
        ROOT / "systemd/kmsd.toml.example"
    ).read_bytes()
    pages = [path for path in (files / "usr/share/doc/kmsd").rglob("*.md") if "decisions" not in path.parts]
    named = {path.name for path in pages if "/opt/kmsd" in path.read_text()}
    assert named <= {"install.md"}


def test_links_between_the_pages_lead_somewhere(files: Path) -> None:
    """The pages lie as in the checkout."""
    folder = files / "usr/share/doc/kmsd"
    assert (folder / "docs/alerts.yaml").exists()
    for page in folder.rglob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_the_environment_is_what_the_lock_pins(files: Path) -> None:
    """Each package of requirements.txt in its version, kmsd, and nothing else."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    pinned["kmsd"] = kmsd.__version__
    folders = (files / ENVIRONMENT / "lib/python3.11/site-packages").glob("*.dist-info")
    found = dict(folder.name.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)
    assert {name.replace("_", "-"): version for name, version in found.items()} == pinned


def test_lintian_has_no_error(package: Path) -> None:
    """Nor a warning: each override in deploy/debian/lintian-overrides has its reason."""
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    command = ["lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0", str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = (ROOT / "deploy/debian/lintian-overrides").read_text().splitlines()
    assert reasons[0].startswith("# ")


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    program = f"""source {script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
_shtab_kmsd kmsd "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}" 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.split()


def test_bash_completes_commands_and_options(files: Path) -> None:
    """The command, the command below it, its options, their choices."""
    script = files / "usr/share/bash-completion/completions/kmsd"
    assert completed(script, "kmsd", "dom") == ["domain-key"]
    assert completed(script, "kmsd", "domain-key", "rot") == ["rotate"]
    assert completed(script, "kmsd", "init", "--adm") == ["--administrator"]
    assert completed(script, "kmsd", "init", "--format", "j") == ["json"]
    assert (files / "usr/share/zsh/vendor-completions/_kmsd").read_text().startswith("#compdef kmsd\n")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", ["kmsd.8", "kmsd.toml.5"])
def test_the_man_pages_are_roff(name: str) -> None:
    """They are formatted by groff without a warning, and name what they are about."""
    page = ROOT / "deploy/man" / name
    command = ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    words = " ".join(done.stdout.split())
    for wanted in {"kmsd.8": ("kmsd domain-key rotate", "EXIT STATUS"), "kmsd.toml.5": ("pin_file", "[[tokens]]")}[
        name
    ]:
        assert wanted in words
