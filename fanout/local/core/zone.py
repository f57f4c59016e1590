"""What the embedded nameserver answers: one headless Service, as the kubernetes plugin of CoreDNS serves it.

`respond` takes a query as it came off the wire, and never raises.

Three kinds of names are in the zone, for the Service `headless-udp` in the namespace `local`::

    headless-udp.local.svc.cluster.local                            every ready pod
    statefulset-udp-server-0.headless-udp.local.svc.cluster.local   that pod, while it is ready
    _udp._udp.headless-udp.local.svc.cluster.local                  the pods that have the named port

Each answers A and SRV. Without a ready pod the name does not exist (NXDOMAIN); other types, and the parents
of these names, are empty (NODATA). A name outside `cluster.local` does not exist either: in a cluster, that is
what the root servers say of the bare `headless-udp` that a resolver asks for after the search list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from fanout.model import DEFAULT_PORT

CLUSTER_DOMAIN = "cluster.local"
DNS_TTL = 5
"""Seconds: the default of CoreDNS, and what OpenShift has."""
MAX_UDP_SIZE = 1232
"""Bytes of the largest answer over UDP (`bufsize 1232` in OpenShift's Corefile)."""
MAX_TCP_SIZE = 65_535
_MIN_UDP_SIZE = 512
_PORT_NAME = "udp"
_HEADER_SIZE = 12

_APEX = dns.name.from_text(CLUSTER_DOMAIN)


class Pod(NamedTuple):
    """A ready pod: its name, and its IPv4 address."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Zone:
    """One headless Service with a named port, and its ready pods."""

    service: str = "headless-udp"
    namespace: str = "local"
    port: int = DEFAULT_PORT
    pods: tuple[Pod, ...] = ()
    serial: int = 1
    """Of the SOA record: grows with each change of the pods."""

    @property
    def search(self) -> tuple[str, ...]:
        """The search list of a pod in this namespace."""
        return (f"{self.namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN)

    @property
    def name(self) -> str:
        """The Service's full name, without a trailing dot."""
        return f"{self.service}.{self.namespace}.svc.{CLUSTER_DOMAIN}"

    def with_pods(self, pods: Sequence[Pod]) -> Zone:
        """Return the zone with these ready pods, and the next serial."""
        return replace(self, pods=tuple(pods), serial=self.serial + 1)

    def select(self, labels: tuple[str, ...]) -> tuple[Pod, ...] | None:
        """Return the pods that a name stands for, or None where it is a parent of other names.

        `labels` are those before `cluster.local`, in lower case; for a name that does not exist the tuple is empty.
        """
        match labels:
            case () | ("svc",) | ("pod",):
                return None
            case (namespace, "svc") if namespace == self.namespace:
                return None
            case (*rest, service, namespace, "svc") if (service, namespace) == (self.service, self.namespace):
                match rest:
                    case []:
                        return self.pods
                    case [pod_name]:
                        return tuple(pod for pod in self.pods if pod.name == pod_name)
                    case [port, protocol] if port.removeprefix("_") == _PORT_NAME:
                        return self.pods if protocol.removeprefix("_") == "udp" else ()
        return ()


def respond(query_wire: bytes, zone: Zone, *, over_tcp: bool = False) -> bytes | None:
    """Return the answer to one query, both as on the wire, or None where there is none.

    What is not a query gets silence (two servers could otherwise answer each other for ever), what cannot be
    parsed FORMERR. An answer over UDP holds as many records as fit into what the client takes (512 bytes
    without EDNS, at most 1232 with it) and has TC set if some of the answer section were left out; so has one
    over TCP past 65,535 bytes.
    """
    if len(query_wire) < _HEADER_SIZE or query_wire[2] & 0x80:
        return None
    if (query_wire[2] >> 3) & 0xF != dns.opcode.QUERY:
        return _bare_response(query_wire, dns.rcode.NOTIMP)
    try:
        query = dns.message.from_wire(query_wire)
    except dns.exception.DNSException:
        return _bare_response(query_wire, dns.rcode.FORMERR)
    if len(query.question) != 1:
        return _bare_response(query_wire, dns.rcode.FORMERR)

    response = dns.message.make_response(query, our_payload=MAX_UDP_SIZE, pad=0)
    if query.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)
    else:
        _fill(response, zone)
    if over_tcp:
        limit = MAX_TCP_SIZE
    else:
        limit = min(max(query.payload, _MIN_UDP_SIZE), MAX_UDP_SIZE) if query.edns >= 0 else _MIN_UDP_SIZE
    return response.to_wire(max_size=limit, prefer_truncation=True)


def _fill(response: dns.message.Message, zone: Zone) -> None:
    question = response.question[0]
    if question.rdclass != dns.rdataclass.IN:
        response.set_rcode(dns.rcode.REFUSED)
        return
    if not question.name.is_subdomain(_APEX):
        response.set_rcode(dns.rcode.NXDOMAIN)
        return
    response.flags |= dns.flags.AA
    relative = question.name.relativize(_APEX)
    pods = zone.select(tuple(label.decode("latin-1").lower() for label in relative.labels))
    if question.name == _APEX and question.rdtype == dns.rdatatype.SOA:
        _add(response.answer, _APEX, "SOA", _soa(zone))
    elif pods and question.rdtype == dns.rdatatype.A:
        for pod in pods:
            _add(response.answer, question.name, "A", pod.address)
    elif pods and question.rdtype == dns.rdatatype.SRV:
        weight = max(1, 100 // len(pods))
        for pod in pods:
            target = dns.name.from_text(f"{pod.name}.{zone.name}")
            _add(response.answer, question.name, "SRV", f"0 {weight} {zone.port} {target}")
            _add(response.additional, target, "A", pod.address)
    else:
        if pods is not None and not pods:
            response.set_rcode(dns.rcode.NXDOMAIN)
        _add(response.authority, _APEX, "SOA", _soa(zone))


def _add(section: list[dns.rrset.RRset], name: dns.name.Name, record_type: str, data: str) -> None:
    # One RRset a record: dnspython leaves out whole RRsets where an answer is too large, CoreDNS single records.
    section.append(dns.rrset.from_text(name, DNS_TTL, "IN", record_type, data))


def _soa(zone: Zone) -> str:
    # Refresh, retry and expire are those of CoreDNS; the last is how long NXDOMAIN may be kept.
    return f"ns.dns.{_APEX} hostmaster.{_APEX} {zone.serial} 7200 1800 86400 {DNS_TTL}"


def _bare_response(query_wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return a header alone: the query's id, opcode and RD bit, and the rcode."""
    return query_wire[:2] + bytes([0x80 | (query_wire[2] & 0x79), rcode]) + bytes(8)
