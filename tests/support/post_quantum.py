"""A daemon with ML-DSA and ML-KEM: SoftHSM2 as its main token, and beside it a newer NSS than the host's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmsd.domain.key_spec import KeySpec
from tests.support.daemon import Daemon, further_section, import_section, provisioned
from tests.support.tokens import newer_nss, nss

SPECS = [spec for spec in KeySpec if spec.startswith(("ML_DSA_", "ML_KEM_"))]


@contextmanager
def post_quantum_daemon(folder: Path, *, workers: int = 1, imports: bool = False) -> Iterator[Daemon]:
    """A running daemon whose further token `pq` serves these specs. Skips the test where there is no such NSS.

    If asked, the same token unwraps imports.
    """
    module = newer_nss()
    with nss(folder / "pq", module) as place, pytest.MonkeyPatch.context() as patch:
        # The processes of the daemon and its commands inherit it; the linker reads it when a program starts.
        patch.setenv("LD_LIBRARY_PATH", str(module.parent))
        extra = further_section(folder, place, "pq", SPECS) + (import_section(folder, place) if imports else "")
        with provisioned(folder, workers=workers, extra=extra) as daemon:
            daemon.start()
            yield daemon
