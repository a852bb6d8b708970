"""The daemon in this process over a token that makes 16-byte nonces and appends them to ciphertexts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Harness, harness
from tests.support.shim import Shim, build, compiler
from tests.support.tokens import SOFTHSM


@contextmanager
def appending_harness(folder: Path, *, appends: int = 16, **options: Any) -> Iterator[tuple[Harness, Shim]]:
    """As `harness`, and what bends its token. With `appends` 0 the token takes the caller's nonces."""
    if compiler() is None:
        pytest.skip("the shim needs a C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMSD_SHIM_MODULE", str(SOFTHSM))
        shim = Shim(build(folder))
        shim.append_iv(appends)
        try:
            with harness(folder, module=shim.path, **options) as found:
                yield found, shim
        finally:
            shim.reset()
