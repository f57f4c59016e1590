"""How the rules read the objects of a deployment: pods, Services, policies, and what belongs together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

Manifest = dict[str, Any]

HOST_NETWORK_GROUP = {"policy-group.network.openshift.io/host-network": ""}
"""OpenShift's, for policies: what comes from the network of a node."""
DNS_PORTS = {("UDP", 53), ("TCP", 53), ("UDP", 5353), ("TCP", 5353)}


class PodSpec(NamedTuple):
    """A pod, or the template of one, and the object that it stands in."""

    item: Manifest
    metadata: Manifest
    spec: Manifest

    @property
    def owner(self) -> str:
        """The name of the object that it stands in."""
        return name_of(self.item)

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        labels: dict[str, str] = self.metadata.get("labels", {})
        return labels

    @property
    def annotations(self) -> dict[str, str]:
        """Its annotations."""
        annotations: dict[str, str] = self.metadata.get("annotations", {})
        return annotations

    @property
    def containers(self) -> list[Manifest]:
        """All its containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def on_host_network(self) -> bool:
        """Whether its network is the node's."""
        return bool(self.spec.get("hostNetwork"))

    @property
    def is_relay(self) -> bool:
        """Whether it runs `fanout relay`, or `fanout relay ssdp`."""
        return self.is_ssdp_relay or any("FANOUT_LISTEN" in environment(container) for container in self.containers)

    @property
    def is_ssdp_relay(self) -> bool:
        """Whether it runs `fanout relay ssdp`."""
        return any(is_ssdp_relay(container) for container in self.containers)


def name_of(item: Manifest) -> str:
    """Return kind and name of an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    """Return the objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def pods(objects: list[Manifest]) -> Iterator[PodSpec]:
    """Yield every pod, and every template of pods."""
    for item in objects:
        if item["kind"] == "Pod":
            yield PodSpec(item, item["metadata"], item["spec"])
        elif "template" in item.get("spec", {}):
            template = item["spec"]["template"]
            yield PodSpec(item, template["metadata"], template["spec"])


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector takes what has these labels."""
    return selector.items() <= labels.items()


def selected(objects: list[Manifest], service: Manifest) -> list[PodSpec]:
    """Return the pods of a Service."""
    return [pod for pod in pods(objects) if matches(service["spec"]["selector"], pod.labels)]


def clients(objects: list[Manifest], service: Manifest) -> Iterator[tuple[PodSpec, Manifest]]:
    """Yield the containers that send to a Service, each with its pod."""
    for pod in pods(objects):
        for container in pod.containers:
            if environment(container).get("FANOUT_SERVICE") == service["metadata"]["name"]:
                yield pod, container


def environment(container: Manifest) -> dict[str, str]:
    """Return the environment of a container, without what is known only at run time."""
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def is_fanout(container: Manifest) -> bool:
    """Whether it runs a command of fanout: any other program knows none of its settings."""
    return any(name.startswith("FANOUT_") for name in environment(container))


def is_ssdp_relay(container: Manifest) -> bool:
    """Whether it runs `fanout relay ssdp`; `fanout relay` is what the image starts."""
    return is_fanout(container) and container.get("args", [])[:1] == ["ssdp"]


def declared(container: Manifest) -> set[tuple[str, Any]]:
    """Return protocol and number of the ports that a container declares."""
    return {(port.get("protocol", "TCP"), port["containerPort"]) for port in container.get("ports", [])}


def declared_udp(container: Manifest) -> list[Any]:
    """Return the UDP ports that a container declares."""
    return [port for protocol, port in declared(container) if protocol == "UDP"]


def policies_of(objects: list[Manifest], pod: PodSpec) -> list[Manifest]:
    """Return the NetworkPolicies that select a pod."""
    return [
        policy
        for policy in of_kind(objects, "NetworkPolicy")
        if matches(policy["spec"]["podSelector"]["matchLabels"], pod.labels)
    ]


def rules_of(objects: list[Manifest], pod: PodSpec, direction: str, protocol: str | None = None) -> Iterator[Manifest]:
    """Yield the rules of a direction that hold a pod; those with a port of `protocol` where one is given."""
    for policy in policies_of(objects, pod):
        for rule in policy["spec"].get(direction, []):
            if protocol is None or protocol in {port.get("protocol", "TCP") for port in rule["ports"]}:
                yield rule


def policy_ports(objects: list[Manifest], pod: PodSpec, protocol: str, *directions: str) -> list[tuple[str, list[Any]]]:
    """Return, with the name of each policy of a pod, the ports of a protocol in it, those of DNS left out."""
    mentions = []
    for policy in policies_of(objects, pod):
        ports = [
            port["port"]
            for direction in directions
            for rule in policy["spec"].get(direction, [])
            for port in rule["ports"]
            if port.get("protocol", "TCP") == protocol and (protocol, port["port"]) not in DNS_PORTS
        ]
        if ports:
            mentions.append((name_of(policy), ports))
    return mentions


def is_block(peer: Manifest) -> bool:
    """Whether a peer of a policy is a network of addresses, and not all of them."""
    try:
        return peer.keys() == {"ipBlock"} and ipaddress.ip_network(peer["ipBlock"]["cidr"]).prefixlen > 0
    except (KeyError, ValueError):
        return False
