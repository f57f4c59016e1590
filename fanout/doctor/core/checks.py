"""Judges the facts about this host, a Service and the paths to its pods: facts in, sentences out. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from fanout import errno_text
from fanout.discovery.core.answer import DnsAnswer, Lookup, why_no_endpoints
from fanout.doctor.core.facts import Check, CheckStatus, HostFacts, PathFacts, PodFacts
from fanout.model import Service

_EXAMPLES = 3
"""The most pods that a sentence names; the details name all."""
_SAFE_PAYLOAD = 1200
"""Bytes that nearly every network carries in one piece."""
_CHECK_THE_NAME = "check the Service's name, and that the nameserver is the cluster's"


def host(facts: HostFacts) -> list[Check]:
    """Judge this host's buffers, and GSO."""
    room = " or ".join(f"{count:,} datagrams of {size:,} bytes" for size, count in facts.room.items())
    holds = f" (room for about {room})" if room else ""
    status, sentence, hints = CheckStatus.OK, f"{facts.granted:,} bytes are granted{holds}", []
    if facts.granted < facts.asked:
        status = CheckStatus.WARNING
        sentence = (
            f"only {facts.granted:,} of the {facts.asked:,} bytes that receivers and relays ask for are granted{holds}"
            ": what does not fit of a longer burst is dropped"
        )
        hints.append(
            f"raise net.core.rmem_max on the node (sysctl -w net.core.rmem_max={facts.asked}): "
            "a pod cannot, and has no limit of its own"
        )
    details = {
        "asked": facts.asked,
        "granted": facts.granted,
        "net.core.rmem_max": facts.sysctl,
        "datagrams": {str(size): count for size, count in facts.room.items()},
    }
    gso = "the kernel sends many datagrams in one call (UDP_SEGMENT)"
    if not facts.has_gso:
        gso = (
            "the kernel does not send many datagrams in one call (UDP_SEGMENT takes Linux 4.18): "
            "they are sent one by one, which costs several times the CPU"
        )
    return [
        Check("receive buffer", status, sentence, tuple(hints), details),
        Check("gso", CheckStatus.OK, gso, details={"supported": facts.has_gso}),
    ]


def dropped(before: int | None, after: int | None) -> list[Check]:
    """Judge the datagrams lost to full receive buffers, by the count (RcvbufErrors) at the beginning and now."""
    if before is None or after is None:
        return []
    details = {"RcvbufErrors": after, "meanwhile": after - before}
    so_far = f"{after:,} since this network namespace was made"
    if after <= before:
        sentence = "no datagram was dropped for lack of receive buffer meanwhile" + (f" ({so_far})" if after else "")
        return [Check("receive drops", CheckStatus.OK, sentence, details=details)]
    sentence = f"full receive buffers cost {_count(after - before, 'datagram')} while this was checked ({so_far})"
    hints = (
        "which program? See kernel_drops of a receiver, kernel_buffer of a relay, the last column of /proc/net/udp",
        "that program needs a larger --receive-buffer, or more CPU",
    )
    return [Check("receive drops", CheckStatus.WARNING, sentence, hints, details)]


def resolved(service: Service, answer: DnsAnswer) -> list[Check]:
    """Judge what DNS, or a literal list, says of a Service."""
    details = answer.as_json(service.name)
    if service.literals is not None:
        sentence = f"{_count(len(answer.endpoints), 'endpoint')} given as a list: DNS is not used"
        return [Check("resolve", CheckStatus.OK, sentence, details=details)]
    if not answer.endpoints:
        sentence, hints = _nothing_resolved(service, answer)
        return [Check("resolve", CheckStatus.PROBLEM, sentence, tuple(hints), details)]
    last = answer.lookups[-1] if answer.lookups else Lookup("", "", "", "", "")
    dns_ttl = "" if answer.dns_ttl is None else f", DNS TTL {answer.dns_ttl:g} s"
    expanded = "" if answer.name.rstrip(".") == service.name.rstrip(".") else f", expanded to {answer.name},"
    sentence = (
        f"{service.name}{expanded} has {_count(len(answer.endpoints), 'pod')}: "
        f"{last.result} of type {last.record} from nameserver {last.nameserver} over {last.over}{dns_ttl}"
    )
    hints = []
    if len(answer.endpoints) == 1:
        hints.append("one address alone: where there are more pods, the Service is not headless (clusterIP: None)")
    checks = [Check("resolve", CheckStatus.OK, sentence, tuple(hints), details)]
    if answer.refused:
        examples = _examples(f"{refusal.address} ({refusal.reason})" for refusal in answer.refused)
        sentence = f"{_count(len(answer.refused), 'address', 'addresses')} in the answer were refused: {examples}"
        refused = {"refused": details["refused"]}
        checks.append(Check("resolve", CheckStatus.WARNING, sentence, (_CHECK_THE_NAME,), refused))
    return checks


def unresolved(service: Service, why: str) -> Check:
    """Return the check of a Service without a usable answer."""
    return Check("resolve", CheckStatus.PROBLEM, why, (), {"service": service.name, "error": why})


def _nothing_resolved(service: Service, answer: DnsAnswer) -> tuple[str, list[str]]:
    """Return why there are no pods, and what to look at."""
    if answer.refused:
        hints = [_CHECK_THE_NAME]
        if any(refusal.reason == "loopback" for refusal in answer.refused):
            hints.append("--allow-loopback believes loopback addresses, for a nameserver of your own")
        return f"{service.name}: {why_no_endpoints(answer.refused)}", hints
    asked = list(dict.fromkeys(lookup.name for lookup in answer.lookups))
    tried = f" (asked: {_examples(asked)})" if asked else ""
    if empty := dict.fromkeys(lookup.record for lookup in answer.lookups if lookup.result == "NODATA"):
        sentence = f"{service.name} exists, but has no record of type {' or '.join(empty)}{tried}"
        return sentence, ["check --family, and the name of the Service's port (-p)"]
    hints = ["DNS says NXDOMAIN for both; this tells which: kubectl get service,endpointslices"]
    if not isinstance(service.port, int):
        hints.append(f"is {service.port} the name of a UDP port of the Service?")
    if not any(".svc." in name for name in asked):
        hints.append(
            "no name in a cluster (.svc.) was asked for: outside of one give the full name and --nameserver, "
            "in a pod with hostNetwork dnsPolicy: ClusterFirstWithHostNet"
        )
    return f"{service.name}: there is no such Service, or none of its pods is ready{tried}", hints


def reached(pods: Sequence[PodFacts], *, inside: bool = True) -> list[Check]:
    """Judge what became of the probes, one check for each kind of outcome; `inside` says whether this is a pod."""
    answered = [pod for pod in pods if pod.round_trip is not None]
    failed = [pod for pod in pods if pod.round_trip is None and pod.errno]
    silent = [pod for pod in pods if pod.round_trip is None and not pod.errno]
    checks = []
    if answered:
        slowest = max(pod.round_trip or 0.0 for pod in answered) * 1000
        number = "the pod answers" if len(pods) == len(answered) == 1 else f"{len(answered)} of {len(pods)} pods answer"
        checks.append(Check("reach", CheckStatus.OK, f"{number} a probe within {slowest:.1f} ms", (), _pods(answered)))
    if failed:
        said = [errno_text.sending(pod.endpoint, pod.errno) for pod in failed]
        refused = any(pod.errno == errno.ECONNREFUSED for pod in failed)
        hints = ("compare the Service's port with the one that the program in the pod listens on",) if refused else ()
        checks.append(Check("reach", CheckStatus.PROBLEM, _examples(said, "; "), hints, _pods(failed)))
    if silent:
        checks.append(_silent(silent, answered, inside))
    return checks


def _silent(silent: Sequence[PodFacts], answered: Sequence[PodFacts], inside: bool) -> Check:
    names = _examples(str(pod.endpoint) for pod in silent)
    port = silent[0].endpoint.port
    sentence = (
        f"{names}: {_count(max(pod.probes for pod in silent), 'probe')} left this host, and neither an answer "
        "nor an ICMP error came back; whether they arrived is not known"
    )
    hints = []
    if answered:
        hints.append("other pods of the Service answer: look at the node of this one, and whether it hangs")
    if not inside:
        hints.append("this host is not a pod of the cluster, and pods of most clusters cannot be reached from outside")
    hints += [
        f"a NetworkPolicy? UDP {port} must be allowed into the receivers, and out of the senders where those have "
        "a policy for egress (kubectl get networkpolicy)",
        "no fanout receiver? Other UDP programs answer no probe, nor does a receiver with keys: "
        "look there whether messages come",
    ]
    return Check("reach", CheckStatus.PROBLEM, sentence, tuple(hints), _pods(silent))


def _pods(pods: Iterable[PodFacts]) -> dict[str, object]:
    return {"pods": [{**each._asdict(), "endpoint": str(each.endpoint)} for each in pods]}


def carried(paths: Iterable[PathFacts]) -> list[Check]:
    """Judge how large a datagram the paths to the pods carry, one check for all paths that are alike."""
    alike: dict[tuple[str, int, int, bool | None], list[PathFacts]] = {}
    for each in paths:
        alike.setdefault((each.interface, each.mtu, each.payload, each.passed), []).append(each)
    checks = []
    for (interface, mtu, payload, passed), same in alike.items():
        by = f"by {interface} " if interface else ""
        path = f"the path {by}to {_examples(str(each.endpoint) for each in same)}"
        details = {
            "interface": interface, "mtu": mtu, "payload": payload, "passed": passed,
            "endpoints": [str(each.endpoint) for each in same],
        }  # fmt: skip
        if passed is False:
            sentence = (
                f"{path} should carry payloads of {payload:,} bytes (MTU {mtu:,}): "
                "probes of that size got no answer, but small ones did"
            )
            hints = (
                "something on the path carries less and does not say so (ICMP dropped): "
                "is the MTU of the pod network above what the network below it carries?",
                f"until then send at most {_SAFE_PAYLOAD:,} bytes at once (--max-datagram {_SAFE_PAYLOAD})",
            )
            checks.append(Check("mtu", CheckStatus.PROBLEM, sentence, hints, details))
        else:
            tried = "a probe of that size came back" if passed else "not tried, as no probe is answered there"
            sentence = f"{path} has an MTU of {mtu:,}: payloads up to {payload:,} bytes stay in one piece; {tried}"
            checks.append(Check("mtu", CheckStatus.OK, sentence, details=details))
    return checks


def _examples(texts: Iterable[str], separator: str = ", ") -> str:
    every = list(texts)
    more = f"{separator}and {len(every) - _EXAMPLES} more" if len(every) > _EXAMPLES else ""
    return separator.join(every[:_EXAMPLES]) + more


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
