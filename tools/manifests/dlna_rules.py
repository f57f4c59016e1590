"""What a deployment of media servers behind `fanout relay ssdp` must hold.

Rules as those of rules.py, where they are put to use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fanout.acl import parse_network
from fanout.errors import InvalidInput
from fanout.ssdp.core.settings import DescriptionPlace, parse_ports
from manifests import (
    HOST_NETWORK_GROUP,
    Manifest,
    PodSpec,
    declared_udp,
    environment,
    is_block,
    is_ssdp_relay,
    name_of,
    of_kind,
    pods,
    policies_of,
    selected,
)

SSDP_PORT = 1900
NODE_PORTS = 30_000
"""From here on the ports of a node are Services' (NodePort), and then those of its own connections."""
EPHEMERAL = (32_768, 60_999)
"""The ports that Linux gives a socket that asks for none."""
ACCESS_MODES = ("ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce")


class RelayPod(NamedTuple):
    """A container that runs `fanout relay ssdp`."""

    pod: PodSpec
    container: Manifest
    service: Manifest | None
    """None where there is no such Service."""
    servers: list[PodSpec]

    @property
    def settings(self) -> dict[str, str]:
        """Its environment."""
        return environment(self.container)

    @property
    def http_ports(self) -> range:
        """Its HTTP ports; none where they cannot be read."""
        try:
            return parse_ports(self.settings.get("FANOUT_HTTP_PORTS", ""))
        except InvalidInput:
            return range(0)

    @property
    def descriptions(self) -> list[str]:
        """Where it reads the descriptions of devices."""
        return self.settings.get("FANOUT_DESCRIPTION", "").split()


def ssdp_relays_are_on_a_lan(objects: list[Manifest]) -> Iterator[str]:
    """An SSDP relay is on the host network, on an interface, for a Service; it declares the port of SSDP alone."""
    for relay in _relays(objects):
        where = relay.pod.owner
        if not relay.pod.on_host_network:
            yield f"{where}: hostNetwork must be set: no multicast of a LAN comes to a pod"
        interface = relay.settings.get("FANOUT_INTERFACE", "")
        if not 0 < len(interface) <= 15 or set(interface) & set("/ \t"):
            yield f"{where}: FANOUT_INTERFACE must be the name of an interface; got {interface!r}"
        if declared_udp(relay.container) != [SSDP_PORT]:
            yield f"{where}: UDP ports must be [{SSDP_PORT}], where it listens; got {declared_udp(relay.container)}"
        for network in relay.settings.get("FANOUT_ALLOW_SOURCE", "").split():
            try:
                parse_network(network)
            except InvalidInput as error:
                yield f"{where}: {error}"
        if relay.service is None:
            service = relay.settings.get("FANOUT_SERVICE")
            yield f"{where}: FANOUT_SERVICE must be a Service of this deployment; got {service}"


def http_ports_are_the_relays(objects: list[Manifest]) -> Iterator[str]:
    """The HTTP ports are a range that nobody else on a node uses, with one for each server."""
    for relay in _relays(objects):
        text = relay.settings.get("FANOUT_HTTP_PORTS", "")
        where = f"{relay.pod.owner}: FANOUT_HTTP_PORTS"
        try:
            ports = parse_ports(text)
        except InvalidInput as error:
            yield f"{where}: {error}"
            continue
        if not 1024 <= ports[0] <= ports[-1] < NODE_PORTS:
            yield f"{where} must be from 1024 to {NODE_PORTS - 1}, below the NodePorts; got {text}"
        admin = relay.settings.get("FANOUT_ADMIN_PORT", "8080")
        if admin.isdigit() and int(admin) in ports:
            yield f"{where} must not hold the admin port {admin}; got {text}"
        replicas = (pod.item["spec"]["replicas"] for pod in relay.servers)
        servers = sum(number for number in replicas if isinstance(number, int))
        if servers > len(ports):
            yield f"{where} must be {servers} at least, one for each server; got {len(ports)}"


def servers_are_found(objects: list[Manifest]) -> Iterator[str]:
    """A server's description is read where it serves, and it is in DNS exactly while it does."""
    for relay in _relays(objects):
        if relay.service is None:
            continue
        name, served = name_of(relay.service), _ports(relay.service, "TCP")
        for text in relay.descriptions:
            try:
                if DescriptionPlace.parse(text).port not in served:
                    yield f"{relay.pod.owner}: FANOUT_DESCRIPTION must ask a TCP port of {name}; got {text}"
            except InvalidInput as error:
                yield f"{relay.pod.owner}: FANOUT_DESCRIPTION: {error}"
        for each in relay.service["spec"]["ports"]:
            port = each["targetPort"]
            if each["port"] != port or not isinstance(port, int) or not 1024 <= port <= 65_535:
                yield f"{name}: port and targetPort must be one number from 1024 to 65535; got {each['port']}, {port}"
        if _ports(relay.service, "UDP") != {SSDP_PORT}:
            yield f"{name} must have UDP {SSDP_PORT}, where servers are asked"
        for pod in relay.servers:
            asked = set(filter(None, map(_readiness_port, pod.containers)))
            if not asked or not asked <= served:
                yield f"{pod.owner}: a readiness probe must ask TCP {', '.join(map(str, sorted(served)))}"


def servers_have_an_identity(objects: list[Manifest]) -> Iterator[str]:
    """A server's name is the same after a restart, and it knows it: from that comes its UDN."""
    for relay in _relays(objects):
        for pod in relay.servers:
            if pod.item["kind"] != "StatefulSet":
                yield f"{pod.owner} must be a StatefulSet: otherwise its pods are new devices after every restart"
            for container in pod.containers:
                fields = {
                    entry["valueFrom"]["fieldRef"]["fieldPath"]: entry["name"]
                    for entry in container.get("env", [])
                    if "fieldRef" in entry.get("valueFrom", {})
                }
                if not {"metadata.name", "metadata.namespace"} <= fields.keys():
                    yield f"{pod.owner}: env of container {container['name']} must have the pod's name and namespace"


def servers_meet_the_relay_alone(objects: list[Manifest]) -> Iterator[str]:
    """The servers take HTTP and searches from the host network, send events and answers there, and meet nobody else."""
    for relay in _relays(objects):
        if relay.service is None or not (ports := relay.http_ports):
            continue
        taken = {("TCP", port, port) for port in _ports(relay.service, "TCP")}
        allowed: dict[str, set[tuple[Any, ...]]] = {
            "ingress": taken | {("UDP", SSDP_PORT, SSDP_PORT)},
            "egress": {("TCP", ports[0], ports[-1]), ("UDP", *EPHEMERAL)},
        }
        for pod in relay.servers:
            for direction, peers in (("ingress", "from"), ("egress", "to")):
                found: set[tuple[Any, ...]] = set()
                for policy in policies_of(objects, pod):
                    for rule in policy["spec"].get(direction, []):
                        group, *blocks = rule.get(peers) or [{}]
                        if group != {"namespaceSelector": {"matchLabels": HOST_NETWORK_GROUP}} or not blocks:
                            yield f"{pod.owner}: its {direction} must be limited to the host network"
                        elif not all(map(is_block, blocks)):
                            yield f"{pod.owner}: its {direction} must be limited to networks of the nodes"
                        found |= {
                            (each["protocol"], each["port"], each.get("endPort", each["port"]))
                            for each in rule["ports"]
                        }
                if found != allowed[direction]:
                    yield f"{pod.owner}: its {direction} must be {_listed(allowed[direction])}; got {_listed(found)}"


def claims_are_shared(objects: list[Manifest]) -> Iterator[str]:
    """Every server has a claim for its media, with one valid access mode; every claim is used."""
    claims = {item["metadata"]["name"]: item for item in of_kind(objects, "PersistentVolumeClaim")}
    used = set()
    for pod in pods(objects):
        own = [each["persistentVolumeClaim"] for each in pod.spec.get("volumes", []) if "persistentVolumeClaim" in each]
        used |= {each["claimName"] for each in own}
        if not own and any(pod in relay.servers for relay in _relays(objects)):
            yield f"{pod.owner} must have a claim, for its media"
    for name, item in claims.items():
        modes = item["spec"].get("accessModes", [])
        if len(modes) != 1 or modes[0] not in ACCESS_MODES:
            yield f"{name_of(item)}: accessModes must be one of {', '.join(ACCESS_MODES)}; got {modes}"
        if name not in used:
            yield f"{name_of(item)} must be that of a pod"


RULES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (
    ssdp_relays_are_on_a_lan,
    http_ports_are_the_relays,
    servers_are_found,
    servers_have_an_identity,
    servers_meet_the_relay_alone,
    claims_are_shared,
)


def _relays(objects: list[Manifest]) -> Iterator[RelayPod]:
    services = {service["metadata"]["name"]: service for service in of_kind(objects, "Service")}
    for pod in pods(objects):
        for container in filter(is_ssdp_relay, pod.containers):
            service = services.get(environment(container).get("FANOUT_SERVICE", ""))
            yield RelayPod(pod, container, service, [] if service is None else selected(objects, service))


def _ports(service: Manifest, protocol: str) -> set[Any]:
    return {each["targetPort"] for each in service["spec"]["ports"] if each.get("protocol", "TCP") == protocol}


def _readiness_port(container: Manifest) -> int | None:
    """Return the number of the port that says whether a container is ready."""
    probe = container.get("readinessProbe", {})
    asked = probe.get("tcpSocket", probe.get("httpGet", {})).get("port")
    for each in container.get("ports", []):
        if asked in (each.get("name"), each["containerPort"]) and each.get("protocol", "TCP") == "TCP":
            return int(each["containerPort"])
    return None


def _listed(ports: set[tuple[Any, ...]]) -> str:
    named = (f"{protocol} {first}" + (f"-{last}" if last != first else "") for protocol, first, last in ports)
    return ", ".join(sorted(named)) or "nothing"
