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
from tests.support.breaking import Break, Manifest
from tests.support.breaking import find as _find
from tests.support.breaking import set_at as _set
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
    ("two of a name", _duplicate, "Service/headless-udp is there twice"),
    ("a namespace", _set(_sender, "metadata", "namespace", value="default"), "names a namespace"),
    ("a reference left", _set(_container, "image", value="${RECEIVER_IMAGE}"), r"image still holds '\$\{RECEIVER"),
    ("a reference in a key", _set(_sender, "metadata", "labels", "${X}", value="y"), r"still holds '\$\{X\}'"),
    ("a virtual IP", _set(_service, "clusterIP", value="10.0.0.1"), "clusterIP is '10.0.0.1'"),
    ("no clusterIP", _set(_service, "clusterIP", value=None), "clusterIP is None"),
    ("unready pods in DNS", _set(_service, "publishNotReadyAddresses", value=True), "publishNotReadyAddresses"),
    ("a TCP Service", _set(_service, "ports", 0, "protocol", value="TCP"), "port 12000 is TCP, not UDP"),
    ("no protocol", _set(_service, "ports", 0, "protocol", value=None), "port 12000 is TCP, not UDP"),
    ("a port without name", _set(_service, "ports", 0, "name", value=None), "no SRV record"),
    ("a Service for nobody", _set(_service, "selector", value={"app": "x"}), "spec.selector .* matches no pod"),
    ("a Service for everybody", _set(_service, "selector", value={}), "spec.selector is empty"),
    ("a Service for the sender", _set(_service, "selector", value={"headless-udp-client": "true"}),
     "Pod/sender does not declare UDP 12000"),
    ("another Service port", _set(_service, "ports", 0, "port", value=12001), "the UDP port differs: 12001 in Service"),
    ("another targetPort", _set(_service, "ports", 0, "targetPort", value=1), "does not declare UDP 1"),
    ("a privileged port", _set(_service, "ports", 0, "port", value=53), "UDP port '53' is no number from 1024"),
    ("another container port", _set(_container, "ports", 0, "containerPort", value=9), "does not declare UDP 12000"),
    ("a TCP container port", _set(_container, "ports", 0, "protocol", value="TCP"), "does not declare UDP 12000"),
    ("another FANOUT_PORT", _set(_container, "env", 0, "value", value="1"), "1 in StatefulSet/.* FANOUT_PORT"),
    ("no FANOUT_PORT", _set(_container, "env", 0, value=None), "None in StatefulSet/.* FANOUT_PORT"),
    ("another FANOUT_ADMIN_PORT", _set(_container, "env", 1, "value", value="8081"), "the admin port differs"),
    ("another admin port", _set(_container, "ports", 1, "containerPort", value=8081), "the admin port differs"),
    ("another scraped port",
     _set(_stateful_set, "template", "metadata", "annotations", "prometheus.io/port", value="1"), "prometheus.io/port"),
    ("another sender port", _set(_sender_container, "env", 1, "value", value="9"), "9 in Pod/sender"),
    ("replicas in words", _set(_stateful_set, "replicas", value="many"), "replicas is 'many', no number"),
    ("an orphan StatefulSet", _set(_stateful_set, "selector", "matchLabels", "app.kubernetes.io/name", value="x"),
     "its selector does not match its pod template"),
    ("no such serviceName", _set(_stateful_set, "serviceName", value="udp"), "serviceName udp is no Service"),
    ("another's serviceName", _set(_service, "selector", "app.kubernetes.io/component", value="sender"),
     "Service headless-udp does not select its pods"),
    ("a budget for nobody", _set(_budget, "selector", "matchLabels", "app.kubernetes.io/name", value="x"),
     "PodDisruptionBudget/.*spec.selector .* matches no pod"),
    ("a spread of nobody", _set(_pod_spec, "topologySpreadConstraints", 0, "labelSelector", "matchLabels",
     value={"a": "b"}), r"topologySpreadConstraints\[0\].labelSelector .* matches no pod"),
    ("a probe of no port", _set(_container, "readinessProbe", "httpGet", "port", value=9), "asks port 9, which"),
    ("a probe of UDP", _set(_container, "livenessProbe", "httpGet", "port", value="udp"), "asks port udp, which"),
    ("a wrong probe", _set(_container, "readinessProbe", "httpGet", "path", value="/livez"), "asks /livez, not /read"),
    ("no probe", _set(_container, "startupProbe", value=None), "startup probe is missing"),
    ("root allowed", _set(_pod_spec, "securityContext", "runAsNonRoot", value=None), "runAsNonRoot is None"),
    ("no seccomp", _set(_pod_spec, "securityContext", "seccompProfile", value=None), "seccompProfile is None"),
    ("a fixed UID", _set(_pod_spec, "securityContext", "runAsUser", value=1001), "runAsUser is set"),
    ("privileged", _set(_container, "securityContext", "privileged", value=True), "privileged is set"),
    ("escalation", _set(_container, "securityContext", "allowPrivilegeEscalation", value=True), "allowPrivilegeEsc"),
    ("a writable root", _set(_container, "securityContext", "readOnlyRootFilesystem", value=None), "readOnlyRootFile"),
    ("a capability", _added_capability, "capabilities is .*NET_RAW"),
    ("no context", _set(_sender_container, "securityContext", value=None), "Pod/sender: .*capabilities"),
    ("the host's network", _set(_pod_spec, "hostNetwork", value=True), "hostNetwork is used, and only a relay"),
    ("the host's processes", _set(_pod_spec, "hostPID", value=True), "hostPID is used"),
    ("a mount of nothing", _set(_container, "volumeMounts", 0, "name", value="x"), "there is no volume x"),
    ("a ConfigMap that is not there", _set(_pod_spec, "volumes", 0, value={"name": "key", "configMap": {"name": "x"}}),
     "ConfigMap x is not of this deployment"),
    ("a token", _set(_sender, "spec", "automountServiceAccountToken", value=None), "automountServiceAccountToken is"),
    ("service links", _set(_pod_spec, "enableServiceLinks", value=True), "enableServiceLinks is True"),
    ("a CPU limit", _set(_container, "resources", "limits", "cpu", value="1"), "does not limit memory, and memory al"),
    ("no request", _set(_container, "resources", "requests", "cpu", value=None), "does not request cpu and memory"),
    ("no pod name", _set(_container, "env", 6, value=None), "downward API does not give POD_NAME"),
    ("an endless volume", _set(_pod_spec, "volumes", value=[{"name": "t", "emptyDir": {}}]), "t has no sizeLimit"),
    ("a place of the node", _set(_pod_spec, "volumes", value=[{"name": "t", "hostPath": {"path": "/"}}]),
     "volume t is no Secret, no ConfigMap, no claim"),
    ("a claim that is not there",
     _set(_pod_spec, "volumes", value=[{"name": "t", "persistentVolumeClaim": {"claimName": "x", "readOnly": True}}]),
     "volume t: claim x is not of this deployment"),
    ("a needed Secret", _set(_pod_spec, "volumes", 0, "secret", "optional", value=None), "volume key is not optional"),
    ("a writable key", _set(_container, "volumeMounts", 0, "readOnly", value=False), "fanout is not read-only"),
    ("a key that stays", _set(_container, "volumeMounts", 0, "subPath", value="key"), "a new content is not seen"),
    ("a key file that is nowhere", _set(_sender_container, "env", 2, "value", value="/etc/fanout2/key"),
     r"Pod/sender: FANOUT_KEY_FILE /etc/fanout2/key lies in no volume \(/etc/fanout\)"),
    ("a receiver without the key", _set(_sender_container, "env", 2, "value", value="/etc/fanout/key"),
     "FANOUT_KEY_FILE differs: None in StatefulSet/statefulset-udp-server, /etc/fanout/key in Pod/sender"),
    ("a short grace", _set(_pod_spec, "terminationGracePeriodSeconds", value=10), "killed after 10 s, before .* 10 s"),
    ("no drain time", _set(_container, "env", 4, "value", value="soon"), "'soon' .* is no number of seconds"),
    ("no policy", _set(_sender_policy, "podSelector", "matchLabels", "app.kubernetes.io/name", value="x"),
     "Pod/sender: no NetworkPolicy holds its ingress"),
    ("free egress", _set(_receivers_policy, "policyTypes", value=["Ingress"]), "no NetworkPolicy holds its egress"),
    ("everybody sends", _set(_receivers_policy, "ingress", 0, "from", value=None), "has no 'from', and so means every"),
    ("another sender", _set(_receivers_policy, "ingress", 0, "from", 0, "podSelector", "matchLabels", value={"a": "b"}),
     "does not take UDP from pods with"),
    ("a policy for TCP", _set(_receivers_policy, "ingress", 0, "ports", 0, "protocol", value="TCP"),
     "does not take UDP from pods with"),
    ("a policy for another port", _set(_receivers_policy, "ingress", 0, "ports", 0, "port", value=12001),
     "12001 in NetworkPolicy/udp-receivers"),
    ("a talking receiver", _set(_receivers_policy, "egress", value=[{"to": [{"podSelector": {"matchLabels": {
     "headless-udp-client": "true"}}}], "ports": [{"protocol": "UDP", "port": 12000}]}]), "may open connections"),
    ("an unlabelled sender", _set(_sender, "metadata", "labels", "headless-udp-client", value=None), "lacks the label"),
    ("no DNS over TCP", _set(_sender_policy, "egress", 1, "ports", 1, value=None), "its egress is not DNS on UDP and"),
    ("no way to receivers", _set(_sender_policy, "egress", 0, value=None), "egress does not reach the receivers"),
    ("a way to others", _set(_sender_policy, "egress", 0, "to", 0, "podSelector", "matchLabels",
     "app.kubernetes.io/component", value="sender"), "egress does not reach the receivers"),
    ("any DNS anywhere", _set(_sender_policy, "egress", 1, "to", value=None), "has no 'to', and so means everybody"),
    ("a way to everywhere", _set(_sender_policy, "egress", 1, "to", value=[]), "has no 'to', and so means everybody"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), [pytest.param(*rest, id=name) for name, *rest in BROKEN])
def test_rules_find_what_is_broken(objects: list[Manifest], change: Break, sentence: str) -> None:
    change(objects)
    assert [problem for problem in rules.problems(objects) if re.search(sentence, problem)], rules.problems(objects)


def test_every_rule_is_shown_to_fail() -> None:
    """Those of relays and of DLNA by test_deployments_relay_rules.py and test_deployments_dlna_rules.py."""
    failing: set[object] = set()
    for _, change, _ in BROKEN:
        objects = render.process(render.load_template())
        change(objects)
        failing |= {rule for rule in set(rules.RULES) - failing if list(rule(objects))}
    assert failing | set(relay_rules.RULES) | set(dlna_rules.RULES) == set(rules.RULES)
