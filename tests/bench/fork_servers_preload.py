"""Imported by multiprocessing's fork server: the same modules as in kmsd's, frozen."""

from __future__ import annotations

from kmsd.daemon import fork_server

fork_server.preload_modules()
