"""What a relay's deployment must hold: where it listens, by which network, with which privilege.

Rules as those of rules.py, where they are put to use.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from typing import Any

from fanout.errors import InvalidIngress
from fanout.relay.core.ingress import Ingress
from manifests import Manifest, PodSpec, declared_udp, environment, is_fanout, name_of, of_kind, pods, policies_of

NETWORKS = "k8s.v1.cni.cncf.io/networks"
SCC_ROLE = {
    "apiGroup": "rbac.authorization.k8s.io",
    "kind": "ClusterRole",
    "name": "system:openshift:scc:hostnetwork-v2",
}
"""The least privilege that lets a pod onto the host network."""


def ingresses_reach_their_service(objects: list[Manifest]) -> Iterator[str]:
    """Every ingress of a relay is one, its ports are declared, and those at the pods are ports of its Service."""
    services = {service["metadata"]["name"]: service for service in of_kind(objects, "Service")}
    for pod, container in _relays(objects):
        try:
            ingresses = _ingresses(container)
        except InvalidIngress as error:
            yield f"{pod.owner}: {error}"
            continue
        listening, told = {port for ingress in ingresses for port in ingress.ports}, set(declared_udp(container))
        if listening != told:
            yield f"{pod.owner}: it listens on UDP {_numbers(listening)}, and declares {_numbers(told)}"
        for ingress in ingresses:
            service = services.get(ingress.service)
            if service is None:
                yield f"{pod.owner}: ingress {ingress} goes to {ingress.service}, no Service of this deployment"
                continue
            lost = {ingress.port_at_pods(port) for port in ingress.ports}
            lost -= {port["targetPort"] for port in service["spec"]["ports"]}
            if lost:
                yield f"{pod.owner}: ingress {ingress} goes to {_numbers(lost)}, no port of {name_of(service)}"
        asked, at_pods = environment(container).get("FANOUT_PORT"), _at_pods(ingresses)
        if asked not in {str(port) for port in at_pods}:
            yield f"{pod.owner}: FANOUT_PORT is {asked}: fanout doctor asks there, and it goes to {_numbers(at_pods)}"


def relays_are_alone(objects: list[Manifest]) -> Iterator[str]:
    """There is one pod of a relay, and never two for a moment: both would take every datagram."""
    for pod in filter(lambda pod: pod.is_relay, pods(objects)):
        spec = pod.item["spec"]
        if spec.get("replicas") != 1:
            yield f"{pod.owner}: replicas is {spec.get('replicas')!r}, and each relay takes every datagram"
        if spec.get("strategy") != {"type": "Recreate"}:
            yield f"{pod.owner}: strategy is not Recreate, so two relays overlap"


def networks_are_attached(objects: list[Manifest]) -> Iterator[str]:
    """The networks that a pod names are there, and by one of them comes each interface that a relay listens on."""
    known = {item["metadata"]["name"] for item in of_kind(objects, "NetworkAttachmentDefinition")}
    named = set()
    for pod in pods(objects):
        interfaces = set()
        for each in filter(None, pod.annotations.get(NETWORKS, "").split(",")):
            network, _, interface = each.strip().partition("@")
            named.add(network)
            interfaces.add(interface)
            if network not in known:
                yield f"{pod.owner}: network {network} is no NetworkAttachmentDefinition of this deployment"
            if not interface:
                yield f"{pod.owner}: network {network} has no @interface, so Multus chooses the name"
        for container in pod.containers:
            for interface in _interfaces(container):
                if interface not in interfaces and not pod.on_host_network:
                    yield f"{pod.owner}: it listens on {interface}, which no network of {NETWORKS} is called"
    yield from (f"NetworkAttachmentDefinition/{name}: no pod names it" for name in sorted(known - named))


def admin_ports_stay_inside(objects: list[Manifest]) -> Iterator[str]:
    """Who has an interface in a foreign network serves its admin port in the pod network alone: no policy holds there.

    The kubelet replaces $(POD_IP) by a variable that comes before it.
    """
    for pod in pods(objects):
        if not pod.annotations.get(NETWORKS):
            continue
        for container in filter(is_fanout, pod.containers):
            names = [entry["name"] for entry in container["env"]]
            host = environment(container).get("FANOUT_ADMIN_HOST")
            if host != "$(POD_IP)":
                yield f"{pod.owner}: FANOUT_ADMIN_HOST is {host}, not $(POD_IP): the admin port is open on {NETWORKS}"
            elif "POD_IP" not in names[: names.index("FANOUT_ADMIN_HOST")]:
                yield f"{pod.owner}: POD_IP does not come before FANOUT_ADMIN_HOST, which needs it"


def attachments_are_whole(objects: list[Manifest]) -> Iterator[str]:
    """A NetworkAttachmentDefinition, which no schema of Kubernetes knows, holds a configuration that CNI takes."""
    for item in of_kind(objects, "NetworkAttachmentDefinition"):
        where = name_of(item)
        if item["apiVersion"] != "k8s.cni.cncf.io/v1":
            yield f"{where}: apiVersion is {item['apiVersion']}, not k8s.cni.cncf.io/v1"
        if item["spec"].keys() != {"config"}:
            yield f"{where}: spec holds {', '.join(item['spec'])}, not config alone"
        try:
            config = json.loads(item["spec"].get("config", ""))
        except ValueError as error:
            yield f"{where}: config is no JSON: {error}"
            continue
        if not isinstance(config, dict):
            yield f"{where}: config is no JSON object"
            continue
        for key, value in (("cniVersion", "0.3.1"), ("type", "macvlan"), ("mode", "bridge")):
            if config.get(key) != value:
                yield f"{where}: {key} is {config.get(key)!r}, not {value!r}"
        if not 0 < len(config.get("master", "")) <= 15:
            yield f"{where}: master {config.get('master')!r} is no interface of a node"
        yield from (f"{where}: {problem}" for problem in _addressing(config.get("ipam", {})))


def host_network_is_the_relays(objects: list[Manifest]) -> Iterator[str]:
    """Only a relay is on the host network; there it resolves names of the cluster, and no policy pretends to hold it.

    No container takes a port of the node beside that.
    """
    for pod in pods(objects):
        for container in pod.containers:
            for port in container.get("ports", []):
                if "hostPort" in port:
                    yield f"{pod.owner}: hostPort {port['hostPort']} takes a port of the node"
        if not pod.on_host_network:
            continue
        if not pod.is_relay:
            yield f"{pod.owner}: hostNetwork is used, and only a relay needs it"
        if not isinstance(pod.spec.get("nodeSelector", {}), dict):
            yield f"{pod.owner}: nodeSelector is {pod.spec['nodeSelector']!r}, no object of labels"
        if pod.spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield f"{pod.owner}: dnsPolicy is not ClusterFirstWithHostNet, so the host's nameserver knows no Service"
        for policy in policies_of(objects, pod):
            yield f"{name_of(policy)}: it selects {pod.owner}, and holds nothing on the host network"


def privilege_is_granted(objects: list[Manifest]) -> Iterator[str]:
    """Who is on the host network has a ServiceAccount that may be there, and nobody else has one."""
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    granted = set()
    for binding in of_kind(objects, "RoleBinding"):
        if binding["roleRef"] != SCC_ROLE:
            yield f"{name_of(binding)}: it binds {binding['roleRef'].get('name')}, not {SCC_ROLE['name']}"
        for subject in binding["subjects"]:
            if subject["kind"] != "ServiceAccount" or subject["name"] not in accounts:
                yield f"{name_of(binding)}: {subject['kind']} {subject['name']} is no ServiceAccount of this deployment"
            granted.add(subject["name"])
    used = set()
    for pod in pods(objects):
        account = pod.spec.get("serviceAccountName", "default")
        if pod.on_host_network:
            used.add(account)
            if account not in granted:
                yield f"{pod.owner}: no RoleBinding lets ServiceAccount {account} use the host network"
        elif account != "default":
            yield f"{pod.owner}: ServiceAccount {account}, and it needs none"
    yield from (f"ServiceAccount/{name}: no pod on the host network has it" for name in sorted(accounts - used))


RULES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (
    ingresses_reach_their_service,
    relays_are_alone,
    networks_are_attached,
    admin_ports_stay_inside,
    attachments_are_whole,
    host_network_is_the_relays,
    privilege_is_granted,
)


def _relays(objects: list[Manifest]) -> Iterator[tuple[PodSpec, Manifest]]:
    for pod in pods(objects):
        for container in pod.containers:
            if "FANOUT_LISTEN" in environment(container):
                yield pod, container


def _ingresses(container: Manifest) -> list[Ingress]:
    """Return where a relay listens; raise `InvalidIngress`."""
    settings = environment(container)
    to_port = settings.get("FANOUT_TO_PORT") or None
    if to_port is not None and not to_port.isdigit():
        raise InvalidIngress(f"FANOUT_TO_PORT {to_port!r} is no port")
    ingresses = [
        Ingress.parse(
            url,
            service=settings.get("FANOUT_SERVICE", ""),
            to_port=None if to_port is None else int(to_port),
            allow_source=settings.get("FANOUT_ALLOW_SOURCE", "").split(),
        )
        for url in settings["FANOUT_LISTEN"].split()
    ]
    if not ingresses:
        raise InvalidIngress("FANOUT_LISTEN names no ingress")
    return ingresses


def _at_pods(ingresses: list[Ingress]) -> set[int]:
    return {ingress.port_at_pods(port) for ingress in ingresses for port in ingress.ports}


def _interfaces(container: Manifest) -> set[str]:
    try:
        return {ingress.interface for ingress in _ingresses(container) if ingress.interface}
    except (InvalidIngress, KeyError):
        return set()


def _addressing(ipam: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with addresses of the plugin host-local."""
    if ipam.get("type") != "host-local":
        yield f"ipam is {ipam.get('type')!r}, not 'host-local'"
        return
    if not ipam.get("ranges"):
        yield "ipam has no ranges"
    for each in (each for ranges in ipam.get("ranges", []) for each in ranges):
        try:
            subnet = ipaddress.ip_network(each["subnet"])
            first, last = (ipaddress.ip_address(each[key]) for key in ("rangeStart", "rangeEnd"))
        except (KeyError, ValueError) as error:
            yield f"ipam: {error} is missing or no address"
            continue
        if first not in subnet or last not in subnet or int(first) > int(last):
            yield f"ipam: {first} to {last} is no range of {subnet}"


def _numbers(ports: set[int]) -> str:
    return ", ".join(map(str, sorted(ports, key=str))) or "none"
