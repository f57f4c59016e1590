"""The rules of tools/manifests/rules.py hold, and each of them can fail.

`BROKEN` breaks one thing each, and names the sentence that must come back.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

import dlna_rules
import relay_rules
import render
import rules
from tests.support.manifest_changes import Break, Manifest
from tests.support.manifest_changes import find as _find
from tests.support.manifest_changes import set_at as _set
from tests.support.tree import ROOT


@pytest.fixture
def objects() -> list[Manifest]:
    return render.process(render.load_template())


def test_objects_hold_every_rule(objects: list[Manifest]) -> None:
    assert rules.problems(objects) == []


def test_rendered_manifests_hold_every_rule() -> None:
    files = sorted(path for path in (ROOT / "deployments" / "base").glob("*.yaml") if path.name != "kustomization.yaml")
    objects = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    assert len(objects) == 6
    assert rules.problems(objects) == []


def _pod_spec(objects: list[Manifest]) -> Any:
    return _find(objects, "StatefulSet")["spec"]["template"]["spec"]


def _container(objects: list[Manifest]) -> Any:
    return _pod_spec(objects)["containers"][0]


def _sender_container(objects: list[Manifest]) -> Any:
    return _find(objects, "Pod")["spec"]["containers"][0]


def _service(objects: list[Manifest]) -> Any:
    return _find(objects, "Service")["spec"]


def _stateful_set(objects: list[Manifest]) -> Any:
    return _find(objects, "StatefulSet")["spec"]


def _sender(objects: list[Manifest]) -> Any:
    return _find(objects, "Pod")


def _budget(objects: list[Manifest]) -> Any:
    return _find(objects, "PodDisruptionBudget")["spec"]


def _receivers_policy(objects: list[Manifest]) -> Any:
    return _find(objects, "NetworkPolicy", "udp-receivers")["spec"]


def _sender_policy(objects: list[Manifest]) -> Any:
    return _find(objects, "NetworkPolicy", "udp-sender")["spec"]


def _duplicate(objects: list[Manifest]) -> None:
    objects.append(copy.deepcopy(objects[0]))


def _added_capability(objects: list[Manifest]) -> None:
    _container(objects)["securityContext"]["capabilities"]["add"] = ["NET_RAW"]


BROKEN: list[tuple[str, Break, str]] = [
    ("two of a name", _duplicate, "Service/headless-udp must be unique; it is there twice"),
    ("a namespace", _set(_sender, "metadata", "namespace", value="default"), "namespace must be left out"),
    ("a reference left", _set(_container, "image", value="${RECEIVER_IMAGE}"),
     r"image must hold no reference .*; got '\$\{RECEIVER"),
    ("a reference in a key", _set(_sender, "metadata", "labels", "${X}", value="y"),
     r"must hold no reference to a parameter; got '\$\{X\}'"),
    ("a virtual IP", _set(_service, "clusterIP", value="10.0.0.1"), "clusterIP must be .*; got '10.0.0.1'"),
    ("no clusterIP", _set(_service, "clusterIP", value=None), "clusterIP must be .*; got None"),
    ("unready pods in DNS", _set(_service, "publishNotReadyAddresses", value=True), "publishNotReadyAddresses"),
    ("a TCP Service", _set(_service, "ports", 0, "protocol", value="TCP"),
     "protocol of port 12000 must be UDP; got TCP"),
    ("no protocol", _set(_service, "ports", 0, "protocol", value=None), "protocol of port 12000 must be UDP; got TCP"),
    ("a port without name", _set(_service, "ports", 0, "name", value=None),
     "must have a name: without one it has no SRV record"),
    ("a Service for nobody", _set(_service, "selector", value={"app": "x"}), "spec.selector must match a pod; got"),
    ("a Service for everybody", _set(_service, "selector", value={}), "spec.selector must not be empty"),
    ("a Service for the sender", _set(_service, "selector", value={"headless-udp-client": "true"}),
     "Pod/sender must declare UDP 12000"),
    ("another Service port", _set(_service, "ports", 0, "port", value=12001),
     "UDP port must be the same everywhere; got 12001 in Service"),
    ("another targetPort", _set(_service, "ports", 0, "targetPort", value=1), "must declare UDP 1"),
    ("a privileged port", _set(_service, "ports", 0, "port", value=53),
     "UDP port must be a number from 1024 to 65535; got '53'"),
    ("another container port", _set(_container, "ports", 0, "containerPort", value=9), "must declare UDP 12000"),
    ("a TCP container port", _set(_container, "ports", 0, "protocol", value="TCP"), "must declare UDP 12000"),
    ("another FANOUT_PORT", _set(_container, "env", 0, "value", value="1"), "1 in StatefulSet/.* FANOUT_PORT"),
    ("no FANOUT_PORT", _set(_container, "env", 0, value=None), "None in StatefulSet/.* FANOUT_PORT"),
    ("another FANOUT_ADMIN_PORT", _set(_container, "env", 1, "value", value="8081"),
     "the admin port must be the same everywhere"),
    ("another admin port", _set(_container, "ports", 1, "containerPort", value=8081),
     "the admin port must be the same everywhere"),
    ("another scraped port",
     _set(_stateful_set, "template", "metadata", "annotations", "prometheus.io/port", value="1"), "prometheus.io/port"),
    ("another sender port", _set(_sender_container, "env", 1, "value", value="9"), "9 in Pod/sender"),
    ("replicas in words", _set(_stateful_set, "replicas", value="many"),
     "replicas must be a number of at least 0; got 'many'"),
    ("an orphan StatefulSet", _set(_stateful_set, "selector", "matchLabels", "app.kubernetes.io/name", value="x"),
     "selector must match the pod template"),
    ("no such serviceName", _set(_stateful_set, "serviceName", value="udp"),
     "serviceName must be a Service of this deployment; got udp"),
    ("another's serviceName", _set(_service, "selector", "app.kubernetes.io/component", value="sender"),
     "Service headless-udp must select its pods"),
    ("a budget for nobody", _set(_budget, "selector", "matchLabels", "app.kubernetes.io/name", value="x"),
     "PodDisruptionBudget/.*spec.selector must match a pod"),
    ("a spread of nobody", _set(_pod_spec, "topologySpreadConstraints", 0, "labelSelector", "matchLabels",
     value={"a": "b"}), r"topologySpreadConstraints\[0\].labelSelector must match a pod"),
    ("a probe of no port", _set(_container, "readinessProbe", "httpGet", "port", value=9),
     "must ask a port that the container declares; got 9"),
    ("a probe of UDP", _set(_container, "livenessProbe", "httpGet", "port", value="udp"),
     "must ask a port that the container declares; got udp"),
    ("a wrong probe", _set(_container, "readinessProbe", "httpGet", "path", value="/livez"),
     "must ask /readyz; got /livez"),
    ("no probe", _set(_container, "startupProbe", value=None), "startup probe must be given"),
    ("root allowed", _set(_pod_spec, "securityContext", "runAsNonRoot", value=None),
     "runAsNonRoot must be True; got None"),
    ("no seccomp", _set(_pod_spec, "securityContext", "seccompProfile", value=None),
     "seccompProfile must be .*; got None"),
    ("a fixed UID", _set(_pod_spec, "securityContext", "runAsUser", value=1001), "runAsUser must not be set"),
    ("privileged", _set(_container, "securityContext", "privileged", value=True), "privileged must not be set"),
    ("escalation", _set(_container, "securityContext", "allowPrivilegeEscalation", value=True), "allowPrivilegeEsc"),
    ("a writable root", _set(_container, "securityContext", "readOnlyRootFilesystem", value=None), "readOnlyRootFile"),
    ("a capability", _added_capability, "capabilities must be .*; got .*NET_RAW"),
    ("no context", _set(_sender_container, "securityContext", value=None), "Pod/sender: .*capabilities"),
    ("the host's network", _set(_pod_spec, "hostNetwork", value=True), "hostNetwork must not be set: only a relay"),
    ("the host's processes", _set(_pod_spec, "hostPID", value=True), "hostPID must not be set"),
    ("a mount of nothing", _set(_container, "volumeMounts", 0, "name", value="x"),
     "must be of a volume of the pod; got x"),
    ("a ConfigMap that is not there", _set(_pod_spec, "volumes", 0, value={"name": "key", "configMap": {"name": "x"}}),
     "ConfigMap must be of this deployment; got x"),
    ("a token", _set(_sender, "spec", "automountServiceAccountToken", value=None),
     "automountServiceAccountToken must be False; got"),
    ("service links", _set(_pod_spec, "enableServiceLinks", value=True), "enableServiceLinks must be False; got True"),
    ("a CPU limit", _set(_container, "resources", "limits", "cpu", value="1"), "limits must be for memory alone"),
    ("no request", _set(_container, "resources", "requests", "cpu", value=None), "requests must be for cpu and memory"),
    ("no pod name", _set(_container, "env", 6, value=None), "env must have POD_NAME, .* from the downward API"),
    ("an endless volume", _set(_pod_spec, "volumes", value=[{"name": "t", "emptyDir": {}}]), "t must have a sizeLimit"),
    ("a place of the node", _set(_pod_spec, "volumes", value=[{"name": "t", "hostPath": {"path": "/"}}]),
     "volume t must be one of configMap, secret, .*; got hostPath"),
    ("a claim that is not there",
     _set(_pod_spec, "volumes", value=[{"name": "t", "persistentVolumeClaim": {"claimName": "x", "readOnly": True}}]),
     "volume t: claim must be of this deployment; got x"),
    ("a needed Secret", _set(_pod_spec, "volumes", 0, "secret", "optional", value=None), "volume key must be optional"),
    ("a writable key", _set(_container, "volumeMounts", 0, "readOnly", value=False), "fanout must be read-only"),
    ("a key that stays", _set(_container, "volumeMounts", 0, "subPath", value="key"), "new content would not be seen"),
    ("a key file that is nowhere", _set(_sender_container, "env", 2, "value", value="/etc/fanout2/key"),
     r"Pod/sender: FANOUT_KEY_FILE must lie in a volume \(/etc/fanout\); got /etc/fanout2/key"),
    ("a receiver without the key", _set(_sender_container, "env", 2, "value", value="/etc/fanout/key"),
     "FANOUT_KEY_FILE must be the same everywhere; "
     "got None in StatefulSet/statefulset-udp-server, /etc/fanout/key in Pod/sender"),
    ("a short grace", _set(_pod_spec, "terminationGracePeriodSeconds", value=10),
     "longer than the drain time of 10 s; got 10 s"),
    ("no drain time", _set(_container, "env", 4, "value", value="soon"), "must be numbers of seconds; got 'soon'"),
    ("no policy", _set(_sender_policy, "podSelector", "matchLabels", "app.kubernetes.io/name", value="x"),
     "Pod/sender: a NetworkPolicy must limit its ingress"),
    ("free egress", _set(_receivers_policy, "policyTypes", value=["Ingress"]), "a NetworkPolicy must limit its egress"),
    ("everybody sends", _set(_receivers_policy, "ingress", 0, "from", value=None),
     "must have 'from': without it everybody"),
    ("another sender", _set(_receivers_policy, "ingress", 0, "from", 0, "podSelector", "matchLabels", value={"a": "b"}),
     "must take UDP from pods with .* alone"),
    ("a policy for TCP", _set(_receivers_policy, "ingress", 0, "ports", 0, "protocol", value="TCP"),
     "must take UDP from pods with .* alone"),
    ("a policy for another port", _set(_receivers_policy, "ingress", 0, "ports", 0, "port", value=12001),
     "12001 in NetworkPolicy/udp-receivers"),
    ("a talking receiver", _set(_receivers_policy, "egress", value=[{"to": [{"podSelector": {"matchLabels": {
     "headless-udp-client": "true"}}}], "ports": [{"protocol": "UDP", "port": 12000}]}]), "egress must be empty"),
    ("an unlabelled sender", _set(_sender, "metadata", "labels", "headless-udp-client", value=None),
     "must have the label"),
    ("no DNS over TCP", _set(_sender_policy, "egress", 1, "ports", 1, value=None),
     "other egress must be DNS on UDP and"),
    ("no way to receivers", _set(_sender_policy, "egress", 0, value=None), "egress must reach the receivers"),
    ("a way to others", _set(_sender_policy, "egress", 0, "to", 0, "podSelector", "matchLabels",
     "app.kubernetes.io/component", value="sender"), "egress must reach the receivers"),
    ("any DNS anywhere", _set(_sender_policy, "egress", 1, "to", value=None), "must have 'to': without it everybody"),
    ("a way to everywhere", _set(_sender_policy, "egress", 1, "to", value=[]), "must have 'to': without it everybody"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), [pytest.param(*rest, id=name) for name, *rest in BROKEN])
def test_rules_find_what_is_broken(objects: list[Manifest], change: Break, sentence: str) -> None:
    change(objects)
    assert [problem for problem in rules.problems(objects) if re.search(sentence, problem)], rules.problems(objects)


def test_every_rule_is_shown_to_fail() -> None:
    """Those of relays and of DLNA by test_relay_rules.py and test_dlna_rules.py."""
    failing: set[object] = set()
    for _, change, _ in BROKEN:
        objects = render.process(render.load_template())
        change(objects)
        failing |= {rule for rule in set(rules.RULES) - failing if list(rule(objects))}
    assert failing | set(relay_rules.RULES) | set(dlna_rules.RULES) == set(rules.RULES)
