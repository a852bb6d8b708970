"""A preloaded library that kills its process at the n-th write to files of a name: before it, amid it, or after it."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from pathlib import Path

from tests.support.file_systems import preloadable

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
enum { BEFORE, AMID, AFTER };
static long count, at;
static int how;
static const char *part;
void die_at(long n, int moment) { count = 0; at = n; how = moment; }
long die_count(void) { return count; }
__attribute__((constructor)) static void begin(void) {
    const char *n = getenv("DIE_AT"), *moment = getenv("DIE_HOW");
    part = getenv("DIE_PART");
    die_at(n ? atol(n) : 0, moment ? atoi(moment) : BEFORE);
}
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }
static int concerns_path(const char *path) { return part && strstr(path, part); }
static int concerns(int fd) {
    char link[64], path[4096];
    if (!part) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return concerns_path(path);
}
#define CALL(type, name, parameters, arguments, concerned, half) \
    type name parameters { \
        static type (*real) parameters; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if (!concerned || ++count != at) return real arguments; \
        if (how == BEFORE) die(); \
        if (how == AMID) { half; die(); } \
        (void)!real arguments; \
        die(); \
        return 0; \
    }
CALL(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), concerns(fd),
     (void)!real(fd, data, size / 2))
CALL(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t to), (fd, data, size, to), concerns(fd),
     (void)!real(fd, data, size / 2, to))
CALL(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t to), (fd, data, size, to), concerns(fd),
     (void)!real(fd, data, size / 2, to))
CALL(int, ftruncate, (int fd, off_t size), (fd, size), concerns(fd), )
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size), concerns(fd), )
CALL(int, fsync, (int fd), (fd), concerns(fd), )
CALL(int, fdatasync, (int fd), (fd), concerns(fd), )
CALL(int, unlink, (const char *path), (path), concerns_path(path), )
CALL(int, link, (const char *path, const char *other), (path, other), concerns_path(path), )
CALL(int, rename, (const char *path, const char *other), (path, other), concerns_path(path), )
"""


class Moment(IntEnum):
    """When a process dies; what cannot be done by half is then not done."""

    BEFORE = 0
    AMID = 1
    AFTER = 2


class Dying:
    """The library. Processes that are started with `environment` are killed; so is one that calls `arm` in itself."""

    def __init__(self, folder: Path) -> None:
        """Compile it into `folder`. Skips without a compiler."""
        self.library = preloadable(folder, "dying", SOURCE)

    def environment(self, part: str, number: int = 0, moment: Moment = Moment.BEFORE) -> dict[str, str]:
        """Of a process that dies at its write `number` to files whose path has `part`; 0: it only counts."""
        shown = {"DIE_AT": str(number), "DIE_HOW": str(int(moment)), "DIE_PART": part}
        return {"LD_PRELOAD": str(self.library), **shown}


def arm(number: int, moment: Moment = Moment.BEFORE) -> None:
    """In a process that was started with the library: die at write `number` from now; 0: count only."""
    ctypes.CDLL(None).die_at(ctypes.c_long(number), ctypes.c_int(int(moment)))


def writes() -> int:
    """How many there were since `arm`."""
    found = ctypes.CDLL(None).die_count
    found.restype = ctypes.c_long
    return int(found())
