"""Import as an operator does it: docs/import.md as written, the script, and modules that record all they return."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import call_recorder as recorder
from tests.support.call_recorder import Recorder
from tests.support.daemon import Daemon, provisioned
from tests.support.key_import import ALGORITHMS, external_key, parameters, state_of
from tests.support.shim import compiler
from tests.support.tokens import SOFTHSM, available, nss_module

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "import.md"
LARGE = "RSAES_OAEP_SHA_256"
"""The algorithm that the page begins with."""


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


WALKED = [*ALGORITHMS] if "KMSD_TEST_SLOW" in os.environ else [*ALGORITHMS][-2:]
"""Wrapping algorithms with which the page is walked through."""


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


def steps_for(algorithm: str) -> str:
    """Every command of docs/import.md in its order, with the wrapping commands of one algorithm.

    The wrapping keys of one algorithm are as large as on the page. Making one takes seconds.
    """
    blocks = blocks_by_heading()
    assert set(ALGORITHMS) <= set(blocks)
    create = blocks.pop("1. Make a key that awaits material")
    chosen = f"ALGORITHM={algorithm}"
    get = [text.replace("ALGORITHM=RSAES_OAEP_SHA_256", chosen) for text in blocks.pop("2. Get the wrapping key")]
    assert chosen in get[0]
    assert "SPEC=RSA_4096" in get[0]
    if algorithm != LARGE:
        get = [text.replace("SPEC=RSA_4096", "SPEC=RSA_2048") for text in get]
    draw, wrap = blocks.pop("3. Wrap the material"), blocks.pop(algorithm)
    forever, expiring = blocks.pop("4. Import it")
    verify, (delete, again) = blocks.pop("5. Verify"), blocks.pop("6. Delete the material, and bring it back")
    new, rotate, shred = blocks.pop("7. Rotate the key to new material")
    assert set(blocks) == set(ALGORITHMS) - {algorithm}
    bring_back = [delete, *get, *wrap, forever, again]
    renew = [*get, *draw, *wrap, new, rotate, again, shred]
    return "\n".join([*create, *get, *draw, *wrap, forever, expiring, *verify, *bring_back, *renew])


@pytest.fixture(scope="module")
def walks(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[str]]]]:
    """The page walked through once for each algorithm, two at a time: what was printed."""

    def walk(algorithm: str) -> list[str]:
        folder = tmp_path_factory.mktemp(algorithm)
        write_client_env(daemon, folder)
        printed = shell(steps_for(algorithm), folder, daemon)
        assert not (folder / "material.bin").exists()
        return printed

    with ThreadPoolExecutor(2) as threads:
        yield {algorithm: threads.submit(walk, algorithm) for algorithm in WALKED}


@pytest.mark.parametrize("algorithm", WALKED)
def test_the_page_as_it_is_written(daemon: Daemon, walks: dict[str, Future[list[str]]], algorithm: str) -> None:
    """Every command works as it stands, and what was encrypted before opens after deletion and import."""
    printed = walks[algorithm].result(200)
    assert re.fullmatch(r"[0-9a-f-]{36}", printed[0])
    shown = ("it works", "PendingImport", "Enabled\t", "NON_CURRENT\t", "CURRENT\t")
    told = [line.split("\t")[0] for line in printed if line.startswith(shown)]
    assert told == ["Enabled", "it works", "PendingImport", "it works", "NON_CURRENT", "CURRENT", "it works"]
    assert [line for line in printed if line.startswith("Enabled\tKEY_MATERIAL_EXPIRES\t")]
    assert state_of(daemon.client(), printed[0]) == "Enabled"


def test_the_script(daemon: Daemon, tmp_path: Path) -> None:
    """`scripts/import-key-material` by each algorithm; it refuses what is not 32 bytes, and leaves nothing behind."""
    write_client_env(daemon, tmp_path)
    kms, material = daemon.client(), tmp_path / "material.bin"
    material.write_bytes(os.urandom(32))
    script = f"source client.env; {ROOT}/scripts/import-key-material"
    for algorithm in ("RSA_AES_KEY_WRAP_SHA_256", "RSAES_PKCS1_V1_5", ""):
        key_id = external_key(kms)
        chosen = f"--algorithm {algorithm} --spec RSA_2048" if algorithm else "--valid-to 2090-01-31T00:00:00Z"
        answer = json.loads("".join(shell(f"{script} {chosen} {key_id} material.bin", tmp_path, daemon)))
        metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
        assert (metadata["KeyState"], metadata["CurrentKeyMaterialId"]) == ("Enabled", answer["KeyMaterialId"])
        assert ("ValidTo" in metadata) == (not algorithm)
    material.write_bytes(os.urandom(31))
    key_id = external_key(kms)
    with pytest.raises(AssertionError, match="exactly 32 bytes"):
        shell(f"{script} {key_id} material.bin", tmp_path, daemon)
    assert state_of(kms, key_id) == "PendingImport"


def test_check_lists_the_algorithms(daemon: Daemon) -> None:
    """Each with where it works; the weak one with a note."""
    printed = daemon.cli("check").stdout.decode().splitlines()
    assert "ok   wrapping algorithm RSAES_OAEP_SHA_1 works in the token" in printed
    assert "ok   wrapping algorithm RSAES_OAEP_SHA_256 works through the import token" in printed
    assert "ok   wrapping algorithm RSA_AES_KEY_WRAP_SHA_256 works through the import token" in printed
    assert "note wrapping algorithm RSAES_PKCS1_V1_5 works, and is weak: refuse it under [import]" in printed
    assert any(line.startswith("ok   import token 'NSS Certificate DB'") for line in printed)


def test_what_is_lacking_or_refused_is_refused_by_name(tmp_path: Path) -> None:
    """Without an import token, and by the configuration; `kmsd check` says so beforehand, and the rest works."""
    with provisioned(tmp_path, extra='[import]\nrefuse = ["RSAES_PKCS1_V1_5"]') as daemon:
        printed = daemon.cli("check").stdout.decode()
        assert "note wrapping algorithm RSAES_OAEP_SHA_256 is lacking" in printed
        assert "ok   wrapping algorithm RSAES_PKCS1_V1_5 is refused by the configuration" in printed
        daemon.start()
        kms = daemon.client()
        key_id = external_key(kms)
        for algorithm in ("RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256", "RSAES_PKCS1_V1_5"):
            with pytest.raises(kms.exceptions.UnsupportedOperationException, match=algorithm):
                parameters(kms, key_id, algorithm)
        for algorithm in ("RSAES_OAEP_SHA_1", "RSA_AES_KEY_WRAP_SHA_1"):
            kms.import_key_material(**parameters(kms, key_id, algorithm).members(b"k" * 32))


def test_an_import_token_that_is_away_stops_no_daemon(tmp_path: Path) -> None:
    """What it alone unwraps is refused by name; `kmsd check` fails."""
    with provisioned(tmp_path, import_token=True) as daemon:
        (tmp_path / "import-token" / "nssdb").rename(tmp_path / "away")
        assert b"FAIL the import token is away" in daemon.cli("check", check=False).stdout
        daemon.start()
        kms = daemon.client()
        key_id = external_key(kms)
        with pytest.raises(kms.exceptions.UnsupportedOperationException, match="RSAES_OAEP_SHA_256"):
            parameters(kms, key_id, "RSAES_OAEP_SHA_256")
        kms.import_key_material(**parameters(kms, key_id).members(b"k" * 32))


# --- the recorded modules ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, list[Recorder]]]:
    """A daemon whose two modules write down every buffer that they return."""
    module = nss_module()
    if compiler() is None or not {"softhsm", "nss"} <= set(available()) or module is None:
        pytest.skip("the recorder needs a C compiler, SoftHSM2 and NSS")
    folder = tmp_path_factory.mktemp("recorded")
    recorders = [Recorder(folder, SOFTHSM), Recorder(folder, module)]
    with provisioned(folder, import_token=True) as daemon:
        text = daemon.config.read_text()
        for real, found in zip((SOFTHSM, module), recorders, strict=True):
            assert f'module = "{real}"' in text
            text = text.replace(f'module = "{real}"', f'module = "{found.path}"')
        daemon.config.write_text(text)
        daemon.start()
        yield daemon, recorders


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_call_returns_the_material(recorded: tuple[Daemon, list[Recorder]], algorithm: str) -> None:
    """Through import, use, refusal, deletion and re-import no buffer holds eight bytes in a row of the material."""
    daemon, recorders = recorded
    kms, material, other, secret = daemon.client(), os.urandom(32), os.urandom(32), os.urandom(24)
    key_id = external_key(kms)
    given = parameters(kms, key_id, algorithm)
    kms.import_key_material(**given.members(material))
    blob = kms.encrypt(KeyId=key_id, Plaintext=secret)["CiphertextBlob"]
    data_key = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    kms.import_key_material(**given.members(material))
    for wrong in (other, material[:31], material + b"\0"):
        with pytest.raises(kms.exceptions.ClientError):
            kms.import_key_material(**given.members(wrong))
    kms.delete_imported_key_material(KeyId=key_id)
    kms.import_key_material(**given.members(material))
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == secret
    daemon.stop()
    daemon.start()
    assert daemon.client().decrypt(CiphertextBlob=blob)["Plaintext"] == secret
    returned = [list(found.returned()) for found in recorders]
    everything = b"\xff\0\xff".join(data for buffers in returned for _, data in buffers)
    parts = {value[i : i + 8] for value in (material, other) for i in range(len(value) - 7)}
    assert [part for part in parts if part in everything or part[::-1] in everything] == []
    # What the recorder must have seen, or it sees nothing.
    functions = [{function for function, _ in buffers} for buffers in returned]
    assert (recorder.DECRYPT, secret) in returned[0]
    assert data_key["Plaintext"] in everything
    watched = {recorder.GET_ATTRIBUTE_VALUE, recorder.SIGN, recorder.WRAP_KEY, recorder.UNWRAP_KEY}
    assert watched <= functions[0]
    if algorithm.endswith("SHA_256"):
        assert watched - {recorder.SIGN} <= functions[1]
