"""What the deployed objects must hold between them: the mistakes that no schema finds.

Each rule takes the objects of one deployment and yields a sentence for every place that breaks it. Those of relays
are in relay_rules.py, those of DLNA in dlna_rules.py, those of volumes in volume_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dlna_rules
import relay_rules
import volume_rules
from manifests import (
    DNS_PORTS,
    HOST_NETWORK_GROUP,
    Manifest,
    PodSpec,
    clients,
    declared,
    declared_udp,
    environment,
    is_block,
    is_fanout,
    matches,
    name_of,
    of_kind,
    pods,
    policies_of,
    policy_ports,
    rules_of,
    selected,
)

Rule = Callable[[list[Manifest]], Iterator[str]]

SENDER_LABEL = {"headless-udp-client": "true"}
POD_FIELDS = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_IP": "status.podIP",
    "NODE_NAME": "spec.nodeName",
}
POD_SPEC = {"automountServiceAccountToken": False, "enableServiceLinks": False}
POD_CONTEXT = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def problems(objects: list[Manifest]) -> list[str]:
    """Return what is wrong with the objects of one deployment; nothing where every rule holds."""
    return [problem for rule in RULES for problem in rule(objects)]


def names_are_unique(objects: list[Manifest]) -> Iterator[str]:
    """No object takes the place of another, and none is bound to a namespace."""
    seen = set()
    for item in objects:
        name = name_of(item)
        if name in seen:
            yield f"{name} must be unique; it is there twice"
        seen.add(name)
        if "namespace" in item["metadata"]:
            yield f"{name}: namespace must be left out: whoever deploys it chooses one"


def nothing_left_to_substitute(objects: list[Manifest]) -> Iterator[str]:
    """No reference to a parameter is left, in a key or in a value."""
    for item in objects:
        for path, text in _texts(item):
            if "${" in text:
                yield f"{name_of(item)}: {path} must hold no reference to a parameter; got {text!r}"


def service_is_headless(objects: list[Manifest]) -> Iterator[str]:
    """Every Service answers with the addresses of ready pods, which listen on its named ports: UDP, but for DLNA."""
    for service in of_kind(objects, "Service"):
        name, spec = name_of(service), service["spec"]
        if spec.get("clusterIP") != "None":
            yield f"{name}: clusterIP must be 'None', so that DNS answers with the pods; got {spec.get('clusterIP')!r}"
        if spec.get("publishNotReadyAddresses"):
            yield f"{name}: publishNotReadyAddresses must not be set: DNS would answer with pods that cannot receive"
        is_dlna = any(pod.is_ssdp_relay for pod, _ in clients(objects, service))
        for port in spec["ports"]:
            protocol = port.get("protocol", "TCP")
            if protocol != "UDP" and not is_dlna:
                yield f"{name}: protocol of port {port['port']} must be UDP; got {protocol}"
            if not port.get("name"):
                yield f"{name}: port {port['port']} must have a name: without one it has no SRV record"
            for pod in selected(objects, service):
                wanted = (protocol if is_dlna else "UDP", port["targetPort"])
                if not any(wanted in declared(container) for container in pod.containers):
                    yield f"{name}: {pod.owner} must declare {wanted[0]} {wanted[1]}"


def selectors_match(objects: list[Manifest]) -> Iterator[str]:
    """Whatever selects pods of this deployment selects at least one."""
    every = list(pods(objects))
    for item in objects:
        for path, selector in _selectors(item):
            if not selector:
                yield f"{name_of(item)}: {path} must not be empty: it selects every pod"
            elif not any(matches(selector, pod.labels) for pod in every):
                yield f"{name_of(item)}: {path} must match a pod; got {selector}"


def workloads_are_served(objects: list[Manifest]) -> Iterator[str]:
    """The selector of a StatefulSet or Deployment leads to its own pods, and so does a serviceName."""
    services = {service["metadata"]["name"]: service for service in of_kind(objects, "Service")}
    for item in (*of_kind(objects, "StatefulSet"), *of_kind(objects, "Deployment")):
        name, spec = name_of(item), item["spec"]
        labels = spec["template"]["metadata"]["labels"]
        if not isinstance(spec["replicas"], int) or spec["replicas"] < 0:
            yield f"{name}: replicas must be a number of at least 0; got {spec['replicas']!r}"
        if not matches(spec["selector"]["matchLabels"], labels):
            yield f"{name}: selector must match the pod template"
        if item["kind"] != "StatefulSet":
            continue
        service = services.get(spec["serviceName"])
        if service is None:
            yield f"{name}: serviceName must be a Service of this deployment; got {spec['serviceName']}"
        elif not matches(service["spec"]["selector"], labels):
            yield f"{name}: Service {spec['serviceName']} must select its pods"


def udp_ports_agree(objects: list[Manifest]) -> Iterator[str]:
    """A Service, its pods, those that send to it, their environment and their policies mean the same UDP ports."""
    for service in of_kind(objects, "Service"):
        ports = [port for port in service["spec"]["ports"] if port.get("protocol") == "UDP"]
        mentions = [(f"{name_of(service)} {key}", [port[key] for port in ports]) for key in ("port", "targetPort")]
        for pod in selected(objects, service):
            mentions += policy_ports(objects, pod, "UDP", "ingress")
            for container in pod.containers:
                mentions.append((pod.owner, declared_udp(container)))
                if is_fanout(container):
                    mentions.append((f"{pod.owner} FANOUT_PORT", [environment(container).get("FANOUT_PORT")]))
        for pod, container in clients(objects, service):
            mentions += policy_ports(objects, pod, "UDP", "egress")
            # Where a relay sends to, its ingresses say: relay_rules.ingresses_reach_their_service.
            if not pod.is_relay:
                mentions.append((f"{pod.owner} FANOUT_PORT", [environment(container).get("FANOUT_PORT")]))
        yield from _differences("UDP", mentions)


def admin_port_is_one(objects: list[Manifest]) -> Iterator[str]:
    """In a pod of fanout containers, their environment, the scrape annotation and policies mean the same TCP port."""
    for pod in pods(objects):
        if not any(map(is_fanout, pod.containers)):
            continue
        mentions = policy_ports(objects, pod, "TCP", "ingress", "egress")
        if "prometheus.io/port" in pod.annotations:
            mentions.append((f"{pod.owner} prometheus.io/port", [pod.annotations["prometheus.io/port"]]))
        for container in pod.containers:
            settings = environment(container)
            if "FANOUT_ADMIN_PORT" in settings:
                mentions.append((f"{pod.owner} FANOUT_ADMIN_PORT", [settings["FANOUT_ADMIN_PORT"]]))
            mentions += [(pod.owner, [port]) for protocol, port in declared(container) if protocol == "TCP"]
        yield from _differences("admin", mentions)


def probes_reach_a_port(objects: list[Manifest]) -> Iterator[str]:
    """A container of fanout with ports has all three probes, each on a TCP port that it declares."""
    for pod in pods(objects):
        for container in pod.containers:
            tcp = [port for port in container.get("ports", []) if port.get("protocol", "TCP") == "TCP"]
            known = {port.get("name") for port in tcp} | {port["containerPort"] for port in tcp}
            for kind, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
                request = container.get(f"{kind}Probe", {}).get("httpGet")
                where = f"{pod.owner}: container {container['name']}: {kind} probe"
                if request is None:
                    if container.get("ports") and is_fanout(container):
                        yield f"{where} must be given"
                elif request["port"] not in known:
                    yield f"{where} must ask a port that the container declares; got {request['port']}"
                elif request["path"] != path:
                    yield f"{where} must ask {path}; got {request['path']}"


def pods_are_restricted(objects: list[Manifest]) -> Iterator[str]:
    """Every pod runs under OpenShift's restricted-v2, host network apart, and holds nothing that it does not use."""
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        yield from _unlike(pod.owner, context, POD_CONTEXT)
        yield from _unlike(pod.owner, pod.spec, POD_SPEC)
        for key in sorted({"hostPID", "hostIPC"} & pod.spec.keys()):
            yield f"{pod.owner}: {key} must not be set"
        for container in pod.containers:
            own = container.get("securityContext", {})
            yield from _unlike(f"{pod.owner}: container {container['name']}", own, CONTAINER_CONTEXT)
            for key in sorted({"runAsUser", "runAsGroup", "privileged"} & (own.keys() | context.keys())):
                yield f"{pod.owner}: {key} must not be set: restricted-v2 decides it"


def pods_are_bounded(objects: list[Manifest]) -> Iterator[str]:
    """Every container requests CPU and memory, limits memory alone, and those of fanout know which pod they are."""
    for pod in pods(objects):
        for container in pod.containers:
            where = f"{pod.owner}: container {container['name']}"
            resources = container.get("resources", {})
            if resources.get("requests", {}).keys() != {"cpu", "memory"}:
                yield f"{where}: requests must be for cpu and memory"
            if resources.get("limits", {}).keys() != {"memory"}:
                yield f"{where}: limits must be for memory alone"
            fields = {
                entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"]
                for entry in container.get("env", [])
                if "valueFrom" in entry
            }
            if is_fanout(container) and fields != POD_FIELDS:
                yield f"{where}: env must have {', '.join(POD_FIELDS)} from the downward API"


def all_seal_or_none(objects: list[Manifest]) -> Iterator[str]:
    """All senders and receivers have the same key file, which lies in a volume: others could not read their messages.

    A relay needs none: it forwards what is sealed as it came.
    """
    mentions = []
    for pod in pods(objects):
        for container in filter(is_fanout, pod.containers):
            path = environment(container).get("FANOUT_KEY_FILE", "")
            if pod.is_relay and not path:
                continue
            mentions.append((pod.owner, path))
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if path and not any(path.startswith(f"{mount.rstrip('/')}/") for mount in mounts):
                volumes = ", ".join(mounts) or "there is none"
                yield f"{pod.owner}: FANOUT_KEY_FILE must lie in a volume ({volumes}); got {path}"
    if len({path for _, path in mentions}) > 1:
        places = (f"{path or None} in {where}" for where, path in mentions)
        yield f"FANOUT_KEY_FILE must be the same everywhere; got {', '.join(places)}"


def drain_fits_the_grace_period(objects: list[Manifest]) -> Iterator[str]:
    """No receiver is killed while it drains."""
    for pod in pods(objects):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        for container in pod.containers:
            drain = environment(container).get("FANOUT_DRAIN", "0")
            try:
                fits = float(drain) < float(grace)
            except ValueError:
                yield f"{pod.owner}: drain time and grace period must be numbers of seconds; got {drain!r}, {grace!r}"
            else:
                if not fits:
                    yield f"{pod.owner}: grace period must be longer than the drain time of {drain} s; got {grace} s"


def policies_isolate(objects: list[Manifest]) -> Iterator[str]:
    """Every pod is under a policy of both directions, whose rules name their peers; on the host network none holds."""
    for pod in pods(objects):
        if pod.on_host_network:
            continue
        policies = [policy["spec"] for policy in policies_of(objects, pod)]
        for direction in ("Ingress", "Egress"):
            if not any(direction in policy["policyTypes"] for policy in policies):
                yield f"{pod.owner}: a NetworkPolicy must limit its {direction.lower()}"
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            if any(not rule.get(peers) for policy in policies for rule in policy.get(direction, [])):
                yield f"{pod.owner}: a rule of its {direction} must have {peers!r}: without it everybody is meant"


def policies_let_datagrams_through(objects: list[Manifest]) -> Iterator[str]:
    """The pods of a Service take UDP from those that send to it and nobody else; these reach them and DNS alone."""
    for service in of_kind(objects, "Service"):
        receivers, senders = selected(objects, service), [pod for pod, _ in clients(objects, service)]
        for pod in receivers:
            peers = [peer for rule in rules_of(objects, pod, "ingress", "UDP") for peer in rule.get("from", [])]
            if any(sender.on_host_network for sender in senders):
                group, *blocks = peers or [{}]
                if group != {"namespaceSelector": {"matchLabels": HOST_NETWORK_GROUP}}:
                    yield f"{pod.owner}: must take UDP from the group {HOST_NETWORK_GROUP}"
                if not blocks or not all(map(is_block, blocks)):
                    yield f"{pod.owner}: must take UDP from networks of the nodes, and from nobody else"
            elif peers != [{"podSelector": {"matchLabels": SENDER_LABEL}}]:
                yield f"{pod.owner}: must take UDP from pods with {SENDER_LABEL} alone"
            # Which answers and events may leave, dlna_rules.servers_meet_the_relay_alone says.
            has_answers = any(sender.is_ssdp_relay for sender in senders)
            if not has_answers and any(policy["spec"].get("egress") for policy in policies_of(objects, pod)):
                yield f"{pod.owner}: egress must be empty: it opens no connections"
        for pod in senders:
            if not pod.on_host_network:
                yield from _sending(objects, pod, receivers)


RULES: tuple[Rule, ...] = (
    names_are_unique,
    nothing_left_to_substitute,
    service_is_headless,
    selectors_match,
    workloads_are_served,
    udp_ports_agree,
    admin_port_is_one,
    probes_reach_a_port,
    pods_are_restricted,
    pods_are_bounded,
    all_seal_or_none,
    drain_fits_the_grace_period,
    policies_isolate,
    policies_let_datagrams_through,
    *volume_rules.RULES,
    *relay_rules.RULES,
    *dlna_rules.RULES,
)


def _sending(objects: list[Manifest], pod: PodSpec, receivers: list[PodSpec]) -> Iterator[str]:
    """Yield what keeps a pod from its receivers, and where else it may go beside DNS."""
    if not matches(SENDER_LABEL, pod.labels):
        yield f"{pod.owner}: must have the label {SENDER_LABEL}: without it no receiver takes its datagrams"
    reached, ports = False, set()
    for rule in rules_of(objects, pod, "egress"):
        selectors = [peer["podSelector"]["matchLabels"] for peer in rule.get("to", []) if "podSelector" in peer]
        if selectors:
            reached = all(any(matches(each, other.labels) for each in selectors) for other in receivers)
        else:
            ports |= {(port.get("protocol", "TCP"), port["port"]) for port in rule["ports"]}
    if not reached:
        yield f"{pod.owner}: egress must reach the receivers"
    if ports != DNS_PORTS:
        yield f"{pod.owner}: other egress must be DNS on UDP and TCP, 53 and 5353; got {sorted(ports, key=str)}"


def _differences(what: str, mentions: list[tuple[str, list[Any]]]) -> Iterator[str]:
    """Yield a sentence where the mentions of ports are not the same unprivileged ports."""
    named = [(where, sorted({str(port) for port in ports})) for where, ports in mentions]
    if len({tuple(ports) for _, ports in named}) > 1:
        places = (f"{' '.join(ports)} in {where}" for where, ports in named)
        yield f"the {what} port must be the same everywhere; got {', '.join(places)}"
    for port in sorted({port for _, ports in named for port in ports}):
        if not (port.isdigit() and 1024 <= int(port) <= 65_535):
            yield f"the {what} port must be a number from 1024 to 65535; got {port!r}"


def _unlike(where: str, actual: Manifest, wanted: Manifest) -> Iterator[str]:
    for key, value in wanted.items():
        if actual.get(key) != value:
            yield f"{where}: {key} must be {value!r}; got {actual.get(key)!r}"


def _texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text below a node, keys too, each with where it is."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}.{key}", str(key)
            yield from _texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}[{index}]")
    elif isinstance(node, str):
        yield path, node


def _selectors(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every selector of pods below a node, each with where it is."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from _selectors(value, f"{path}[{index}]")
    elif isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else key
            if key in ("selector", "podSelector", "labelSelector"):
                yield here, value.get("matchLabels", {} if "matchExpressions" in value else value)
            else:
                yield from _selectors(value, here)
