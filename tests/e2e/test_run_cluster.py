"""`scripts/run --cluster`: several nodes on one machine, and nothing of them afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import free_ports
from tests.support.page_commands import ROOT
from tests.support.polling import until

COUNT = 2


def listens(port: int) -> bool:
    """True if somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Cluster:
    """The script, as it runs in a terminal."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def said(self) -> str:
        """What it has printed."""
        return (self.folder / "run.log").read_text()

    def aws(self, node: int, *arguments: str) -> str:
        """What the aws CLI prints, with client.env, of a call to a node."""
        endpoint = f"AWS_ENDPOINT_URL=http://127.0.0.1:{self.port + node}"
        script = f". {self.folder}/data/client.env; {endpoint} aws --output text kms {' '.join(arguments)}"
        return subprocess.run(["bash", "-euc", script], check=True, capture_output=True, text=True).stdout.strip()

    @property
    def database(self) -> Path:
        """The folder of its PostgreSQL."""
        (found,) = re.findall(r"\?host=([^\"]+)", (self.folder / "data" / "node-1" / "kmsd.toml").read_text())
        return Path(found)


@pytest.fixture(name="cluster")
def _cluster(tmp_path: Path) -> Iterator[Cluster]:
    port = free_ports(COUNT)
    command = [ROOT / "scripts" / "run", "--cluster", str(COUNT), "--listen", f"127.0.0.1:{port}"]
    with (tmp_path / "run.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--data", tmp_path / "data"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    found = Cluster(process, tmp_path, port)
    try:
        until(lambda: process.poll() is not None or "Ctrl-C stops" in found.said, 170, otherwise=lambda: found.said)
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        shutil.rmtree(found.database)


def test_nodes_that_end_together(cluster: Cluster) -> None:
    """A key of one node is used at the other. Ctrl-C, which reaches all processes, ends nodes and database."""
    assert cluster.process.poll() is None, cluster.said
    endpoints = [f"http://127.0.0.1:{cluster.port + number}" for number in range(COUNT)]
    assert re.findall(r"node-\d: (\S+)", cluster.said) == endpoints
    key_id = cluster.aws(0, "create-key", "--query", "KeyMetadata.KeyId")
    assert cluster.aws(1, "encrypt", "--key-id", key_id, "--plaintext", "dGV4dA==", "--query", "CiphertextBlob")
    assert (cluster.database / "postmaster.pid").exists()
    os.killpg(cluster.process.pid, signal.SIGINT)
    cluster.process.wait(60)
    assert [listens(cluster.port + number) for number in range(COUNT)] == [False] * COUNT
    assert not (cluster.database / "postmaster.pid").exists()
