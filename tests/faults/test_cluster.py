"""Three nodes, a primary and its synchronous standby: whatever dies, all answers fit a linear order."""

from __future__ import annotations

import functools
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.cluster_clients import CLIENTS, ClusterLoad, History, NodeClient, policy_text
from tests.support.cluster_site import ClusterSite, cluster_site
from tests.support.daemon import Daemon
from tests.support.linear_models import KeyState
from tests.support.polling import until
from tests.support.reference_writer import ReferenceWriter
from tests.support.workload import seconds_until

ROUNDS = int(os.environ.get("KMSD_TEST_CLUSTER_ROUNDS", "1"))
"""Times that each fault is tried. 50 take half an hour."""
SERVICE_SECONDS = 5.0
"""From the end of a failover until every node serves reads and writes, as `ReferenceWriter` measures it."""
CALL_SECONDS = 10.0
"""The same until every client has had an answer, those with a call under way when the primary failed included."""
log = logging.getLogger(__name__)


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    with cluster_site(tmp_path_factory.mktemp("cluster")) as found:
        yield found


class Faults:
    """What happens to servers, nodes and connections, under a load."""

    def __init__(self, site: ClusterSite, load: ClusterLoad, chance: random.Random) -> None:
        self._site, self._load, self._chance = site, load, chance
        self.waits: list[tuple[str, float, float, float]] = []
        """Fault and who waited (a node's first read and write, or all clients); seconds, by the reference, at most."""

    def all(self) -> list[Callable[[], None]]:
        """Each of them once."""
        return [
            *(self.primary_is_killed, self.primary_is_frozen_and_replaced, self.primary_is_cut_off_and_replaced),
            *(self.primary_is_frozen, self.node_is_killed, self.node_is_frozen, self.connections_are_cut),
            self.connections_are_slow,
        ]

    def primary_is_killed(self) -> None:
        """By kill -9 of all its processes."""
        self._site.primary.kill()
        self._replace("killed")

    def primary_is_frozen_and_replaced(self) -> None:
        """It goes on when all is over."""
        self._site.primary.freeze()
        self._replace("frozen", lambda former: former.thaw())

    def primary_is_cut_off_and_replaced(self) -> None:
        """It goes on answering. One node has lost its connections, and finds the new one at once."""
        self._site.standby.cut_off()
        self._replace("cut off", lambda _: self._site.proxy.cut(0))

    def _replace(self, what: str, then: Callable[..., None] = lambda _: None) -> None:
        """Promote the standby; every node serves soon. The replaced server lives on for some calls."""
        former = self._site.promote()
        with ReferenceWriter(self._site.primary) as reference, ThreadPoolExecutor() as threads:
            begun = time.monotonic()
            list(threads.map(lambda node: self._serves(what, node, reference), self._site.nodes))
            self._load.more(1)
            took = time.monotonic() - begun
            self.waits.append((f"{what}, all clients", took, reference.seconds, CALL_SECONDS))
        then(former)
        self._load.more(4)
        self._site.rebuild()

    def _serves(self, what: str, node: Daemon, reference: ReferenceWriter) -> None:
        """Wait until a node has used a key, and changed it; note how long it took."""
        kms, key_id, begun = node.client(read_timeout=30), self._load.created[0], time.monotonic()
        for act in (
            lambda: kms.describe_key(KeyId=key_id),
            lambda: kms.update_key_description(KeyId=key_id, Description=f"{node.folder.name} {begun}"),
        ):
            seconds_until(act, 60)
            took = time.monotonic() - begun
            self.waits.append((f"{what}, {node.folder.name}", took, reference.seconds, SERVICE_SECONDS))
        kms.close()

    def primary_is_frozen(self) -> None:
        """And goes on, before anybody has replaced it."""
        self._site.primary.freeze()
        time.sleep(self._chance.uniform(0.2, 3.5))
        self._site.primary.thaw()

    def _node(self) -> int:
        return self._chance.randrange(len(self._site.nodes))

    def node_is_killed(self) -> None:
        """By kill -9 of all its processes; it is started again."""
        node = self._site.nodes[self._node()]
        node.kill()
        node.start()

    def node_is_frozen(self) -> None:
        """The others go on. It makes no key: it would hold the lock of SoftHSM2's files, which all nodes share."""
        self._load.creates = False
        self._load.more(1)
        number = self._node()
        node = self._site.nodes[number]
        node.signal_all(signal.SIGSTOP)
        others = [one for one in range(len(self._site.nodes) * CLIENTS) if one // CLIENTS != number]
        self._load.more(8, others)
        node.signal_all(signal.SIGCONT)
        self._load.creates = True

    def connections_are_cut(self) -> None:
        """All of a node to the database, some times."""
        for _ in range(6):
            self._site.proxy.cut(self._node())
            time.sleep(self._chance.uniform(0.0, 0.3))

    def connections_are_slow(self) -> None:
        """Those of one node; of another, nothing passes for a while."""
        slow, held = self._chance.sample(range(len(self._site.nodes)), 2)
        self._site.proxy.delay(slow, self._chance.uniform(0.001, 0.02))
        self._site.proxy.hold(held)
        time.sleep(self._chance.uniform(0.2, 3.0))
        self._site.proxy.resume(held)
        self._load.more(4)
        self._site.proxy.delay(slow, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_all_answers_fit_a_linear_order(site: ClusterSite) -> None:
    """Nothing acknowledged is lost, nothing revoked is used, and no error comes but those that clients repeat."""
    chance = random.Random(os.environ.get("KMSD_TEST_SEED", "20261130"))  # noqa: S311 (moments, no secrets)
    for _ in range(ROUNDS):
        load = ClusterLoad(site, chance)
        faults = Faults(site, load, chance)
        with load:
            load.more(10)
            for fault in chance.sample(faults.all(), len(faults.all())):
                began = time.monotonic()
                fault()
                load.more(4)
                load.renew()
                log.info("%.1f s: %s", time.monotonic() - began, fault.__name__)
        load.require_no_failure()
        for what, seconds, reference, _ in faults.waits:
            log.info("%s: served after %.2f s (reference %.2f s)", what, seconds, reference)
        assert [one for one in faults.waits if one[2] > one[3]] == []
        load.look_at_all()
        begun = time.monotonic()
        assert load.history.violations() == []
        calls = sum(map(len, load.history.calls.values()))
        log.info("%d entries, checked in %.1f s; %s", calls, time.monotonic() - begun, dict(load.history.answers))


def restart(node: Daemon, old: str, new: str) -> None:
    """With a line of its configuration replaced."""
    node.stop()
    node.config.write_text(node.config.read_text().replace(old, new))
    node.start()


@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes long; set KMSD_TEST_SLOW")
@pytest.mark.slow
def test_plain_questions_are_found_out(site: ClusterSite) -> None:
    """A node that does not ask for the standby goes on using a key that was disabled; the checker finds it."""
    plain, history = site.nodes[2], History()
    restart(plain, 'tls = "off"\n', 'tls = "off"\nquestions = "plain"\n')
    clients = [NodeClient(site, node, history, node.folder.name) for node in site.nodes]
    key = clients[0].kms.create_key(Policy=policy_text("shut-0", site.guest.arn))["KeyMetadata"]["KeyId"]
    history.initial[key] = KeyState(policy="shut-0")
    for client in clients:
        until(functools.partial(client.perform, client.encrypt(key), "encrypt"))
    site.standby.cut_off()
    site.promote()
    site.proxy.cut(0)
    until(lambda: clients[0].perform(clients[0].disable(key), "disable"))
    until(lambda: clients[1].perform(clients[1].encrypt(key), "encrypt"))
    assert history.violations() == []
    assert clients[2].perform(clients[2].encrypt(key), "encrypt")
    (found,) = history.violations()
    assert "node-3 encrypt: ok: Looks(is_enabled=True" in found, found
    for client in clients:
        client.close()
    site.rebuild()
    restart(plain, 'questions = "plain"\n', "")
