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
from tests.support.manifest_changes import Break, Manifest, find, set_at


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
    ("two relays", set_at(_relay_spec, "replicas", value=2), "replicas must be 1, as each relay .*; got 2"),
    ("a rolling update", set_at(_relay_spec, "strategy", value=None), "relay-dlna: strategy must be Recreate"),
    ("no LAN", set_at(_relay_pod, "hostNetwork", value=None), "hostNetwork must be set: no multicast of a LAN"),
    ("the host's DNS", set_at(_relay_pod, "dnsPolicy", value=None), "dnsPolicy must be ClusterFirstWithHostNet"),
    ("no interface", _setting("FANOUT_INTERFACE", None), "FANOUT_INTERFACE must be the name of an interface; got ''"),
    ("two interfaces", _setting("FANOUT_INTERFACE", "eth0 eth1"), "must be the name of an interface; got 'eth0 eth1'"),
    ("no port of SSDP", set_at(_relay, "ports", 0, value=None),
     r"UDP ports must be \[1900\], where it listens; got \[\]"),
    ("another port of SSDP", set_at(_relay, "ports", 0, "containerPort", value=1901),
     r"must be \[1900\], where it listens; got \[1901"),
    ("no Service", _setting("FANOUT_SERVICE", None), "FANOUT_SERVICE must be a Service of this deployment; got None"),
    ("no such Service", _setting("FANOUT_SERVICE", "films"),
     "FANOUT_SERVICE must be a Service of this deployment; got films"),
    ("no network", _setting("FANOUT_ALLOW_SOURCE", "10.0.0.0/8 tv"), "no bits set beyond the mask; got 'tv'"),
    ("another SCC", set_at(_at("RoleBinding"), "roleRef", "name", value="system:openshift:scc:privileged"),
     "roleRef must be .*; got system:openshift:scc:privileged"),
    ("no binding", _without("RoleBinding"), "a RoleBinding must let ServiceAccount relay-dlna use the host network"),
    ("a capability", set_at(_relay, "securityContext", "capabilities", value={"add": ["NET_ADMIN"]}), "NET_ADMIN"),
    ("no probe", set_at(_relay, "readinessProbe", value=None), "container relay: readiness probe must be given"),
    # Its HTTP ports
    ("no ports", _setting("FANOUT_HTTP_PORTS", None), "FANOUT_HTTP_PORTS: ports must be FIRST-LAST from 1 to 65535"),
    ("ports upside down", _setting("FANOUT_HTTP_PORTS", "28231-28200"), "'28231-28200' must ascend"),
    ("ports of Services", _setting("FANOUT_HTTP_PORTS", "30000-30031"),
     "must be from 1024 to 29999, below the NodePorts; got 30000-30031"),
    ("privileged ports", _setting("FANOUT_HTTP_PORTS", "80-180"),
     "must be from 1024 to 29999, below the NodePorts; got 80-180"),
    ("the admin port", _setting("FANOUT_ADMIN_PORT", "28231"), "must not hold the admin port 28231; got 28200-28231"),
    ("too many servers", set_at(_at("StatefulSet", "spec"), "replicas", value=40),
     "must be 40 at least, one for each server; got 32"),
    # The servers are found
    ("a description elsewhere", _setting("FANOUT_DESCRIPTION", "8200/rootDesc.xml 8201/a.xml"),
     "FANOUT_DESCRIPTION must ask a TCP port of Service/media; got 8201/a.xml"),
    ("no description", _setting("FANOUT_DESCRIPTION", "rootDesc.xml"),
     "FANOUT_DESCRIPTION: a description must be PORT/PATH"),
    ("a port that nobody has", _elsewhere, "StatefulSet/media must declare TCP 8201"),
    ("one port to another", set_at(_ports, 0, "port", value=80),
     "Service/media: port and targetPort must be one number .*; got 80, 8200"),
    ("a name for a port", set_at(_ports, 0, "targetPort", value="http"), "must be one number .*; got 8200, http"),
    ("no searches", set_at(_ports, 1, value=None), "Service/media must have UDP 1900, where servers are asked"),
    ("a virtual IP", set_at(_at("Service", "spec"), "clusterIP", value=None), "clusterIP must be .*; got None"),
    ("unready servers", set_at(_at("Service", "spec"), "publishNotReadyAddresses", value=True), "publishNotReady"),
    ("a Service for the relay", set_at(_at("Service", "spec"), "selector", value={
     "app.kubernetes.io/component": "relay-dlna"}), "Service media must select its pods"),
    ("no readiness", set_at(_media, "readinessProbe", value=None), "a readiness probe must ask TCP 8200"),
    ("readiness elsewhere", set_at(_media, "readinessProbe", "tcpSocket", "port", value=8201),
     "probe must ask TCP 8200"),
    ("readiness of UDP", set_at(_media, "readinessProbe", "tcpSocket", "port", value="ssdp"),
     "probe must ask TCP 8200"),
    # An identity each
    ("pods of chance", _deployment_of_servers, "Deployment/media must be a StatefulSet"),
    ("pods without a name", _nameless, "container media must have the pod's name and namespace"),
    # Whom the servers meet
    ("no policy", _without("NetworkPolicy"), "StatefulSet/media: a NetworkPolicy must limit its ingress"),
    ("no HTTP", set_at(_policy, "ingress", 0, "ports", 0, value=None),
     "its ingress must be TCP 8200, UDP 1900; got UDP 1900$"),
    ("other HTTP", set_at(_policy, "ingress", 0, "ports", 0, "port", value=80),
     "its ingress must be .*; got TCP 80, UDP 1900$"),
    ("no searches let in", set_at(_policy, "ingress", 0, "ports", 1, value=None),
     "its ingress must be .*; got TCP 8200$"),
    ("no host group", set_at(_policy, "ingress", 0, "from", 0, value=None),
     "its ingress must be limited to the host network"),
    ("no nodes", set_at(_policy, "ingress", 0, "from", 1, value=None),
     "its ingress must be limited to the host network"),
    ("everybody", set_at(_policy, "ingress", 0, "from", 1, "ipBlock", "cidr", value="0.0.0.0/0"),
     "its ingress must be limited to networks of the nodes"),
    ("no events", set_at(_policy, "egress", 0, "ports", 0, value=None),
     "its egress must be TCP .*; got UDP 32768-60999$"),
    ("other events", set_at(_policy, "egress", 0, "ports", 0, "endPort", value=28300),
     "its egress must be .*; got TCP 28200-28300"),
    ("events to one port", set_at(_policy, "egress", 0, "ports", 0, "endPort", value=None),
     "egress must be .*; got TCP 28200, UDP"),
    ("no answers", set_at(_policy, "egress", 0, "ports", 1, value=None), "its egress must be .*; got TCP 28200-28231$"),
    ("no egress at all", set_at(_policy, "egress", value=[]), "its egress must be TCP 28200.*; got nothing"),
    ("events to everybody", set_at(_policy, "egress", 0, "to", 1, "ipBlock", "cidr", value="::/0"),
     "its egress must be limited to networks of the nodes"),
    ("events to pods", set_at(_policy, "egress", 0, "to", value=[{"podSelector": {"matchLabels": {"a": "b"}}}]),
     "its egress must be limited to the host network"),
    ("a way out", _answers_to_everybody, "its egress must be .*; got TCP 28200-28231, TCP 443, UDP 32768-60999$"),
    # The films
    ("films to write", set_at(_media, "volumeMounts", 1, "readOnly", value=False), "mount /media must be read-only"),
    ("a volume to write", set_at(_media_pod, "volumes", 1, "persistentVolumeClaim", "readOnly", value=None),
     "volume media must be read-only at its source"),
    ("another's films", set_at(_media_pod, "volumes", 1, "persistentVolumeClaim", "claimName", value="x"),
     "volume media: claim must be of this deployment; got x"),
    ("no claim", _without("PersistentVolumeClaim"), "volume media: claim must be of this deployment; got media"),
    ("no films", _no_films, "StatefulSet/media must have a claim, for its media"),
    ("a claim for nothing", _spare_claim, "PersistentVolumeClaim/spare must be that of a pod"),
    ("an access mode", set_at(_claim, "accessModes", value=["ReadWriteOncePod"]),
     "accessModes must be one of .*; got .'ReadWriteOncePod'."),
    ("no access mode", set_at(_claim, "accessModes", value=None), r"accessModes must be one of .*; got \[\]"),
    ("a configuration to write", set_at(_media, "volumeMounts", 0, "readOnly", value=None),
     "etc/media must be read-on"),
    ("an endless state", set_at(_media_pod, "volumes", 2, "emptyDir", value={}), "volume state must have a sizeLimit"),
    # No privilege for the servers
    ("servers on the host", set_at(_media_pod, "hostNetwork", value=True),
     "media: hostNetwork must not be set: only a"),
    ("a port of the host", set_at(_media, "ports", 0, "hostPort", value=8200),
     "hostPort must not be set: .*; got 8200"),
    ("the relay's account", set_at(_media_pod, "serviceAccountName", value="relay-dlna"),
     "serviceAccountName must be left out, as it needs none; got relay-dlna"),
    ("root", set_at(_media_pod, "securityContext", "runAsNonRoot", value=None),
     "media: runAsNonRoot must be True; got None"),
    ("a fixed UID", set_at(_media_pod, "securityContext", "runAsUser", value=0), "media: runAsUser must not be set"),
    ("a writable root", set_at(_media, "securityContext", "readOnlyRootFilesystem", value=None), "readOnlyRootFilesys"),
    ("a server's capability", set_at(_media, "securityContext", "capabilities", value={"add": ["NET_RAW"]}), "NET_RAW"),
    ("a CPU limit", set_at(_media, "resources", "limits", "cpu", value="1"), "media: limits must be for memory alone"),
    ("a reference left", set_at(_media, "image", value="${MEDIA_IMAGE}"), "image must hold no reference"),
    ("no configuration", _without("ConfigMap"), "volume config: ConfigMap must be of this deployment; got media"),
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
