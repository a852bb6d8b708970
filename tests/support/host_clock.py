"""The clock of one host, as its processes see it: a shim adds to CLOCK_REALTIME what a file says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) {
    long found = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET"), "r");
    if (file) { if (fscanf(file, "%ld", &found) != 1) found = 0; fclose(file); }
    return found;
}
int clock_gettime(clockid_t which, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(which, out);
    if (which == CLOCK_REALTIME && answer == 0) out->tv_sec += offset();
    return answer;
}
"""
NAME = "offset"


def build(folder: Path) -> Path:
    """The library. Needs a C compiler (`tests.support.shim.compiler`)."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SHIM)
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def use(daemon: Daemon, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all processes that are started from now on have the clock of this daemon's host, which is right at first."""
    set_clock(daemon, 0)
    monkeypatch.setenv("CLOCK_OFFSET", str(daemon.folder / NAME))
    monkeypatch.setenv("LD_PRELOAD", str(library))


@contextmanager
def of(daemon: Daemon, library: Path) -> Iterator[None]:
    """The same for what is started in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOCK_OFFSET", str(daemon.folder / NAME))
        patch.setenv("LD_PRELOAD", str(library))
        yield


def set_clock(daemon: Daemon, seconds: int) -> None:
    """Set the clock of the daemon's processes alone, so far ahead."""
    (daemon.folder / f"{NAME}.new").write_text(str(seconds))
    (daemon.folder / f"{NAME}.new").replace(daemon.folder / NAME)
