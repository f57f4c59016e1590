"""The rules of tools/manifests/dlna_rules.py can fail, and the others on what only the overlay dlna has.

`BROKEN` breaks one thing each in what the Template deploys, and names the sentence that must come back.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

import dlna_rules
import render
import rules
from tests.support.breaking import Break, Manifest, find, set_at


@functools.cache
def _rendered() -> list[Manifest]:
    return render.render("Dlna", {})[0]


def deployed() -> list[Manifest]:
    return copy.deepcopy(_rendered())


def _at(kind: str, *path: Any) -> Callable[[list[Manifest]], Any]:
    def target(objects: list[Manifest]) -> Any:
        node: Any = find(objects, kind)
        for step in path:
            node = node[step]
        return node

    return target


def _setting(name: str, value: str | None) -> Break:
    """Set a variable of the relay's environment, or take it away."""

    def change(objects: list[Manifest]) -> None:
        entries = _relay(objects)["env"]
        entries[:] = [entry for entry in entries if entry["name"] != name]
        if value is not None:
            entries.append({"name": name, "value": value})

    return change


def _without(kind: str) -> Break:
    return lambda objects: objects.remove(find(objects, kind))


def _nameless(objects: list[Manifest]) -> None:
    entries = _media(objects)["env"]
    entries[:] = [entry for entry in entries if entry["name"] != "POD_NAME"]


def _deployment_of_servers(objects: list[Manifest]) -> None:
    find(objects, "StatefulSet")["kind"] = "Deployment"


def _answers_to_everybody(objects: list[Manifest]) -> None:
    rule = {"to": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 443}]}
    _policy(objects)["egress"].append(rule)


def _no_films(objects: list[Manifest]) -> None:
    _media_pod(objects)["volumes"] = [each for each in _media_pod(objects)["volumes"] if each["name"] != "media"]
    _media(objects)["volumeMounts"] = [each for each in _media(objects)["volumeMounts"] if each["name"] != "media"]


def _spare_claim(objects: list[Manifest]) -> None:
    spare = copy.deepcopy(find(objects, "PersistentVolumeClaim"))
    spare["metadata"]["name"] = "spare"
    objects.append(spare)


def _elsewhere(objects: list[Manifest]) -> None:
    """The Service has the servers on another port than they were told."""
    _ports(objects)[0].update(port=8201, targetPort=8201)


_POD = ("spec", "template", "spec")
_relay_pod = _at("Deployment", *_POD)
_relay = _at("Deployment", *_POD, "containers", 0)
_relay_spec = _at("Deployment", "spec")
_media_pod = _at("StatefulSet", *_POD)
_media = _at("StatefulSet", *_POD, "containers", 0)
_ports = _at("Service", "spec", "ports")
_policy = _at("NetworkPolicy", "spec")
_claim = _at("PersistentVolumeClaim", "spec")

BROKEN: list[tuple[str, Break, str]] = [
    # The relay, on its LAN
    ("two relays", set_at(_relay_spec, "replicas", value=2), "replicas is 2, and each relay takes every datagram"),
    ("a rolling update", set_at(_relay_spec, "strategy", value=None), "relay-dlna: strategy is not Recreate"),
    ("no LAN", set_at(_relay_pod, "hostNetwork", value=None), "hostNetwork is not used, and no multicast of a LAN"),
    ("the host's DNS", set_at(_relay_pod, "dnsPolicy", value=None), "dnsPolicy is not ClusterFirstWithHostNet"),
    ("no interface", _setting("FANOUT_INTERFACE", None), "FANOUT_INTERFACE '' is no name of an interface"),
    ("two interfaces", _setting("FANOUT_INTERFACE", "eth0 eth1"), "'eth0 eth1' is no name of an interface"),
    ("no port of SSDP", set_at(_relay, "ports", 0, value=None), r"listens on UDP 1900, and declares \[\]"),
    ("another port of SSDP", set_at(_relay, "ports", 0, "containerPort", value=1901), r"UDP 1900, and declares \[1901"),
    ("no Service", _setting("FANOUT_SERVICE", None), "FANOUT_SERVICE None is no Service of this deployment"),
    ("no such Service", _setting("FANOUT_SERVICE", "films"), "FANOUT_SERVICE films is no Service of this deployment"),
    ("no network", _setting("FANOUT_ALLOW_SOURCE", "10.0.0.0/8 tv"), "no bits set beyond the mask; got 'tv'"),
    ("another SCC", set_at(_at("RoleBinding"), "roleRef", "name", value="system:openshift:scc:privileged"),
     "binds system:openshift:scc:privileged, not"),
    ("no binding", _without("RoleBinding"), "no RoleBinding lets ServiceAccount relay-dlna use the host network"),
    ("a capability", set_at(_relay, "securityContext", "capabilities", value={"add": ["NET_ADMIN"]}), "NET_ADMIN"),
    ("no probe", set_at(_relay, "readinessProbe", value=None), "container relay: readiness probe is missing"),
    # Its HTTP ports
    ("no ports", _setting("FANOUT_HTTP_PORTS", None), "FANOUT_HTTP_PORTS : ports must be FIRST-LAST from 1 to 65535"),
    ("ports upside down", _setting("FANOUT_HTTP_PORTS", "28231-28200"), "'28231-28200' must ascend"),
    ("ports of Services", _setting("FANOUT_HTTP_PORTS", "30000-30031"), "no range from 1024 to 29999, below the NodeP"),
    ("privileged ports", _setting("FANOUT_HTTP_PORTS", "80-180"), "80-180 is no range from 1024"),
    ("the admin port", _setting("FANOUT_ADMIN_PORT", "28231"), "28200-28231: the admin port 28231 is one of them"),
    ("too many servers", set_at(_at("StatefulSet", "spec"), "replicas", value=40), "are 32, and there are 40 servers"),
    # The servers are found
    ("a description elsewhere", _setting("FANOUT_DESCRIPTION", "8200/rootDesc.xml 8201/a.xml"),
     "FANOUT_DESCRIPTION 8201/a.xml asks no TCP port of Service/media"),
    ("no description", _setting("FANOUT_DESCRIPTION", "rootDesc.xml"),
     "FANOUT_DESCRIPTION: a description must be PORT/PATH"),
    ("a port that nobody has", _elsewhere, "StatefulSet/media does not declare TCP 8201"),
    ("one port to another", set_at(_ports, 0, "port", value=80), "Service/media: 80 to 8200 is not one number"),
    ("a name for a port", set_at(_ports, 0, "targetPort", value="http"), "8200 to http is not one number"),
    ("no searches", set_at(_ports, 1, value=None), "Service/media: it has not UDP 1900, where servers are asked"),
    ("a virtual IP", set_at(_at("Service", "spec"), "clusterIP", value=None), "clusterIP is None"),
    ("unready servers", set_at(_at("Service", "spec"), "publishNotReadyAddresses", value=True), "publishNotReady"),
    ("a Service for the relay", set_at(_at("Service", "spec"), "selector", value={
     "app.kubernetes.io/component": "relay-dlna"}), "Service media does not select its pods"),
    ("no readiness", set_at(_media, "readinessProbe", value=None), "no readiness probe asks TCP 8200"),
    ("readiness elsewhere", set_at(_media, "readinessProbe", "tcpSocket", "port", value=8201), "probe asks TCP 8200"),
    ("readiness of UDP", set_at(_media, "readinessProbe", "tcpSocket", "port", value="ssdp"), "probe asks TCP 8200"),
    # An identity each
    ("pods of chance", _deployment_of_servers, "Deployment/media: its pods get new names"),
    ("pods without a name", _nameless, "container media does not know its name and namespace"),
    # Whom the servers meet
    ("no policy", _without("NetworkPolicy"), "StatefulSet/media: no NetworkPolicy holds its ingress"),
    ("no HTTP", set_at(_policy, "ingress", 0, "ports", 0, value=None), "its ingress is UDP 1900, not TCP 8200"),
    ("other HTTP", set_at(_policy, "ingress", 0, "ports", 0, "port", value=80), "its ingress is TCP 80, UDP 1900, not"),
    ("no searches let in", set_at(_policy, "ingress", 0, "ports", 1, value=None), "its ingress is TCP 8200, not"),
    ("no host group", set_at(_policy, "ingress", 0, "from", 0, value=None), "its ingress is not of the host network"),
    ("no nodes", set_at(_policy, "ingress", 0, "from", 1, value=None), "its ingress is not of the host network"),
    ("everybody", set_at(_policy, "ingress", 0, "from", 1, "ipBlock", "cidr", value="0.0.0.0/0"),
     "its ingress is not of a network of the nodes alone"),
    ("no events", set_at(_policy, "egress", 0, "ports", 0, value=None), "its egress is UDP 32768-60999, not TCP"),
    ("other events", set_at(_policy, "egress", 0, "ports", 0, "endPort", value=28300), "its egress is TCP 28200-28300"),
    ("events to one port", set_at(_policy, "egress", 0, "ports", 0, "endPort", value=None), "egress is TCP 28200, UDP"),
    ("no answers", set_at(_policy, "egress", 0, "ports", 1, value=None), "its egress is TCP 28200-28231, not"),
    ("no egress at all", set_at(_policy, "egress", value=[]), "its egress is nothing, not TCP 28200"),
    ("events to everybody", set_at(_policy, "egress", 0, "to", 1, "ipBlock", "cidr", value="::/0"),
     "its egress is not of a network of the nodes alone"),
    ("events to pods", set_at(_policy, "egress", 0, "to", value=[{"podSelector": {"matchLabels": {"a": "b"}}}]),
     "its egress is not of the host network"),
    ("a way out", _answers_to_everybody, "its egress is TCP 28200-28231, TCP 443, UDP 32768-60999, not"),
    # The films
    ("films to write", set_at(_media, "volumeMounts", 1, "readOnly", value=False), "mount /media is not read-only"),
    ("a volume to write", set_at(_media_pod, "volumes", 1, "persistentVolumeClaim", "readOnly", value=None),
     "volume media is not read-only at its source"),
    ("another's films", set_at(_media_pod, "volumes", 1, "persistentVolumeClaim", "claimName", value="x"),
     "volume media: claim x is not of this deployment"),
    ("no claim", _without("PersistentVolumeClaim"), "volume media: claim media is not of this deployment"),
    ("no films", _no_films, "StatefulSet/media: it has no claim, and so no media"),
    ("a claim for nothing", _spare_claim, "PersistentVolumeClaim/spare: no pod has it"),
    ("an access mode", set_at(_claim, "accessModes", value=["ReadWriteOncePod"]), "is .'ReadWriteOncePod'., not one"),
    ("no access mode", set_at(_claim, "accessModes", value=None), r"accessModes is \[\], not one of"),
    ("a configuration to write", set_at(_media, "volumeMounts", 0, "readOnly", value=None), "etc/media is not read-on"),
    ("an endless state", set_at(_media_pod, "volumes", 2, "emptyDir", value={}), "volume state has no sizeLimit"),
    # No privilege for the servers
    ("servers on the host", set_at(_media_pod, "hostNetwork", value=True), "media: hostNetwork is used, and only a"),
    ("a port of the host", set_at(_media, "ports", 0, "hostPort", value=8200), "hostPort 8200 takes a port of"),
    ("the relay's account", set_at(_media_pod, "serviceAccountName", value="relay-dlna"), "relay-dlna, and it needs n"),
    ("root", set_at(_media_pod, "securityContext", "runAsNonRoot", value=None), "media: runAsNonRoot is None"),
    ("a fixed UID", set_at(_media_pod, "securityContext", "runAsUser", value=0), "media: runAsUser is set"),
    ("a writable root", set_at(_media, "securityContext", "readOnlyRootFilesystem", value=None), "readOnlyRootFilesys"),
    ("a server's capability", set_at(_media, "securityContext", "capabilities", value={"add": ["NET_RAW"]}), "NET_RAW"),
    ("a CPU limit", set_at(_media, "resources", "limits", "cpu", value="1"), "media: it does not limit memory"),
    ("a reference left", set_at(_media, "image", value="${MEDIA_IMAGE}"), "image still holds"),
    ("no configuration", _without("ConfigMap"), "volume config: ConfigMap media is not of this deployment"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), [pytest.param(*rest, id=name) for name, *rest in BROKEN])
def test_rules_find_what_is_broken(change: Break, sentence: str) -> None:
    objects = deployed()
    assert rules.problems(objects) == []
    change(objects)
    assert [problem for problem in rules.problems(objects) if re.search(sentence, problem)], rules.problems(objects)


def test_every_rule_of_dlna_is_shown_to_fail() -> None:
    failing = set()
    for _, change, _ in BROKEN:
        objects = deployed()
        change(objects)
        failing |= {rule for rule in dlna_rules.RULES if list(rule(objects))}
    assert failing == set(dlna_rules.RULES)
