"""Resolves the pods of a headless Service; the only module that queries DNS.

Rules from the Kubernetes DNS specification (kubernetes/dns, docs/specification.md): an A or AAAA record per ready
pod under the Service's name, an SRV record per ready pod under `_port._udp.` and the Service's name, NXDOMAIN where
no pod is ready. EDNS 1232 is the size that passes every path (DNS flag day 2020) and OpenShift's cap; a larger
answer is truncated and queried again over TCP (RFC 7766), which dnspython does by itself.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver

from fanout.discovery.core.answer import MAX_ENDPOINTS, DnsAnswer, Lookup, accept
from fanout.errors import InvalidService, ResolverUnavailable
from fanout.model import Endpoint, Family, Service, parse_port

LIFETIME = 2.0
_MAX_LOOKUPS_KEPT = 64
_TRUNCATED = "truncated"
_RECORD_TYPES = {Family.ANY: ("A", "AAAA"), Family.IPV4: ("A",), Family.IPV6: ("AAAA",)}


class DnsResolver:
    """Resolves one Service. `resolve` blocks for at most `lifetime` seconds per query, twice that in total.

    `nameserver`, an IP address as `HOST[:PORT]`, replaces those of resolv.conf; likewise `search` and `ndots`.
    Loopback addresses in answers are refused unless `allow_loopback`. Raises `InvalidService`.
    """

    def __init__(
        self,
        service: Service,
        *,
        nameserver: str | None = None,
        search: Sequence[str] | None = None,
        ndots: int | None = None,
        lifetime: float = LIFETIME,
        allow_loopback: bool = False,
        max_endpoints: int = MAX_ENDPOINTS,
    ) -> None:
        port = service.port
        self._prefix = None if isinstance(port, int) else dns.name.from_text(f"_{port}._udp", origin=None)
        self._name = _parse_name(service.name, None, self._prefix or dns.name.empty)
        if self._name in (dns.name.root, dns.name.empty):
            raise InvalidService(f"Service name must be a DNS name other than the root; got {service.name!r}")
        self._service = service
        self._lifetime = lifetime
        self._allow_loopback = allow_loopback
        self._max_endpoints = max_endpoints
        self._servers = None if nameserver is None else [parse_nameserver(nameserver)]
        self._search = None if search is None else [_parse_name(suffix, dns.name.root) for suffix in search]
        self._ndots = ndots

    def resolve(self) -> DnsAnswer:
        """Query the Service's pods now; raise `ResolverUnavailable` without a usable answer."""
        resolution = _Resolution(*self._configured(), self._lifetime)
        if self._prefix is None:
            port = int(self._service.port)
            candidates = [(address, port) for address in self._addresses(resolution, self._name)]
        else:
            candidates = self._by_srv(resolution, self._prefix)
        endpoints, refused = accept(candidates, allow_loopback=self._allow_loopback, limit=self._max_endpoints)
        return DnsAnswer(endpoints, resolution.dns_ttl, resolution.answered_name, refused, tuple(resolution.lookups))

    def _by_srv(self, resolution: _Resolution, prefix: dns.name.Name) -> list[tuple[str, int]]:
        records = resolution.query(prefix.concatenate(self._name), "SRV")
        if not records:
            return []
        # A Service's port has one number on all pods unless a named targetPort differs: one A query is enough.
        ports = {record.port for record in records}
        if len(ports) == 1:
            owner = dns.name.Name(resolution.owner.labels[len(prefix.labels) :])
            return [(address, records[0].port) for address in self._addresses(resolution, owner)]
        return [
            (address, record.port)
            for record in records
            for address in resolution.additional(record.target, self._service.family)
            or self._addresses(resolution, record.target)
        ]

    def _addresses(self, resolution: _Resolution, name: dns.name.Name) -> list[str]:
        for record_type in _RECORD_TYPES[self._service.family]:
            records = resolution.query(name, record_type)
            if records or resolution.no_such_name:
                return [record.address for record in records]
        return []

    def _configured(self) -> tuple[dns.resolver.Resolver, list[tuple[str, int]]]:
        """Read resolv.conf anew, so that changes are followed, and apply the options that override it."""
        resolver = dns.resolver.Resolver(configure=False)
        trouble = "names no nameserver"
        if self._servers is None or self._search is None:
            try:
                resolver.read_resolv_conf("/etc/resolv.conf")
            except dns.resolver.NoResolverConfiguration:
                pass
            except (dns.exception.DNSException, ValueError) as error:
                trouble = f"cannot be used ({_one_line(error)})"
        servers = self._servers or [(str(server), resolver.port) for server in resolver.nameservers]
        if not servers:
            raise ResolverUnavailable(f"resolv.conf {trouble}: give a nameserver with --nameserver (nameserver=)")
        if self._search is not None:
            resolver.search = list(self._search)
            # Without a search list dnspython uses the domain of the host's name.
            resolver.domain = dns.name.root
        if self._ndots is not None:
            resolver.ndots = self._ndots
        if self._prefix is not None:
            # The labels of a port must not change how the Service's name is expanded.
            resolver.ndots = (1 if resolver.ndots is None else resolver.ndots) + len(self._prefix.labels)
        resolver.use_edns(0, 0, 1232)
        resolver.timeout = self._lifetime / 2
        return resolver, servers


class _Resolution:
    """The queries of one `resolve`, and what their answers brought along."""

    def __init__(self, resolver: dns.resolver.Resolver, servers: Sequence[tuple[str, int]], lifetime: float) -> None:
        self.lookups: list[Lookup] = []
        self.dns_ttl: float | None = None
        self.owner = dns.name.root
        self.no_such_name = False
        self._lifetime = lifetime
        self._deadline = time.monotonic() + 2 * lifetime
        self._additional: dict[tuple[dns.name.Name, str], list[str]] = {}
        self._resolver = resolver
        resolver.nameservers = [_ObservedNameserver(host, port, self.lookups) for host, port in servers]

    @property
    def answered_name(self) -> str:
        """The name, after the search list, of the last answer with records."""
        return "" if self.owner == dns.name.root else self.owner.to_text()

    def query(self, name: dns.name.Name, record: str) -> list[Any]:
        """Return the records; empty where there is no such name (`no_such_name`) or none of this type."""
        self.no_such_name = False
        first = len(self.lookups)
        lifetime = max(0.01, min(self._lifetime, self._deadline - time.monotonic()))
        try:
            answer = self._resolver.resolve(name, record, search=True, raise_on_no_answer=False, lifetime=lifetime)
        except dns.resolver.NXDOMAIN:
            self.no_such_name = True
            return []
        except (dns.exception.DNSException, OSError) as error:
            lookups = self.lookups[first:]
            asked = list(dict.fromkeys(lookup.name for lookup in lookups))
            if _is_short(name) and asked[1:] and asked[-1] == f"{name}.":
                # No domain of the search list has it. A missing answer for the bare name, which in a cluster only
                # an outside server could give, says nothing about the Service.
                self.no_such_name = True
                return []
            raise ResolverUnavailable(self._failure(name, record, error, lookups)) from error
        if answer.rrset is None:
            return []
        self.owner = answer.qname
        self.dns_ttl = answer.rrset.ttl if self.dns_ttl is None else min(self.dns_ttl, answer.rrset.ttl)
        for extra in answer.response.additional:
            if extra.rdclass == dns.rdataclass.IN and extra.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                known = self._additional.setdefault((extra.name, dns.rdatatype.to_text(extra.rdtype)), [])
                known.extend(record.address for record in extra)
        return list(answer.rrset)

    def additional(self, name: dns.name.Name, family: Family) -> list[str]:
        """Return the addresses of `name` from the additional section of an earlier answer (RFC 2782, page 5)."""
        found = (self._additional.get((name, record_type), []) for record_type in _RECORD_TYPES[family])
        return next(filter(None, found), [])

    def _failure(self, name: dns.name.Name, record: str, error: Exception, lookups: Sequence[Lookup]) -> str:
        servers = ", ".join(dict.fromkeys(lookup.nameserver for lookup in lookups)) or "any nameserver"
        over_tcp = [lookup.result for lookup in lookups if (lookup.name, lookup.over) == (lookups[-1].name, "TCP")]
        if over_tcp and (over_tcp[-1] == _TRUNCATED or over_tcp[-1] in dns.rcode.Rcode.__members__):
            hint = (
                f"the answer is too large for UDP, and over TCP the nameserver said {over_tcp[-1]}: "
                "DNS carries at most about 4,090 A or 2,330 AAAA records of one name"
            )
        elif over_tcp:
            hint = (
                f"the answer is too large for UDP, and TCP did not work ({over_tcp[-1]}): "
                "allow DNS over TCP, in the NetworkPolicy too"
            )
        elif isinstance(error, dns.exception.Timeout):
            hint = (
                f"no answer within {self._lifetime:g} s: is the nameserver right, "
                "and does a NetworkPolicy allow DNS (UDP and TCP, ports 53 and 5353)?"
            )
        else:
            hint = "; ".join(dict.fromkeys(lookup.result for lookup in lookups)) or _one_line(error)
        return f"cannot resolve {name} {record} at {servers}: {hint}"


class _UntilDeadline(socket.socket):
    """Receives nothing after `deadline`: dnspython checks the time only where there is nothing to read."""

    deadline = 0.0

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        if time.monotonic() > self.deadline:
            raise dns.exception.Timeout
        return super().recvfrom(bufsize, flags)


class _ObservedNameserver(dns.nameserver.Do53Nameserver):
    """A nameserver that records its queries and their results."""

    def __init__(self, address: str, port: int, lookups: list[Lookup]) -> None:
        super().__init__(address, port)
        self._lookups = lookups

    def query(self, request: dns.message.QueryMessage, timeout: float, source: Any, source_port: int,
              max_size: bool, *args: Any, **kwargs: Any) -> dns.message.Message:  # fmt: skip
        try:
            if max_size:
                response = super().query(request, timeout, source, source_port, max_size, *args, **kwargs)
            else:
                response = self._over_udp(request, timeout)
            if response.flags & dns.flags.TC:
                # Over TCP dnspython would take a part of the set for all of it.
                raise dns.message.Truncated(message=response)  # type: ignore[no-untyped-call]
        except dns.message.Truncated:
            self._record(request, max_size, _TRUNCATED)
            raise
        except dns.exception.Timeout:
            self._record(request, max_size, f"no answer in {timeout:.1f} s")
            raise
        except Exception as error:
            self._record(request, max_size, _one_line(error))
            raise
        self._record(request, max_size, _result(request, response))
        return response

    def _over_udp(self, request: dns.message.QueryMessage, timeout: float) -> dns.message.Message:
        with _UntilDeadline(socket.AF_INET6 if ":" in self.address else socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.setblocking(False)
            opened.deadline = time.monotonic() + timeout
            return dns.query.udp(request, self.address, timeout, self.port, ignore_unexpected=True, ignore_errors=True,
                                 raise_on_truncation=True, sock=opened)  # fmt: skip

    def _record(self, request: dns.message.QueryMessage, over_tcp: bool, result: str) -> None:
        if len(self._lookups) < _MAX_LOOKUPS_KEPT:
            question = request.question[0]
            server = str(Endpoint(self.address, self.port))
            record = dns.rdatatype.to_text(question.rdtype)
            self._lookups.append(Lookup(str(question.name), record, server, "TCP" if over_tcp else "UDP", result))


def _result(request: dns.message.QueryMessage, response: dns.message.Message) -> str:
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return dns.rcode.to_text(response.rcode())
    try:
        cast(dns.message.QueryMessage, response).resolve_chaining()
    except dns.exception.DNSException as error:
        return _one_line(error)
    if response.rcode() == dns.rcode.NXDOMAIN:
        return "NXDOMAIN"
    records = sum(len(rrset) for rrset in response.answer if rrset.rdtype == request.question[0].rdtype)
    if not records:
        return "NODATA"
    return "1 record" if records == 1 else f"{records} records"


def _is_short(name: dns.name.Name) -> bool:
    """Whether `name` is one label, apart from those of a named port: it always needs the search list."""
    return not name.is_absolute() and sum(not label.startswith(b"_") for label in name.labels) == 1


def _one_line(error: Exception) -> str:
    """Return an error's text on one line: some of dnspython's have several lines."""
    return " ".join(str(error).split()) or type(error).__name__


def _parse_name(text: str, origin: dns.name.Name | None, prefix: dns.name.Name = dns.name.empty) -> dns.name.Name:
    """Return `text` as a name short enough for `prefix`; raise `InvalidService`."""
    try:
        name = dns.name.from_text(text, origin)
        prefix.concatenate(name)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise InvalidService(f"Service name must be a DNS name; got {text!r}: {_one_line(error)}") from None
    return name


def parse_nameserver(text: str) -> tuple[str, int]:
    """Parse `HOST[:PORT]`, an IP address and a port (default 53); raise `InvalidService`."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if not text.endswith("]"):
            port = rest[1:] if rest.startswith(":") else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ipaddress.ip_address(host)), parse_port(port)
    except ValueError:
        raise InvalidService(
            "nameserver must be an IP address with an optional port, such as 10.96.0.10 or [fd00::a]:5353; "
            f"got {text!r}"
        ) from None
