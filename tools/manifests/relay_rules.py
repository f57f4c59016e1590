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
    """Every ingress of a relay is valid, its ports are declared, and those at the pods are ports of its Service."""
    services = {service["metadata"]["name"]: service for service in of_kind(objects, "Service")}
    for pod, container in _relays(objects):
        try:
            ingresses = _ingresses(container)
        except InvalidIngress as error:
            yield f"{pod.owner}: {error}"
            continue
        listening, stated = {port for ingress in ingresses for port in ingress.ports}, set(declared_udp(container))
        if listening != stated:
            yield f"{pod.owner}: UDP ports must be {_numbers(listening)}, where it listens; got {_numbers(stated)}"
        for ingress in ingresses:
            service = services.get(ingress.service)
            if service is None:
                yield f"{pod.owner}: ingress {ingress} must go to a Service of this deployment; got {ingress.service}"
                continue
            lost = {ingress.port_at_pods(port) for port in ingress.ports}
            lost -= {port["targetPort"] for port in service["spec"]["ports"]}
            if lost:
                yield f"{pod.owner}: ingress {ingress} must go to ports of {name_of(service)}; got {_numbers(lost)}"
        # fanout doctor asks there.
        asked, at_pods = environment(container).get("FANOUT_PORT"), _at_pods(ingresses)
        if asked not in {str(port) for port in at_pods}:
            yield f"{pod.owner}: FANOUT_PORT must be one that it sends to ({_numbers(at_pods)}); got {asked}"


def relays_are_alone(objects: list[Manifest]) -> Iterator[str]:
    """There is one pod of a relay, and never two for a moment: both would take every datagram."""
    for pod in filter(lambda pod: pod.is_relay, pods(objects)):
        spec = pod.item["spec"]
        if spec.get("replicas") != 1:
            yield f"{pod.owner}: replicas must be 1, as each relay takes every datagram; got {spec.get('replicas')!r}"
        if spec.get("strategy") != {"type": "Recreate"}:
            yield f"{pod.owner}: strategy must be Recreate: otherwise two relays overlap"


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
                yield f"{pod.owner}: network must be a NetworkAttachmentDefinition of this deployment; got {network}"
            if not interface:
                yield f"{pod.owner}: network {network} must have @interface: otherwise Multus chooses the name"
        for container in pod.containers:
            for interface in _interfaces(container):
                if interface not in interfaces and not pod.on_host_network:
                    yield f"{pod.owner}: each interface that it listens on must be in {NETWORKS}; got {interface}"
    yield from (f"NetworkAttachmentDefinition/{name} must be named by a pod" for name in sorted(known - named))


def admin_ports_stay_inside(objects: list[Manifest]) -> Iterator[str]:
    """A pod with an interface in another network serves its admin port in the pod network alone: no policy holds there.

    The kubelet replaces $(POD_IP) by a variable that comes before it.
    """
    for pod in pods(objects):
        if not pod.annotations.get(NETWORKS):
            continue
        for container in filter(is_fanout, pod.containers):
            names = [entry["name"] for entry in container["env"]]
            host = environment(container).get("FANOUT_ADMIN_HOST")
            if host != "$(POD_IP)":
                yield f"{pod.owner}: FANOUT_ADMIN_HOST must be $(POD_IP), to be closed to {NETWORKS}; got {host}"
            elif "POD_IP" not in names[: names.index("FANOUT_ADMIN_HOST")]:
                yield f"{pod.owner}: POD_IP must come before FANOUT_ADMIN_HOST, which refers to it"


def attachments_are_whole(objects: list[Manifest]) -> Iterator[str]:
    """A NetworkAttachmentDefinition, which no schema of Kubernetes knows, holds a configuration that CNI takes."""
    for item in of_kind(objects, "NetworkAttachmentDefinition"):
        where = name_of(item)
        if item["apiVersion"] != "k8s.cni.cncf.io/v1":
            yield f"{where}: apiVersion must be k8s.cni.cncf.io/v1; got {item['apiVersion']}"
        if item["spec"].keys() != {"config"}:
            yield f"{where}: spec must hold config alone; got {', '.join(item['spec'])}"
        try:
            config = json.loads(item["spec"].get("config", ""))
        except ValueError as error:
            yield f"{where}: config must be JSON: {error}"
            continue
        if not isinstance(config, dict):
            yield f"{where}: config must be a JSON object"
            continue
        for key, value in (("cniVersion", "0.3.1"), ("type", "macvlan"), ("mode", "bridge")):
            if config.get(key) != value:
                yield f"{where}: {key} must be {value!r}; got {config.get(key)!r}"
        if not 0 < len(config.get("master", "")) <= 15:
            yield f"{where}: master must be an interface of the nodes; got {config.get('master')!r}"
        yield from (f"{where}: {problem}" for problem in _addressing(config.get("ipam", {})))


def host_network_is_the_relays(objects: list[Manifest]) -> Iterator[str]:
    """Only a relay is on the host network; there it resolves names of the cluster, and no policy pretends to limit it.

    No container takes a port of the node otherwise.
    """
    for pod in pods(objects):
        for container in pod.containers:
            for port in container.get("ports", []):
                if "hostPort" in port:
                    yield f"{pod.owner}: hostPort must not be set: it takes a port of the node; got {port['hostPort']}"
        if not pod.on_host_network:
            continue
        if not pod.is_relay:
            yield f"{pod.owner}: hostNetwork must not be set: only a relay needs it"
        if not isinstance(pod.spec.get("nodeSelector", {}), dict):
            yield f"{pod.owner}: nodeSelector must be a mapping of labels; got {pod.spec['nodeSelector']!r}"
        if pod.spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield f"{pod.owner}: dnsPolicy must be ClusterFirstWithHostNet: the host's nameserver knows no Service"
        for policy in policies_of(objects, pod):
            yield f"{name_of(policy)} must not select {pod.owner}: it has no effect on the host network"


def privilege_is_granted(objects: list[Manifest]) -> Iterator[str]:
    """Who is on the host network has a ServiceAccount that may be there, and nobody else has one."""
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    granted = set()
    for binding in of_kind(objects, "RoleBinding"):
        if binding["roleRef"] != SCC_ROLE:
            yield f"{name_of(binding)}: roleRef must be {SCC_ROLE['name']}; got {binding['roleRef'].get('name')}"
        for subject in binding["subjects"]:
            if subject["kind"] != "ServiceAccount" or subject["name"] not in accounts:
                given = f"{subject['kind']} {subject['name']}"
                yield f"{name_of(binding)}: subject must be a ServiceAccount of this deployment; got {given}"
            granted.add(subject["name"])
    used = set()
    for pod in pods(objects):
        account = pod.spec.get("serviceAccountName", "default")
        if pod.on_host_network:
            used.add(account)
            if account not in granted:
                yield f"{pod.owner}: a RoleBinding must let ServiceAccount {account} use the host network"
        elif account != "default":
            yield f"{pod.owner}: serviceAccountName must be left out, as it needs none; got {account}"
    yield from (f"ServiceAccount/{name} must be that of a pod on the host network" for name in sorted(accounts - used))


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
        raise InvalidIngress(f"FANOUT_TO_PORT must be a port; got {to_port!r}")
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
        raise InvalidIngress("FANOUT_LISTEN must name an ingress")
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
        yield f"ipam must be of the type 'host-local'; got {ipam.get('type')!r}"
        return
    if not ipam.get("ranges"):
        yield "ipam must have ranges"
    for each in (each for ranges in ipam.get("ranges", []) for each in ranges):
        try:
            subnet = ipaddress.ip_network(each["subnet"])
            first, last = (ipaddress.ip_address(each[key]) for key in ("rangeStart", "rangeEnd"))
        except (KeyError, ValueError) as error:
            yield f"ipam: subnet, rangeStart and rangeEnd must be addresses: {error}"
            continue
        if first not in subnet or last not in subnet or int(first) > int(last):
            yield f"ipam: range must ascend within {subnet}; got {first} to {last}"


def _numbers(ports: set[int]) -> str:
    return ", ".join(map(str, sorted(ports, key=str))) or "none"
