"""What the deployed objects must hold between them: the mistakes that no schema finds.

Each rule takes the objects of one deployment and yields a sentence for every place that breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Manifest = dict[str, Any]
Rule = Callable[[list[Manifest]], Iterator[str]]

SENDER_LABEL = {"headless-udp-client": "true"}
DNS_PORTS = {("UDP", 53), ("TCP", 53), ("UDP", 5353), ("TCP", 5353)}
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


class _Pod(NamedTuple):
    """A pod, or the template of one, and the object that it stands in."""

    owner: str
    metadata: Manifest
    spec: Manifest

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.metadata.get("labels", {})
        return labels

    @property
    def annotations(self) -> dict[str, str]:
        annotations: dict[str, str] = self.metadata.get("annotations", {})
        return annotations

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def problems(objects: list[Manifest]) -> list[str]:
    """Return what is wrong with the objects of one deployment; nothing where every rule holds."""
    return [problem for rule in RULES for problem in rule(objects)]


def names_are_unique(objects: list[Manifest]) -> Iterator[str]:
    """No object takes the place of another, and none is bound to a namespace."""
    seen = set()
    for item in objects:
        name = _name(item)
        if name in seen:
            yield f"{name} is there twice"
        seen.add(name)
        if "namespace" in item["metadata"]:
            yield f"{name} names a namespace; whoever deploys it chooses"


def nothing_left_to_substitute(objects: list[Manifest]) -> Iterator[str]:
    """No reference to a parameter is left, in a key or in a value."""
    for item in objects:
        for path, text in _texts(item):
            if "${" in text:
                yield f"{_name(item)}: {path} still holds {text!r}"


def service_is_headless(objects: list[Manifest]) -> Iterator[str]:
    """Every Service answers with the addresses of ready pods, which listen on its named UDP port."""
    for service in _of_kind(objects, "Service"):
        name, spec = _name(service), service["spec"]
        if spec.get("clusterIP") != "None":
            yield f"{name}: clusterIP is {spec.get('clusterIP')!r}, so DNS does not answer with the pods"
        if spec.get("publishNotReadyAddresses"):
            yield f"{name}: publishNotReadyAddresses puts pods that cannot receive into the answer"
        for port in spec["ports"]:
            if port.get("protocol") != "UDP":
                yield f"{name}: port {port['port']} is {port.get('protocol', 'TCP')}, not UDP"
            if not port.get("name"):
                yield f"{name}: port {port['port']} has no name, so no SRV record"
            for pod in _selected(objects, spec["selector"]):
                if not any(("UDP", port["targetPort"]) in _declared(container) for container in pod.containers):
                    yield f"{name}: {pod.owner} does not declare UDP {port['targetPort']}"


def selectors_match(objects: list[Manifest]) -> Iterator[str]:
    """Whatever selects pods of this deployment selects at least one."""
    pods = list(_pods(objects))
    for item in objects:
        for path, selector in _selectors(item):
            if not selector:
                yield f"{_name(item)}: {path} is empty and selects every pod"
            elif not any(_matches(selector, pod.labels) for pod in pods):
                yield f"{_name(item)}: {path} {selector} matches no pod"


def stateful_set_is_served(objects: list[Manifest]) -> Iterator[str]:
    """A StatefulSet's selector and its serviceName both lead to its own pods."""
    services = {service["metadata"]["name"]: service for service in _of_kind(objects, "Service")}
    for item in _of_kind(objects, "StatefulSet"):
        name, spec = _name(item), item["spec"]
        labels = spec["template"]["metadata"]["labels"]
        if not isinstance(spec["replicas"], int) or spec["replicas"] < 0:
            yield f"{name}: replicas is {spec['replicas']!r}, no number"
        if not _matches(spec["selector"]["matchLabels"], labels):
            yield f"{name}: its selector does not match its pod template"
        service = services.get(spec["serviceName"])
        if service is None:
            yield f"{name}: serviceName {spec['serviceName']} is no Service of this deployment"
        elif not _matches(service["spec"]["selector"], labels):
            yield f"{name}: Service {spec['serviceName']} does not select its pods"


def udp_port_is_one(objects: list[Manifest]) -> Iterator[str]:
    """The Service, the containers, their environment and the policies mean the same UDP port."""
    mentions = [
        (f"{_name(service)} {key}", port[key])
        for service in _of_kind(objects, "Service")
        for port in service["spec"]["ports"]
        for key in ("port", "targetPort")
    ]
    for pod in _pods(objects):
        for container in pod.containers:
            mentions.append((f"{pod.owner} FANOUT_PORT", _environment(container).get("FANOUT_PORT")))
            mentions += [(pod.owner, port) for protocol, port in _declared(container) if protocol == "UDP"]
    mentions += _policy_ports(objects, "UDP")
    yield from _differences("UDP", mentions)


def admin_port_is_one(objects: list[Manifest]) -> Iterator[str]:
    """The containers, their environment, the scrape annotation and the policies mean the same TCP port."""
    mentions: list[tuple[str, Any]] = []
    for pod in _pods(objects):
        if "prometheus.io/port" in pod.annotations:
            mentions.append((f"{pod.owner} prometheus.io/port", pod.annotations["prometheus.io/port"]))
        for container in pod.containers:
            environment = _environment(container)
            if "FANOUT_ADMIN_PORT" in environment:
                mentions.append((f"{pod.owner} FANOUT_ADMIN_PORT", environment["FANOUT_ADMIN_PORT"]))
            mentions += [(pod.owner, port) for protocol, port in _declared(container) if protocol == "TCP"]
    mentions += _policy_ports(objects, "TCP")
    yield from _differences("admin", mentions)


def probes_reach_a_port(objects: list[Manifest]) -> Iterator[str]:
    """A container with ports has all three probes, each on a TCP port that it declares."""
    for pod in _pods(objects):
        for container in pod.containers:
            tcp = [port for port in container.get("ports", []) if port.get("protocol", "TCP") == "TCP"]
            known = {port.get("name") for port in tcp} | {port["containerPort"] for port in tcp}
            for kind, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
                request = container.get(f"{kind}Probe", {}).get("httpGet")
                where = f"{pod.owner}: container {container['name']}: {kind} probe"
                if request is None:
                    if container.get("ports"):
                        yield f"{where} is missing"
                elif request["port"] not in known:
                    yield f"{where} asks port {request['port']}, which the container does not declare"
                elif request["path"] != path:
                    yield f"{where} asks {request['path']}, not {path}"


def pods_are_restricted(objects: list[Manifest]) -> Iterator[str]:
    """Every pod runs under OpenShift's restricted-v2, and holds nothing that it does not use."""
    for pod in _pods(objects):
        context = pod.spec.get("securityContext", {})
        yield from _unlike(pod.owner, context, POD_CONTEXT)
        yield from _unlike(pod.owner, pod.spec, POD_SPEC)
        for key in sorted({"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()):
            yield f"{pod.owner}: {key} is used"
        for container in pod.containers:
            own = container.get("securityContext", {})
            yield from _unlike(f"{pod.owner}: container {container['name']}", own, CONTAINER_CONTEXT)
            for key in sorted({"runAsUser", "runAsGroup", "privileged"} & (own.keys() | context.keys())):
                yield f"{pod.owner}: {key} is set, and restricted-v2 decides it"


def pods_are_bounded(objects: list[Manifest]) -> Iterator[str]:
    """Every container requests CPU and memory, limits memory alone, and knows which pod it is."""
    for pod in _pods(objects):
        for container in pod.containers:
            where = f"{pod.owner}: container {container['name']}"
            resources = container.get("resources", {})
            if resources.get("requests", {}).keys() != {"cpu", "memory"}:
                yield f"{where}: it does not request cpu and memory"
            if resources.get("limits", {}).keys() != {"memory"}:
                yield f"{where}: it does not limit memory, and memory alone"
            fields = {
                entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"]
                for entry in container.get("env", [])
                if "valueFrom" in entry
            }
            if fields != POD_FIELDS:
                yield f"{where}: the downward API does not give {', '.join(POD_FIELDS)}"


def volumes_are_keys(objects: list[Manifest]) -> Iterator[str]:
    """A pod's volumes are Secrets that may be missing; it sees what changes in them, and cannot change them."""
    for pod in _pods(objects):
        for volume in pod.spec.get("volumes", []):
            where = f"{pod.owner}: volume {volume['name']}"
            if volume.keys() != {"name", "secret"}:
                yield f"{where} is no Secret"
            elif not volume["secret"].get("optional"):
                yield f"{where} is not optional, so no pod starts before its Secret is there"
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                where = f"{pod.owner}: mount {mount['mountPath']}"
                if not mount.get("readOnly"):
                    yield f"{where} is not read-only"
                if "subPath" in mount:
                    yield f"{where} has a subPath, so a new key is not seen before the pod is restarted"


def all_seal_or_none(objects: list[Manifest]) -> Iterator[str]:
    """Every container has the same key file, which lies in a volume: who has none is not understood by the others."""
    mentions = []
    for pod in _pods(objects):
        for container in pod.containers:
            path = _environment(container).get("FANOUT_KEY_FILE", "")
            mentions.append((pod.owner, path))
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if path and not any(path.startswith(f"{mount.rstrip('/')}/") for mount in mounts):
                yield f"{pod.owner}: FANOUT_KEY_FILE {path} lies in no volume ({', '.join(mounts) or 'there is none'})"
    if len({path for _, path in mentions}) > 1:
        yield f"FANOUT_KEY_FILE differs: {', '.join(f'{path or None} in {where}' for where, path in mentions)}"


def drain_fits_the_grace_period(objects: list[Manifest]) -> Iterator[str]:
    """No receiver is killed while it drains."""
    for pod in _pods(objects):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        for container in pod.containers:
            drain = _environment(container).get("FANOUT_DRAIN", "0")
            try:
                fits = float(drain) < float(grace)
            except ValueError:
                yield f"{pod.owner}: drain time {drain!r} or grace period {grace!r} is no number of seconds"
            else:
                if not fits:
                    yield f"{pod.owner}: it is killed after {grace} s, before it has drained for {drain} s"


def policies_isolate(objects: list[Manifest]) -> Iterator[str]:
    """Every pod is under a policy of both directions, whose rules name their peers."""
    for pod in _pods(objects):
        policies = _policies_of(objects, pod)
        for direction in ("Ingress", "Egress"):
            if not any(direction in policy["policyTypes"] for policy in policies):
                yield f"{pod.owner}: no NetworkPolicy holds its {direction.lower()}"
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            if any(not rule.get(peers) for policy in policies for rule in policy.get(direction, [])):
                yield f"{pod.owner}: a rule of its {direction} has no {peers!r}, and so means everybody"


def policies_let_datagrams_through(objects: list[Manifest]) -> Iterator[str]:
    """Receivers take UDP from senders and nobody else; senders reach them and DNS and nothing else."""
    receivers = [
        pod for service in _of_kind(objects, "Service") for pod in _selected(objects, service["spec"]["selector"])
    ]
    for pod in receivers:
        peers = [peer for rule in _rules_with(objects, pod, "ingress", "UDP") for peer in rule.get("from", [])]
        if peers != [{"podSelector": {"matchLabels": SENDER_LABEL}}]:
            yield f"{pod.owner}: does not take UDP from pods with {SENDER_LABEL} alone"
        if any(policy.get("egress") for policy in _policies_of(objects, pod)):
            yield f"{pod.owner}: may open connections, and needs none"
    for pod in _pods(objects):
        if not any("FANOUT_SERVICE" in _environment(container) for container in pod.containers):
            continue
        if not _matches(SENDER_LABEL, pod.labels):
            yield f"{pod.owner}: lacks the label {SENDER_LABEL}, so no receiver takes its datagrams"
        reached, ports = False, set()
        for rule in _rules_with(objects, pod, "egress"):
            selectors = [peer["podSelector"]["matchLabels"] for peer in rule.get("to", []) if "podSelector" in peer]
            if selectors:
                reached = all(any(_matches(each, other.labels) for each in selectors) for other in receivers)
            else:
                ports |= {(port.get("protocol", "TCP"), port["port"]) for port in rule["ports"]}
        if not reached:
            yield f"{pod.owner}: its egress does not reach the receivers"
        if ports != DNS_PORTS:
            yield f"{pod.owner}: its egress is not DNS on UDP and TCP, 53 and 5353: {sorted(ports, key=str)}"


RULES: tuple[Rule, ...] = (
    names_are_unique,
    nothing_left_to_substitute,
    service_is_headless,
    selectors_match,
    stateful_set_is_served,
    udp_port_is_one,
    admin_port_is_one,
    probes_reach_a_port,
    pods_are_restricted,
    pods_are_bounded,
    volumes_are_keys,
    all_seal_or_none,
    drain_fits_the_grace_period,
    policies_isolate,
    policies_let_datagrams_through,
)


def _name(item: Manifest) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def _of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [item for item in objects if item["kind"] == kind]


def _pods(objects: list[Manifest]) -> Iterator[_Pod]:
    for item in objects:
        if item["kind"] == "Pod":
            yield _Pod(_name(item), item["metadata"], item["spec"])
        elif "template" in item.get("spec", {}):
            template = item["spec"]["template"]
            yield _Pod(_name(item), template["metadata"], template["spec"])


def _selected(objects: list[Manifest], selector: dict[str, str]) -> list[_Pod]:
    return [pod for pod in _pods(objects) if _matches(selector, pod.labels)]


def _declared(container: Manifest) -> set[tuple[str, Any]]:
    return {(port.get("protocol", "TCP"), port["containerPort"]) for port in container.get("ports", [])}


def _policies_of(objects: list[Manifest], pod: _Pod) -> list[Manifest]:
    specs = [policy["spec"] for policy in _of_kind(objects, "NetworkPolicy")]
    return [spec for spec in specs if _matches(spec["podSelector"]["matchLabels"], pod.labels)]


def _rules_with(objects: list[Manifest], pod: _Pod, direction: str, protocol: str | None = None) -> Iterator[Manifest]:
    """Yield the rules of a direction that hold a pod; those with a port of `protocol` where one is given."""
    for policy in _policies_of(objects, pod):
        for rule in policy.get(direction, []):
            if protocol is None or protocol in {port.get("protocol", "TCP") for port in rule["ports"]}:
                yield rule


def _policy_ports(objects: list[Manifest], protocol: str) -> list[tuple[str, Any]]:
    """Return the ports of a protocol in all policies, those of DNS left out, each with who names it."""
    return [
        (_name(policy), port["port"])
        for policy in _of_kind(objects, "NetworkPolicy")
        for direction in ("ingress", "egress")
        for rule in policy["spec"].get(direction, [])
        for port in rule["ports"]
        if port.get("protocol", "TCP") == protocol and (protocol, port["port"]) not in DNS_PORTS
    ]


def _differences(what: str, mentions: list[tuple[str, Any]]) -> Iterator[str]:
    """Yield a sentence where the mentions of a port are not one unprivileged port."""
    if len({str(port) for _, port in mentions}) > 1:
        yield f"the {what} port differs: {', '.join(f'{port} in {where}' for where, port in mentions)}"
    for port in sorted({str(port) for _, port in mentions}):
        if not (port.isdigit() and 1024 <= int(port) <= 65_535):
            yield f"the {what} port {port!r} is no number from 1024 to 65535"


def _unlike(where: str, actual: Manifest, wanted: Manifest) -> Iterator[str]:
    for key, value in wanted.items():
        if actual.get(key) != value:
            yield f"{where}: {key} is {actual.get(key)!r}, not {value!r}"


def _environment(container: Manifest) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


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
