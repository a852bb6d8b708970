"""The Helm chart: rendered and linted by helm, its manifests against the schemas of Kubernetes, its scripts by sh."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import kmsd
from kmsd.config import settings
from kmsd.config.sections import Config
from tests.golden import chart
from tests.host import image
from tests.support.daemon import Daemon, write_config
from tests.support.nodes import first_of_nodes
from tests.support.tokens import softhsm

DOCS = chart.ROOT / "docs"
WITHOUT_SCHEMA = {"Certificate", "PrometheusRule", "ServiceMonitor"}
"""Kinds of cert-manager and of the Prometheus operator; the schemas of Kubernetes do not have them."""
VERSIONS = ("1.27", "1.37") if "KMSD_TEST_SLOW" in os.environ else ("1.37",)
"""The earliest Kubernetes that the chart is for, and the latest whose schema there is."""
REFUSED = {
    "replicas=2": "replicas: more than one needs PostgreSQL",
    "replica=2": "additional properties 'replica' not allowed",
    "config.listen.address=127.0.0.1:1": "config.listen.address: the chart sets it",
    "config.token.pin_file=/pin": "config.token.pin_file: the chart sets it",
    "config.data_dir=/data": "config.data_dir: the chart sets it",
    "config.metrics.tls=false": "config.metrics: the chart sets it",
    "config.token.module=": "config.token.module: name the PKCS#11 library",
    "pin.secretName=": "pin: give either secretName or csi",
    "pin.csi.driver=x,pin.csi.readOnly=true": "pin: give either secretName or csi",
    "pin.csi.driver=x": "missing property 'readOnly'",
    "tls.secretName=": "tls: give either secretName or certManager",
    "tls.certManager.enabled=true": "tls: give either secretName or certManager",
    "tls.secretName=,tls.certManager.enabled=true": "tls.certManager.issuerRef: name the issuer",
    "config.store.url=postgresql://kmsd@db/kmsd": "networkPolicy.database.to: say where PostgreSQL is",
    "metrics.enabled=true": "networkPolicy.prometheus: say who may fetch metrics",
    "metrics.serviceMonitor.enabled=true": "metrics.enabled: the ServiceMonitor and the alert rules need it",
    "terminationGracePeriodSeconds=20": "terminationGracePeriodSeconds: must be 27 or more",
    "persistence.accessModes={ReadWriteMany}": "value must be one of",
}
"""Changes of the values of `single`, and what helm says."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    try:
        chart.binary()
    except image.UnavailableError as error:
        pytest.skip(f"no helm: {error}")


@pytest.fixture(scope="module", name="schemas")
def _schemas() -> Path:
    """A folder with kubernetes-validate and what it imports."""
    pins = chart.PACKAGE / "requirements.txt"

    def make(folder: Path) -> None:
        options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(folder)]
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options, "-r", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        if done.returncode != 0:
            raise image.UnavailableError(done.stderr.strip()[-300:])

    try:
        return image.kept("kubernetes-validate", pins.read_bytes() + sys.version.encode(), make)
    except image.UnavailableError as error:
        pytest.skip(f"no schemas: {error}")


@functools.cache
def text_of(case: str) -> str:
    """What helm renders of a case."""
    done = chart.rendered(case)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def manifests(case: str) -> list[dict[str, Any]]:
    """The same, read."""
    return [one for one in yaml.safe_load_all(text_of(case)) if one]


def the(kind: str, case: str, suffix: str = "") -> dict[str, Any]:
    """The one manifest of a kind whose name ends so."""
    (found,) = (one for one in manifests(case) if one["kind"] == kind and one["metadata"]["name"].endswith(suffix))
    return found


def configuration(case: str) -> Config:
    """kmsd.toml, as the daemon reads it."""
    return settings.parse(the("ConfigMap", case)["data"]["kmsd.toml"], Path("/etc/kmsd/kmsd.toml"))


def validated(schemas: Path, version: str, file: Path) -> subprocess.CompletedProcess[str]:
    """What kubernetes-validate says of a file of manifests, unknown fields being errors."""
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "--kubernetes-version", version, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(schemas)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("case", chart.CASES)
def test_manifests_are_the_reviewed_ones(case: str) -> None:
    """Each case renders to the manifests beside its values, and helm's linter has nothing to say against it."""
    assert text_of(case) == (chart.GOLDEN / case / "manifests.yaml").read_text()
    linted = chart.helm("lint", "--strict", str(chart.CHART), "--values", str(chart.GOLDEN / case / "values.yaml"))
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_fit_the_schemas_of_kubernetes(version: str, schemas: Path, tmp_path: Path) -> None:
    """No unknown field, no wrong type; a manifest with one is refused. Kinds of other projects are known by name."""
    file = tmp_path / "manifests.yaml"
    found = [one for case in chart.CASES for one in manifests(case)]
    file.write_text(yaml.safe_dump_all(one for one in found if one["kind"] not in WITHOUT_SCHEMA))
    done = validated(schemas, version, file)
    assert (done.returncode, "WARN" in done.stdout) == (0, False), done.stdout
    assert {one["kind"] for one in found} >= WITHOUT_SCHEMA
    wrong = the("StatefulSet", "single")
    wrong["spec"]["template"]["spec"]["terminationGraceSeconds"] = 60
    file.write_text(yaml.safe_dump(wrong))
    refused = validated(schemas, version, file)
    assert refused.returncode == 1
    assert "terminationGraceSeconds" in refused.stdout


@pytest.mark.parametrize("change", REFUSED)
def test_what_would_not_be_safe_is_refused(change: str) -> None:
    """Before anything is installed, with a sentence that names the value."""
    done = chart.rendered("single", "--set", change)
    assert done.returncode != 0
    assert REFUSED[change] in done.stderr


def test_the_configuration_is_the_daemons() -> None:
    """The daemon accepts the file; numbers, lists and tables arrive as they were given."""
    single, cluster, openshift = (configuration(case) for case in chart.CASES)
    assert (single.workers, single.token.session_objects, single.token.call_deadline_seconds) == (4, 1_000_000, 2.5)
    assert (single.rates.cryptographic, single.rates.burst_seconds) == (500, 0.5)
    assert single.token.environment == {"ChrystokiConfigurationPath": "/etc/luna"}
    assert single.audit.forward == ("syslog+tcp://log.example.com:514",)
    assert (single.store.url, single.metrics.address) == ("", "")
    assert single.client_url == "https://kmsd.keys.svc:8443"
    assert cluster.client_url == "https://kms.example.com:443"
    assert cluster.tokens[0].serves == ("ML_DSA_65", "ML_KEM_768")
    assert cluster.web_identity[0].issuer == "https://oidc.example.com/cluster"
    assert (cluster.store.tls, cluster.store.question_seconds) == ("verify", 1.5)
    assert str(cluster.store.password_file) == "/run/secrets/database/password"
    assert (openshift.metrics.tls, str(openshift.listen.tls_client_ca)) == (True, "/run/secrets/client-ca/ca.crt")


@pytest.mark.parametrize("case", chart.CASES)
def test_every_file_of_the_configuration_is_mounted(case: str) -> None:
    """Each path below /run/secrets in kmsd.toml is in a volume of both containers, which cannot write it."""
    pod = the("StatefulSet", case)["spec"]["template"]["spec"]
    text = the("ConfigMap", case)["data"]["kmsd.toml"]
    wanted = {word.strip('",').rpartition("/")[0] for word in text.split() if word.startswith('"/run/secrets/')}
    assert wanted
    for container in (pod["initContainers"][-1], pod["containers"][0]):
        mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
        assert wanted <= set(mounts)
        assert all(mounts[folder]["readOnly"] for folder in wanted)
        volumes = {volume["name"] for volume in pod["volumes"]} | {"data"}
        assert {mount["name"] for mount in mounts.values()} <= volumes


@pytest.mark.parametrize("case", chart.CASES)
def test_the_pod_is_confined(case: str) -> None:
    """No root, no capability, no writable root, no service account token, in any container."""
    pod = the("StatefulSet", case)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("case", chart.CASES)
def test_no_rule_of_the_network_policy_is_open(case: str) -> None:
    """A rule without peers or without ports would admit everything."""
    policy = the("NetworkPolicy", case)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["ingress"]:
        assert rule["from"]
        assert rule["ports"]
    for rule in policy["egress"]:
        assert rule["to"]
        assert rule["ports"]


def test_without_clients_nobody_is_admitted() -> None:
    """An empty list of clients is no rule at all."""
    done = chart.rendered("single", "--set", "networkPolicy.clients=null")
    (policy,) = (one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "NetworkPolicy")
    assert policy["spec"]["ingress"] == []


def test_the_alert_rules_are_those_of_the_documentation() -> None:
    """One text: `cp docs/alerts.yaml deploy/helm/kmsd/files/` after a change. Prometheus finds the job by its label."""
    assert (chart.CHART / "files/alerts.yaml").read_bytes() == (DOCS / "alerts.yaml").read_bytes()
    assert the("PrometheusRule", "cluster")["spec"] == yaml.safe_load((DOCS / "alerts.yaml").read_text())
    monitor, service = the("ServiceMonitor", "cluster")["spec"], the("Service", "cluster", "-nodes")
    labels = service["metadata"]["labels"]
    assert labels[monitor["jobLabel"]] == "kmsd"
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    names = the("Certificate", "cluster")["spec"]["dnsNames"]
    assert monitor["endpoints"][0]["tlsConfig"]["serverName"] in names


def test_its_version_is_the_programs() -> None:
    """The chart installs the release that it is part of."""
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert described["appVersion"] == described["version"] == kmsd.__version__


class Pod:
    """What the chart's scripts find in a pod: the command `kmsd`, a volume, and themselves."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self.volume, self.scripts = folder / "volume", folder / "scripts"
        self.volume.mkdir(parents=True)
        self.scripts.mkdir()
        for name, text in the("ConfigMap", "single")["data"].items():
            lines = [
                line if "echo" in line else line.replace("/etc/kmsd", str(self.scripts)) for line in text.split("\n")
            ]
            (self.scripts / name).write_text("\n".join(lines).replace("/var/lib/kmsd", str(self.volume)))
        command = f'#!/bin/sh\nexec {sys.executable} -m kmsd --config {daemon.config} "$@"\n'
        (self.scripts / "kmsd").write_text(command)
        (self.scripts / "kmsd").chmod(0o755)

    def started(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """A script that runs."""
        environment = {**os.environ, **variables, "PATH": f"{self.scripts}:{os.environ['PATH']}"}
        command = ["/bin/sh", str(self.scripts / script), *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A script that ends."""
        with self.started(script, *arguments, **variables) as process:
            said, complained = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


@pytest.fixture(name="pod")
def _pod(tmp_path: Path) -> Iterator[Pod]:
    """The scripts of the chart, in folders of this test."""
    with softhsm(tmp_path / "token") as place:
        yield Pod(tmp_path, Daemon(tmp_path, place, 0, write_config(tmp_path, place, 8443)))


def test_a_new_pod_waits_for_the_operator(pod: Pod) -> None:
    """Until `kmsd init` has worked: one that fails lets nothing start. Later starts of the pod do not wait."""
    with pod.started("wait", JOIN="false", POD="kmsd-0") as waiting:
        assert waiting.stdout is not None
        assert "sh /etc/kmsd/provision init" in waiting.stdout.readline()
        assert pod.run("provision", "join").returncode == 78
        assert waiting.poll() is None
        assert "AWS_SECRET_ACCESS_KEY=" in pod.run("provision", "init", "--format", "env").stdout
        assert waiting.wait(60) == 0
    assert pod.run("wait", JOIN="false", POD="kmsd-0").returncode == 0
    assert pod.run("wait", JOIN="true", POD="kmsd-1").returncode == 0


def test_only_further_pods_join_by_themselves(pod: Pod) -> None:
    """The first one waits for the operator even then. One that cannot join fails, and Kubernetes starts it again."""
    with pod.started("wait", JOIN="true", POD="kmsd-0") as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("waiting")
        first.kill()
    further = pod.run("wait", JOIN="true", POD="kmsd-10")
    assert further.returncode == 78
    assert "nodes need PostgreSQL" in further.stderr


def test_maintenance_holds_the_daemon_back(pod: Pod) -> None:
    """Also with a data folder that is made; SIGTERM ends it at once."""
    (pod.volume / "provisioned").touch()
    with pod.started("wait", MAINTENANCE="true", JOIN="true", POD="kmsd-1") as held:
        assert held.stdout is not None
        assert held.stdout.readline().startswith("maintenance")
        assert held.poll() is None
        held.terminate()
        assert held.wait(10) == -signal.SIGTERM


@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes a PostgreSQL; set KMSD_TEST_SLOW")
def test_a_further_pod_joins(tmp_path: Path) -> None:
    """Under the pod's name, once. Removed, it is let through by the script, and refused by the daemon."""
    with first_of_nodes(tmp_path / "first") as site:
        host = site.host(tmp_path / "second")
        pod = Pod(tmp_path / "pod", host)
        for _ in range(2):
            assert pod.run("wait", JOIN="true", POD="kmsd-1").returncode == 0
        assert "kmsd-1" in site.first.cli("node", "list").stdout.decode()
        site.first.cli("node", "remove", "kmsd-1", "--force")
        assert pod.run("wait", JOIN="true", POD="kmsd-1").returncode == 0
        refused = host.cli("serve", check=False)
        assert refused.returncode == 78
