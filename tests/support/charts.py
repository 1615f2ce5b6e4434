"""What kustomize and the Helm chart render, the restricted Pod Security standard, and the copies of the alerts.

`python -m tests.support.charts` writes the copies of deploy/prometheus/alerts.yml anew.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from tests.support.programs import needs

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
MONITORING = DEPLOY / "kubernetes" / "overlays" / "monitoring"
REPLICAS = DEPLOY / "kubernetes" / "overlays" / "replicas"
CHART = DEPLOY / "helm" / "snaprotd"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RULE = MONITORING / "prometheusrule.yaml"
CHART_ALERTS = CHART / "files" / "alerts.yml"

Manifest = dict[str, Any]
"""One object of Kubernetes."""
Name = tuple[str, str]
"""Its kind and its name."""

# --- Rendering ---------------------------------------------------------------------------------------------------


class NotRendered(Exception):
    """The program refused; its text is what it said."""


@cache
def kustomized(folder: Path) -> Mapping[Name, Manifest]:
    """What `kubectl apply -k FOLDER` would send. Raises `NotRendered`."""
    return _by_name(_output(needs("kubectl"), "kustomize", str(folder)))


@cache
def templated(*options: str, release: str = "snaprotd") -> Mapping[Name, Manifest]:
    """What `helm install` would send, with more options such as `--set`. Raises `NotRendered`."""
    return _by_name(helm("template", release, str(CHART), "--namespace", "snaprotd", *options))


def helm(*arguments: str) -> str:
    """What helm prints. Raises `NotRendered`."""
    return _output(needs("helm", ".ci/install-helm FOLDER fetches it"), *arguments)


def _output(*command: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HELM_")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    if ended.returncode != 0:
        raise NotRendered(ended.stdout + ended.stderr)
    return ended.stdout


def _by_name(text: str) -> Mapping[Name, Manifest]:
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    named = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(named) == len(manifests), "an object was rendered twice"
    return named


# --- The restricted Pod Security standard ------------------------------------------------------------------------

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}


def broken_rules(pod: Manifest) -> list[str]:
    """The rules of the restricted standard that a pod's `spec` breaks; empty if it would be let in."""
    return [rule for rule, holds in RESTRICTED.items() if not all(holds(pod, each) for each in _containers(pod))]


def _containers(pod: Manifest) -> Iterator[Manifest]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(key, [])


def _own(container: Manifest) -> Manifest:
    security: Manifest = container.get("securityContext") or {}
    return security


def _contexts(pod: Manifest, container: Manifest) -> tuple[Manifest, Manifest]:
    return pod.get("securityContext") or {}, _own(container)


def _setting(pod: Manifest, container: Manifest, key: str) -> Any:
    """A setting as it is in force: the container's wins over the pod's."""
    of_pod, of_container = _contexts(pod, container)
    return of_container.get(key, of_pod.get(key))


def _hooks(container: Manifest) -> Iterator[Manifest]:
    probes = [container.get(f"{name}Probe") or {} for name in ("startup", "liveness", "readiness")]
    for hook in [*probes, *(container.get("lifecycle") or {}).values()]:
        yield from (hook.get(kind) or {} for kind in ("httpGet", "tcpSocket"))


def _drops_all_capabilities(_: Manifest, container: Manifest) -> bool:
    capabilities = _own(container).get("capabilities") or {}
    return "ALL" in capabilities.get("drop", []) and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}


def _selinux(pod: Manifest, container: Manifest) -> bool:
    options = [context.get("seLinuxOptions") or {} for context in _contexts(pod, container)]
    return all(each.get("type") in _SELINUX_TYPES and not each.get("user") and not each.get("role") for each in options)


RESTRICTED: Mapping[str, Callable[[Manifest, Manifest], bool]] = {
    "no namespace of the host": lambda pod, _: not any(pod.get(f"host{name}") for name in ("Network", "PID", "IPC")),
    "no port of the host": lambda _, each: not any(port.get("hostPort") for port in each.get("ports", [])),
    "no probe of another host": lambda _, each: not any(hook.get("host") for hook in _hooks(each)),
    "no process of a Windows host": lambda pod, each: (
        not any((context.get("windowsOptions") or {}).get("hostProcess") for context in _contexts(pod, each))
    ),
    "not privileged": lambda _, each: not _own(each).get("privileged"),
    "no escalation of privileges": lambda _, each: _own(each).get("allowPrivilegeEscalation") is False,
    "all capabilities dropped": _drops_all_capabilities,
    "only volumes of the pod": lambda pod, _: all(
        set(volume) - {"name"} <= _VOLUMES for volume in pod.get("volumes", [])
    ),
    "not as root": lambda pod, each: _setting(pod, each, "runAsNonRoot") is True,
    "no user 0": lambda pod, each: all(context.get("runAsUser") != 0 for context in _contexts(pod, each)),
    "seccomp": lambda pod, each: (
        (_setting(pod, each, "seccompProfile") or {}).get("type") in {"RuntimeDefault", "Localhost"}
    ),
    "AppArmor": lambda pod, each: (
        (_setting(pod, each, "appArmorProfile") or {}).get("type") in {None, "RuntimeDefault", "Localhost"}
    ),
    "SELinux": _selinux,
    "/proc masked": lambda _, each: _own(each).get("procMount") in {None, "Default"},
    "only safe sysctls": lambda pod, _: (
        {each["name"] for each in (pod.get("securityContext") or {}).get("sysctls", [])} <= _SYSCTLS
    ),
}

# --- The copies of the alerts ------------------------------------------------------------------------------------

_NOTE = "# A copy of deploy/prometheus/alerts.yml: edit that, then run `python -m tests.support.charts`.\n"


def copies_of_alerts() -> Mapping[Path, str]:
    """The files that hold the alerts once more, since neither kustomize nor helm reads outside of its own folder."""
    alerts = ALERTS.read_text()
    head = f"{_NOTE}apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: snaprotd\nspec:\n"
    return {RULE: head + indent(alerts, "  "), CHART_ALERTS: _NOTE + alerts}


if __name__ == "__main__":
    for path, text in copies_of_alerts().items():
        path.write_text(text)
