"""Which worker of pytest-xdist runs which tests, and in which order (`-n 2`)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

FIRST = ("tests/host", "tests/packaging", "tests/faults", "tests/e2e", "tests/contract", "tests/api")
"""Folders whose files take long; begun last, one of them would be waited for."""


def _place(scope: str) -> int:
    return next((place for place, folder in enumerate(FIRST) if scope.startswith(folder)), len(FIRST))


class Dealer(LoadScopeScheduling):
    """A file goes to one worker, because its tests share a daemon; `tests/host`, which shares layers, as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "tests/host" if file.startswith("tests/host/") else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        # The first of the smallest: within a folder the order stays as it is.
        self.workqueue.move_to_end(min(self.workqueue, key=_place), last=False)
        super()._assign_work_unit(node)
