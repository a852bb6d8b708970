"""File systems of a test's own: ext4 on a loop device, one that is soon full; and a library that makes syncs fail."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.support.shim import compiler

MIB = 1024 * 1024


@contextmanager
def ext4(folder: Path, mebibytes: int, *options: str) -> Iterator[tuple[Path, Path]]:
    """(the image, where it is mounted). Skips where loop mounts are not possible."""
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4 here")
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mount(image, place, *options)
    try:
        yield image, place
    finally:
        # Lazily: whoever failed may still have files open there.
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(image: Path, place: Path, *options: str) -> None:
    """Mount an image by a loop device of its own, which goes with the mount."""
    command = ["mount", "-o", ",".join(("loop", *options)), str(image), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"loop mounts are not possible here: {done.stderr.strip()}")


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
/* The file named by FAIL_SYNC holds a part of a path: syncs of files whose path has it fail with EIO. */
static int fails(int fd) {
    char part[200] = "", link[64], path[4096];
    int flag = open(getenv("FAIL_SYNC"), O_RDONLY | O_CLOEXEC);
    if (flag < 0) return 0;
    ssize_t n = read(flag, part, sizeof part - 1);
    close(flag);
    if (n <= 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, part) != NULL;
}
long syscall(long number, ...) {
    static long (*real)(long, ...);
    va_list rest;
    long a[6];
    if (!real) real = dlsym(RTLD_NEXT, "syscall");
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_io_submit && a[1] > 0 && fails((*(struct iocb **)a[2])->aio_fildes)) { errno = EIO; return -1; }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
#define SYNC(name) \
    int name(int fd) { \
        static int (*real)(int); \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if (fails(fd)) { errno = EIO; return -1; } \
        return real(fd); \
    }
SYNC(fsync)
SYNC(fdatasync)
SYNC(syncfs)
/* Writes that are durable when they return are syncs too. */
#define WRITE(name) \
    ssize_t name(int fd, const void *data, size_t length, off64_t offset) { \
        static ssize_t (*real)(int, const void *, size_t, off64_t); \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if ((fcntl(fd, F_GETFL) & O_DSYNC) && fails(fd)) { errno = EIO; return -1; } \
        return real(fd, data, length, offset); \
    }
WRITE(pwrite)
WRITE(pwrite64)
"""


def preloadable(folder: Path, name: str, source: str) -> Path:
    """A library to preload, compiled into `folder`. Skips without a compiler."""
    command = compiler()
    if command is None:
        pytest.skip("no C compiler")
    text, library = folder / f"{name}.c", folder / f"{name}.so"
    text.write_text(source)
    subprocess.run([command, "-shared", "-fPIC", "-o", library, text, "-ldl"], check=True)
    return library


class Fault:
    """What fails on demand in processes that are started with `environment`."""

    def __init__(self, folder: Path, variable: str, source: str) -> None:
        """`source` is of a library that reads the file that `variable` names. Skips without a compiler."""
        self._flag = folder / f"flag-{variable}"
        library = preloadable(folder, variable.lower(), source)
        self.environment = {"LD_PRELOAD": str(library), variable: str(self._flag)}

    @contextmanager
    def _about(self, text: str) -> Iterator[None]:
        """During the block the file holds `text`; else there is none."""
        new = self._flag.with_suffix(".new")
        new.write_text(text)
        new.replace(self._flag)
        try:
            yield
        finally:
            self._flag.unlink()

    def take_effect(self, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Start all processes with `environment` from now on."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return self


class FailingSyncs(Fault):
    """Syncs that fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "FAIL_SYNC", SHIM)

    def of(self, part: str) -> AbstractContextManager[None]:
        """During the block: of all files whose path has `part`."""
        return self._about(part)


READ_ONLY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
/* The file named by READ_ONLY holds the beginning of paths: what changes a file there fails with EROFS, also where it
   was opened before. */
static int beneath(const char *path) {
    char part[4096] = "";
    static int (*real)(const char *, int, ...);
    if (!real) real = dlsym(RTLD_NEXT, "open");
    int flag = real(getenv("READ_ONLY"), O_RDONLY | O_CLOEXEC);
    if (flag < 0) return 0;
    ssize_t n = read(flag, part, sizeof part - 1);
    close(flag);
    return n > 0 && strncmp(path, part, n) == 0;
}
static int within(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return beneath(path);
}
#define REFUSE(type, name, parameters, arguments, concerned) \
    type name parameters { \
        static type (*real) parameters; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if (concerned) { errno = EROFS; return -1; } \
        return real arguments; \
    }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        static int (*real)(const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int); \
        va_end(rest); \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if (((flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT && access(path, F_OK))) && beneath(path)) { \
            errno = EROFS; \
            return -1; \
        } \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
REFUSE(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), within(fd))
REFUSE(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t to), (fd, data, size, to), within(fd))
REFUSE(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t to), (fd, data, size, to), within(fd))
REFUSE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), within(fd))
REFUSE(int, ftruncate, (int fd, off_t size), (fd, size), within(fd))
REFUSE(int, ftruncate64, (int fd, off64_t size), (fd, size), within(fd))
REFUSE(int, mkdir, (const char *path, mode_t mode), (path, mode), beneath(path))
REFUSE(int, unlink, (const char *path), (path), beneath(path))
REFUSE(int, rename, (const char *path, const char *other), (path, other), beneath(other))
REFUSE(int, utimensat, (int fd, const char *path, const struct timespec times[2], int flags), (fd, path, times, flags),
       path && beneath(path))
"""


class ReadOnly(Fault):
    """Folders that are read-only.

    The kernel makes a file system read-only under open files when it finds an error in it, and then it stays so until
    it is mounted anew. This is for what comes and goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "READ_ONLY", READ_ONLY)

    def beneath(self, place: Path) -> AbstractContextManager[None]:
        """During the block: everything there."""
        return self._about(str(place))


@contextmanager
def small_disk(folder: Path, size: int = MIB) -> Iterator[Path]:
    """A file system of its own; skips where mounting is not permitted."""
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
