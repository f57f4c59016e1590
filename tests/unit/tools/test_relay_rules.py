"""The rules of tools/manifests/relay_rules.py can fail, and those of rules.py on what only an overlay has.

`BROKEN` breaks one thing each in what a Template deploys, and names the sentence that must come back.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

import relay_rules
import render
import rules
from tests.support.manifest_changes import Break, Manifest, find, set_at


@functools.cache
def _rendered(name: str) -> tuple[list[Manifest], list[Manifest]]:
    return render.render(name, {})


def deployed(name: str) -> list[Manifest]:
    objects, beside = _rendered(name)
    return copy.deepcopy([*beside, *objects])


def _at(kind: str, name: str | None = None, *path: Any) -> Callable[[list[Manifest]], Any]:
    def target(objects: list[Manifest]) -> Any:
        node: Any = find(objects, kind, name)
        for step in path:
            node = node[step]
        return node

    return target


def _setting(target: Callable[[list[Manifest]], Any], name: str, value: str | None) -> Break:
    """Set a variable of a container's environment, or take it away."""

    def change(objects: list[Manifest]) -> None:
        entries = target(objects)["env"]
        entries[:] = [entry for entry in entries if entry["name"] != name]
        if value is not None:
            entries.append({"name": name, "value": value})

    return change


def _pod_ip_last(objects: list[Manifest]) -> None:
    entries = _multicast(objects)["env"]
    entries.sort(key=lambda entry: bool(entry["name"] == "POD_IP"))


def _config(change: Callable[[Any], object]) -> Break:
    """Change what a NetworkAttachmentDefinition configures."""

    def changed(objects: list[Manifest]) -> None:
        spec = find(objects, "NetworkAttachmentDefinition")["spec"]
        config = json.loads(spec["config"])
        change(config)
        spec["config"] = json.dumps(config)

    return changed


def _range(**values: str) -> Break:
    return _config(lambda config: config["ipam"]["ranges"][0][0].update(values))


def _without(kind: str, name: str | None = None) -> Break:
    return lambda objects: objects.remove(find(objects, kind, name))


def _policy_for_the_relay(objects: list[Manifest]) -> None:
    policy = copy.deepcopy(find(objects, "NetworkPolicy"))
    policy["metadata"]["name"] = "relay-rtp"
    policy["spec"]["podSelector"] = find(objects, "Deployment", "relay-rtp")["spec"]["selector"]
    objects.append(policy)


_TEMPLATE = ("spec", "template")
_POD = (*_TEMPLATE, "spec")
_CONTAINER = (*_POD, "containers", 0)
_multicast = _at("Deployment", "relay-multicast", *_CONTAINER)
_multicast_deployment = _at("Deployment", "relay-multicast", "spec")
_multicast_metadata = _at("Deployment", "relay-multicast", *_TEMPLATE, "metadata")
_multicast_policy = _at("NetworkPolicy", "relay-multicast", "spec")
_attachment = _at("NetworkAttachmentDefinition")
_rtp = _at("Deployment", "relay-rtp", *_CONTAINER)
_rtp_pod = _at("Deployment", "relay-rtp", *_POD)
_rtp_deployment = _at("Deployment", "relay-rtp", "spec")
_binding = _at("RoleBinding")
_analytics = _at("Deployment", "analytics", *_CONTAINER)
_analytics_pod = _at("Deployment", "analytics", *_POD)
_analytics_policy = _at("NetworkPolicy", "analytics", "spec")
_ports = _at("Service", "analytics", "spec", "ports")
_LISTEN, _NETWORKS = "FANOUT_LISTEN", "k8s.v1.cni.cncf.io/networks"

BROKEN: list[tuple[str, str, Break, str]] = [
    # Where it listens, and where that goes
    ("no ingress", "Multicast", _setting(_multicast, _LISTEN, "eth1"), "ingress 'eth1': the URL must be udp://ADDRESS"),
    ("an empty list", "Multicast", _setting(_multicast, _LISTEN, " "), "FANOUT_LISTEN must name an ingress"),
    ("no group", "Multicast", _setting(_multicast, _LISTEN, "mcast://10.0.0.1:5001@eth1"),
     r"group must be a multicast address \(224\.0\.0\.0/4, ff00::/8\); got 10\.0\.0\.1"),
    ("a huge range", "Rtp", _setting(_rtp, _LISTEN, "udp://0.0.0.0:2000-9000"),
     "the range must be at most 1,024 ports, a socket each"),
    ("no network", "Rtp", _setting(_rtp, "FANOUT_ALLOW_SOURCE", "camera"), "no bits set beyond the mask; got 'camera'"),
    ("a port in words", "Multicast", _setting(_multicast, "FANOUT_TO_PORT", "udp"),
     "FANOUT_TO_PORT must be a port; got 'udp'"),
    ("a port too high", "Multicast", _setting(_multicast, "FANOUT_TO_PORT", "70000"),
     "to_port must be a number from 1 to 65,535; got 70000"),
    ("a port nobody has", "Multicast", _setting(_multicast, "FANOUT_TO_PORT", "12001"),
     "mcast://224.0.67.67:5001@eth1 must go to ports of Service/headless-udp; got 12001"),
    ("the group's own port", "Multicast", _setting(_multicast, "FANOUT_TO_PORT", None),
     "must go to ports of .*; got 5001"),
    ("a shifted range", "Rtp", _setting(_rtp, "FANOUT_TO_PORT", "32547"),
     "must go to ports of Service/analytics; got 32550"),
    ("a longer range", "Rtp", _setting(_rtp, _LISTEN, "udp://0.0.0.0:32546-32550"),
     "must go to ports of Service/analytics; got 32550"),
    ("a shorter range", "Rtp", _setting(_rtp, _LISTEN, "udp://0.0.0.0:32546-32548"),
     "UDP ports must be 32546, 32547, 32548, where it listens; got 32546, 32547, 32548, 32549"),
    ("a question elsewhere", "Multicast", _setting(_multicast, "FANOUT_PORT", "12001"),
     "FANOUT_PORT must be .*; got 12001"),
    ("no question", "Rtp", _setting(_rtp, "FANOUT_PORT", None),
     r"FANOUT_PORT must be one that it sends to \(32546, 32547, 32548, .*; got None"),
    ("an undeclared port", "Rtp", set_at(_rtp, "ports", 0, value=None), "where it listens; got 32547, 32548, 32549"),
    ("no such Service", "Rtp", _setting(_rtp, "FANOUT_SERVICE", "cameras"),
     "must go to a Service of this deployment; got cameras"),
    ("no Service", "Rtp", _setting(_rtp, "FANOUT_SERVICE", None), "Deployment/relay-rtp: ingress 'udp://0.0.0.0:32546"),
    ("another port of the Service", "Rtp", set_at(_ports, 1, "targetPort", value=32600), "must declare UDP 32600"),
    ("one port less", "Rtp", set_at(_ports, 3, value=None), "must go to ports of Service/analytics; got 32549"),
    ("one policy port less", "Rtp", set_at(_analytics_policy, "ingress", 0, "ports", 1, value=None),
     "the UDP port must be the same everywhere; got .*32546 32548 32549 in NetworkPolicy/analytics"),
    ("another egress", "Multicast", set_at(_multicast_policy, "egress", 0, "ports", 0, "port", value=5001),
     "the UDP port must be the same everywhere; got .*5001 in NetworkPolicy/relay-multicast"),
    # One relay
    ("two relays", "Multicast", set_at(_multicast_deployment, "replicas", value=2),
     "replicas must be 1, as each relay .*; got 2"),
    ("a rolling update", "Multicast", set_at(_multicast_deployment, "strategy", "type", value="RollingUpdate"),
     "relay-multicast: strategy must be Recreate"),
    ("no strategy", "Rtp", set_at(_rtp_deployment, "strategy", value=None), "relay-rtp: strategy must be Recreate"),
    ("an orphan Deployment", "Rtp", set_at(_rtp_deployment, "selector", "matchLabels", value={"a": "b"}),
     "Deployment/relay-rtp: selector must match the pod template"),
    # Multus
    ("another network", "Multicast", set_at(_multicast_metadata, "annotations", _NETWORKS, value="eth2@eth1"),
     "network must be a NetworkAttachmentDefinition of this deployment; got eth2"),
    ("another interface", "Multicast", set_at(_multicast_metadata, "annotations", _NETWORKS, value="eth1-multicast@n"),
     f"each interface that it listens on must be in {_NETWORKS}; got eth1"),
    ("an unnamed interface", "Multicast", set_at(_multicast_metadata, "annotations", _NETWORKS, value="eth1-multicast"),
     "network eth1-multicast must have @interface"),
    ("no annotation", "Multicast", set_at(_multicast_metadata, "annotations", _NETWORKS, value=None),
     "NetworkAttachmentDefinition/eth1-multicast must be named by a pod"),
    ("no attachment", "Multicast", _without("NetworkAttachmentDefinition"),
     "network must be a Network.*; got eth1-multicast"),
    ("an ingress by another interface", "Multicast", _setting(_multicast, _LISTEN, "mcast://224.0.67.67:5001@eth2"),
     "each interface that it listens on must be in .*; got eth2"),
    ("an open admin port", "Multicast", _setting(_multicast, "FANOUT_ADMIN_HOST", None),
     "FANOUT_ADMIN_HOST must be .*POD_IP.*, to be closed to k8s.v1.cni.*; got None"),
    ("an admin port on all", "Multicast", _setting(_multicast, "FANOUT_ADMIN_HOST", "0.0.0.0"),
     "FANOUT_ADMIN_HOST must be .*; got 0.0.0.0"),
    ("an address too late", "Multicast", _pod_ip_last, "POD_IP must come before FANOUT_ADMIN_HOST"),
    ("another version", "Multicast", set_at(_attachment, "apiVersion", value="v1"),
     "apiVersion must be k8s.cni.*; got v1"),
    ("a misspelt key", "Multicast", set_at(_attachment, "spec", "conf", value="{}"),
     "spec must hold config alone; got config, conf"),
    ("no JSON", "Multicast", set_at(_attachment, "spec", "config", value="{'type': 'macvlan'}"),
     "config must be JSON: "),
    ("no config", "Multicast", set_at(_attachment, "spec", "config", value=None), "config must be JSON: "),
    ("a list", "Multicast", set_at(_attachment, "spec", "config", value="[]"), "config must be a JSON object"),
    ("no cniVersion", "Multicast", _config(lambda config: config.pop("cniVersion")),
     "cniVersion must be '0.3.1'; got None"),
    ("another plugin", "Multicast", _config(lambda config: config.update(type="ipvlan")),
     "type must be 'macvlan'; got 'ipvlan'"),
    ("another mode", "Multicast", _config(lambda config: config.update(mode="vepa")),
     "mode must be 'bridge'; got 'vepa'"),
    ("no parent", "Multicast", _config(lambda config: config.update(master="")),
     "master must be an interface .*; got ''"),
    ("no addresses", "Multicast", _config(lambda config: config.pop("ipam")),
     "ipam must be of the type 'host-local'; got None"),
    ("no ranges", "Multicast", _config(lambda config: config["ipam"].pop("ranges")), "ipam must have ranges"),
    ("a range elsewhere", "Multicast", _range(rangeEnd="10.0.0.1"),
     "range must ascend within .*; got 192.168.67.240 to 10.0.0.1"),
    ("a range upside down", "Multicast", _range(rangeEnd="192.168.67.2"),
     "range must ascend within .*; got 192.168.67.240 to 192.168.67.2$"),
    ("no subnet", "Multicast", _range(subnet="192.168.67.1/24"), "ipam: .*has host bits set"),
    # The host network
    ("a consumer on the host", "Rtp", set_at(_analytics_pod, "hostNetwork", value=True),
     "analytics: hostNetwork must not be set"),
    ("a port of the host", "Rtp", set_at(_analytics, "ports", 0, "hostPort", value=32546),
     "hostPort must not be set: .*; got 32546"),
    ("the host's DNS", "Rtp", set_at(_rtp_pod, "dnsPolicy", value=None), "dnsPolicy must be ClusterFirstWithHostNet"),
    ("the default's DNS", "Rtp", set_at(_rtp_pod, "dnsPolicy", value="ClusterFirst"),
     "must be ClusterFirstWithHostNet"),
    ("service links", "Rtp", set_at(_rtp_pod, "enableServiceLinks", value=None),
     "enableServiceLinks must be False; got None"),
    ("a policy for nothing", "Rtp", _policy_for_the_relay, "relay-rtp must not select Deployment/relay-rtp"),
    ("a node in words", "Rtp", set_at(_rtp_pod, "nodeSelector", value="worker-1"),
     "nodeSelector must be a mapping of labels; got 'worker-1'"),
    ("no policy", "Rtp", _without("NetworkPolicy"), "Deployment/analytics: a NetworkPolicy must limit its ingress"),
    ("no host group", "Rtp", set_at(_analytics_policy, "ingress", 0, "from", 0, value=None),
     "must take UDP from the group"),
    ("no nodes", "Rtp", set_at(_analytics_policy, "ingress", 0, "from", 1, value=None),
     "must take UDP from networks of the nodes"),
    ("everybody", "Rtp", set_at(_analytics_policy, "ingress", 0, "from", 1, "ipBlock", "cidr", value="0.0.0.0/0"),
     "must take UDP from networks of the nodes"),
    ("a relay without the label", "Multicast", set_at(_multicast_metadata, "labels", "headless-udp-client", value=None),
     "Deployment/relay-multicast: must have the label"),
    ("a relay without receivers", "Multicast", set_at(_multicast_policy, "egress", 0, value=None),
     "Deployment/relay-multicast: egress must reach the receivers"),
    # Privilege
    ("another SCC", "Rtp", set_at(_binding, "roleRef", "name", value="system:openshift:scc:privileged"),
     "roleRef must be system:openshift:scc:hostnetwork-v2; got system:openshift:scc:privileged"),
    ("another account bound", "Rtp", set_at(_binding, "subjects", 0, "name", value="default"),
     "must be a ServiceAccount of this deployment; got ServiceAccount default"),
    ("everybody bound", "Rtp", set_at(_binding, "subjects", 0, "kind", value="Group"),
     "must be a ServiceAccount of this deployment; got Group relay-rtp"),
    ("no binding", "Rtp", _without("RoleBinding"),
     "a RoleBinding must let ServiceAccount relay-rtp use the host network"),
    ("no account", "Rtp", _without("ServiceAccount"),
     "must be a ServiceAccount of this deployment; got ServiceAccount relay-rtp"),
    ("another account", "Rtp", set_at(_rtp_pod, "serviceAccountName", value=None),
     "must let ServiceAccount default use"),
    ("a privileged consumer", "Rtp", set_at(_analytics_pod, "serviceAccountName", value="relay-rtp"),
     "Deployment/analytics: serviceAccountName must be left out, as it needs none; got relay-rtp"),
    ("an unused account", "Rtp", set_at(_rtp_pod, "hostNetwork", value=None),
     "must be that of a pod on the host network"),
    ("a token", "Rtp", set_at(_rtp_pod, "automountServiceAccountToken", value=True),
     "automountServiceAccountToken must be False"),
    ("a capability", "Rtp", set_at(_rtp, "securityContext", "capabilities", value={"add": ["NET_RAW"]}), "NET_RAW"),
    # As of the base
    ("another admin port", "Rtp", _setting(_rtp, "FANOUT_ADMIN_PORT", "8080"),
     "the admin port must be the same everywhere; got 21500 in"),
    ("no probe", "Multicast", set_at(_multicast, "livenessProbe", value=None), "liveness probe must be given"),
    ("no ConfigMap", "Rtp", _without("ConfigMap"), "volume sdp: ConfigMap must be of this deployment; got analytics"),
    ("nobody near", "Rtp", set_at(_rtp_deployment, "template", "metadata", "labels", value={"a": "b"}),
     "Deployment/analytics: .*podAffinity.* must match a pod"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "change", "sentence"), [pytest.param(*rest, id=name) for name, *rest in BROKEN])
def test_rules_find_what_is_broken(template: str, change: Break, sentence: str) -> None:
    objects = deployed(template)
    assert rules.problems(objects) == []
    change(objects)
    assert [problem for problem in rules.problems(objects) if re.search(sentence, problem)], rules.problems(objects)


def test_every_rule_of_relays_is_shown_to_fail() -> None:
    failing = set()
    for _, template, change, _ in BROKEN:
        objects = deployed(template)
        change(objects)
        failing |= {rule for rule in relay_rules.RULES if list(rule(objects))}
    assert failing == set(relay_rules.RULES)


@pytest.mark.parametrize("template", ["Multicast", "Rtp"])
def test_sealed_receivers_need_no_key_in_a_relay(template: str) -> None:
    """It forwards what is sealed as it came."""
    parameters = {"KEY_FILE": "/etc/fanout/key", "KEY": "ab" * 32}
    base = render.process(render.load_template(), parameters)
    assert rules.problems([*base, *_rendered(template)[0]]) == []
