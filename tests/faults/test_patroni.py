"""Three nodes on a pair of servers under Patroni: whatever happens to the leader, all answers fit a linear order."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.cluster_clients import ClusterLoad
from tests.support.cluster_site import ServingNodes, serving_nodes, store
from tests.support.patroni import Pair, is_installed, patroni_pair
from tests.support.polling import until
from tests.support.workload import seconds_until

ROUNDS = int(os.environ.get("KMSD_TEST_PATRONI_ROUNDS", "1"))
"""Times that each fault is tried."""
PAUSE_SECONDS = 5.0
log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes minutes; set KMSD_TEST_SLOW"),
    pytest.mark.skipif(not is_installed(), reason="needs Debian's packages patroni and etcd-server"),
]


@pytest.fixture(name="pair", scope="module")
def _pair() -> Iterator[Pair]:
    with patroni_pair() as found:
        yield found


@pytest.fixture(name="site", scope="module")
def _site(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNodes]:
    pair.leader.run_sql("CREATE DATABASE kmsd TEMPLATE template0 ENCODING 'UTF8'")
    tables = [store([one.port for one in pair.members], "kmsd")] * 3
    with serving_nodes(tmp_path_factory.mktemp("patroni"), tables) as found:
        yield found


class Faults:
    """What happens to the leader. Each ends with a pair that is synchronous again."""

    def __init__(self, pair: Pair, site: ServingNodes, load: ClusterLoad) -> None:
        self._pair, self._site, self._load = pair, site, load

    def all(self) -> list[Callable[[], None]]:
        """Each of them once."""
        return [
            *(self.host_is_killed, self.host_is_frozen, self.server_is_killed, self.patroni_is_frozen),
            self.switchover,
        ]

    def host_is_killed(self) -> None:
        """Server and Patroni; they are started again later."""
        former = self._pair.leader
        former.kill()
        self._wait_for_service("the host of the leader is killed")
        former.start()

    def host_is_frozen(self) -> None:
        """Server and Patroni; they go on when the other one leads, and the host is reset in the end."""
        former = self._pair.leader
        former.signal_all(signal.SIGSTOP)
        self._wait_for_service("the host of the leader is frozen")
        former.signal_all(signal.SIGCONT)
        self._load.more(4)
        former.kill()
        former.start()

    def server_is_killed(self) -> None:
        """Patroni lives, and gives the lead away."""
        self._pair.leader.kill_server()
        self._wait_for_service("the server is killed")

    def patroni_is_frozen(self) -> None:
        """Its server goes on, and does not know that another one leads. In the end its host is reset."""
        former = self._pair.leader
        former.signal_patroni(signal.SIGSTOP)
        until(lambda: all(one.leads for one in self._pair.members), 120)
        self._wait_for_service("Patroni is frozen, and its server goes on")
        former.kill()
        former.start()

    def switchover(self) -> None:
        """As an operator asks for it."""
        self._pair.leader.switch_over()
        self._wait_for_service("switchover")

    def _wait_for_service(self, what: str) -> None:
        begun = time.monotonic()
        until(lambda: any(one.leads for one in self._pair.members), 120)
        leads = time.monotonic() - begun
        for node in self._site.nodes:
            kms = node.client(read_timeout=30)
            seconds_until(lambda kms=kms: kms.update_key_description(KeyId=self._load.created[0], Description=what), 60)  # type: ignore[misc]
            kms.close()
        log.info("%s: a server leads after %.1f s, nodes serve after %.1f s", what, leads, time.monotonic() - begun)
        self._load.more(4)


@pytest.mark.timeout(600 + 300 * ROUNDS)
def test_all_answers_fit_a_linear_order(pair: Pair, site: ServingNodes) -> None:
    """Nothing acknowledged is lost, nothing revoked is used; the nodes follow the leader by themselves."""
    chance = random.Random(os.environ.get("KMSD_TEST_SEED", "20261130"))  # noqa: S311 (moments, no secrets)
    for _ in range(ROUNDS):
        load = ClusterLoad(site, chance, pause=PAUSE_SECONDS)
        faults = Faults(pair, site, load)
        with load:
            load.more(10)
            for fault in chance.sample(faults.all(), len(faults.all())):
                fault()
                pair.wait_until_synchronous()
                load.renew()
                load.more(4)
        load.require_no_failure()
        load.look_at_all()
        assert load.history.violations() == []
        log.info("%d entries, %s", sum(map(len, load.history.calls.values())), dict(load.history.answers))
