"""Judges what an ingress received, and why it received nothing: facts in, sentences out. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from fanout.doctor.core.facts import Check, CheckStatus, IngressFacts, Match, Seen
from fanout.relay.core.ingress import IngressKind

_STRICT, _LOOSE = 1, 2


def listened(facts: IngressFacts) -> Check:
    """Judge one ingress."""
    ingress, heard, seen = facts.ingress, facts.heard, facts.seen or {}
    if facts.refused:
        return _not_open(facts)
    if heard is not None:
        said = f"{heard.size:,} bytes from {heard.source} on port {heard.port} after {heard.seconds:.1f} s"
        return _check(facts, f"{said}; {facts.described}", status=CheckStatus.OK)
    if not facts.interface.is_up:
        why = f"nothing came within {facts.seconds:.0f} s: {ingress.interface} is down or has no carrier"
        hint = f"ip link set {ingress.interface} up; is its cable, or the parent of a macvlan, up?"
        return _check(facts, why, hint)
    if facts.joined is False:
        why = f"the kernel does not list {ingress.host} among the groups on {ingress.interface}"
        return _check(facts, why, "start again: the interface may have gone away meanwhile")
    if Match.FITS in seen:
        return _dropped_here(facts, seen[Match.FITS])
    for how in (Match.OTHER_SOURCE, Match.OTHER_PORT, Match.OTHER_INTERFACE):
        if how in seen:
            return _beside(facts, how, seen[how])
    why = f"nothing came for it within {facts.seconds:.0f} s{_on_the_wire(facts)}; {facts.described}"
    return _check(facts, why, *_causes(facts))


def _not_open(facts: IngressFacts) -> Check:
    """Judge an ingress that could not be opened."""
    why = facts.refused.removeprefix(f"ingress {facts.ingress}: ")
    fits = (facts.seen or {}).get(Match.FITS)
    if not facts.in_use:
        return _check(facts, why)
    if fits is None:
        return _check(facts, why, "if it is the relay itself, its table, log or metrics show what came")
    said = f"{_datagram(fits)} came in by {fits.interface}, for the program that has the port"
    return _check(facts, said, status=CheckStatus.OK)


def _dropped_here(facts: IngressFacts, seen: Seen) -> Check:
    """Return why a datagram that came in by the right interface did not reach the socket."""
    interface, source, way = seen.interface, seen.source.host, facts.way_back
    came = f"{_datagram(seen)} came in by {interface}, and this host dropped it before any program could get it"
    is_strict = facts.interface.reverse_filter == _STRICT
    if source in facts.interface.own_addresses:
        why = f"{source} is an address of this host, and the kernel accepts no such source from a network"
        return _check(facts, f"{came}: {why}", "send from another host, or from another network namespace")
    if facts.interface.reverse_filter and (way is None or (is_strict and way != interface)):
        leads = f"no route leads back to {source}" if way is None else f"the route back to {source} is by {way}"
        mode = f"rp_filter={facts.interface.reverse_filter} ({'strict' if is_strict else 'loose'})"
        counted = facts.grown.get("IPReversePathFilter", 0)
        why = f"{leads}, and {mode} drops such packets" + (f" ({counted:,} meanwhile)" if counted else "")
        other = f"or let any route do: sysctl -w net.ipv4.conf.{interface}.rp_filter={_LOOSE}"
        if way is None:
            other = "or switch it off: rp_filter=0 in net.ipv4.conf.all and in the interface's; the larger one counts"
        return _check(facts, f"{came}: {why}", f"add a route back: ip route add {source} dev {interface}", other)
    if facts.grown.get("InCsumErrors"):
        why = "checksums of UDP datagrams were wrong meanwhile (InCsumErrors)"
        return _check(facts, f"{came}: {why}", f"is it a driver's offload? ethtool -K {interface} rx off")
    hint = "look for a firewall's rule on this host: nft list ruleset, iptables -nvL"
    return _check(facts, f"{came}; rp_filter does not explain it", hint)


def _beside(facts: IngressFacts, how: Match, seen: Seen) -> Check:
    """Judge an ingress for which nothing came, though something similar did."""
    came = f"nothing came for it within {facts.seconds:.0f} s, but {_datagram(seen)} to {seen.destination}"
    match how:
        case Match.OTHER_SOURCE:
            why, meant = f": the source is not {facts.ingress.source}", f"source {seen.source.host}"
        case Match.OTHER_PORT:
            why, meant = ": the port is another one", f"port {seen.destination.port}"
        case _:
            why, meant = f" came in by {seen.interface}", f"interface @{seen.interface}"
    return _check(facts, came + why, f"was {meant} meant?")


def _on_the_wire(facts: IngressFacts) -> str:
    """Return what the wire and the interface's counters showed meanwhile."""
    if facts.seen is not None:
        said = f", nor did {facts.where} get anything of the kind"
        if facts.missed:
            said += f" ({facts.missed:,} packets came too fast to look at)"
    else:
        said = " (without CAP_NET_RAW only counters tell what the interface got)"
    name = facts.ingress.interface
    if name:
        received, multicast = facts.grown.get("received", 0), facts.grown.get("received_multicast", 0)
        of_them = f", {multicast:,} of them multicast" if multicast else ""
        said += f"; meanwhile {name} got {received:,} {'packet' if received == 1 else 'packets'} of any kind{of_them}"
    return said


def _causes(facts: IngressFacts) -> Iterator[str]:
    """Yield likely causes, those found by a check first."""
    ingress, grown = facts.ingress, facts.grown
    if ingress.interface and not facts.interface.addresses:
        yield f"{ingress.interface} has no IPv{6 if ingress.is_ipv6 else 4} address: give it one of that network"
    if facts.seen is None:
        if filtered := grown.get("IPReversePathFilter", 0):
            loose = f", or set net.ipv4.conf.{ingress.interface or 'all'}.rp_filter={_LOOSE}"
            yield (
                f"rp_filter dropped {filtered:,} packets meanwhile: is the route back to the source by {facts.where}? "
                f"If not, add one{loose if facts.interface.reverse_filter == _STRICT else ''}"
            )
        if ignored := grown.get("IgnoredMulti", 0):
            yield f"{ignored:,} multicast datagrams found no program meanwhile: are group and port those of the source?"
    if grown.get("RcvbufErrors"):
        yield f"full receive buffers cost {grown['RcvbufErrors']:,} datagrams meanwhile, of any program"
    version = facts.interface.igmp_version
    if ingress.source and version in ("V1", "V2"):
        forced = facts.interface.forced_version
        change = "set force_igmp_version=0" if forced else "the querier of that network should speak IGMPv3"
        yield f"{ingress.interface} uses IGMP{version.lower()}, which cannot select a source: {change}"
    elif facts.interface.forced_version:
        name = "force_mld_version" if ingress.is_ipv6 else "force_igmp_version"
        yield f"{name} is {facts.interface.forced_version}: does the switch's querier speak that version?"
    if ingress.kind is IngressKind.MULTICAST:
        yield (
            "does the source send, out of the right interface, and with a TTL above the number of routers "
            "between? The default is 1 (iperf: --ttl)"
        )
        yield (
            "a switch with IGMP or MLD snooping and no querier forwards a group for some minutes at most: "
            "is there a querier in that network?"
        )
    elif ingress.kind is IngressKind.BROADCAST:
        yield "check that the source sends, from the same network: routers do not forward broadcasts"
    else:
        yield "does the source send, to an address of this host, and does a firewall or NetworkPolicy let it pass?"
    if ingress.interface:
        yield f"is {ingress.interface} attached to the source's network? Of a macvlan, its parent"
    if facts.interface.reverse_filter == _STRICT and facts.interface.default_interface not in ("", ingress.interface):
        yield (
            f"rp_filter is strict on {facts.where}, and the default route is by {facts.interface.default_interface}: "
            f"sources outside the networks of {facts.where} will need a route back"
        )


def _datagram(seen: Seen) -> str:
    return f"a datagram from {seen.source} ({seen.size:,} bytes, TTL {seen.hops})"


def _check(facts: IngressFacts, sentence: str, *hints: str, status: CheckStatus = CheckStatus.PROBLEM) -> Check:
    heard = facts.heard and {
        **facts.heard._asdict(),
        "source": str(facts.heard.source),
        "seconds": round(facts.heard.seconds, 3),
    }
    on_the_wire = None if facts.seen is None else {how.value: _as_dict(seen) for how, seen in facts.seen.items()}
    details = {
        "ingress": str(facts.ingress),
        "seconds": round(facts.seconds, 3),
        "addresses": list(facts.interface.addresses),
        "joined": facts.joined,
        "rp_filter": facts.interface.reverse_filter,
        "default_interface": facts.interface.default_interface,
        "way_back": facts.way_back,
        "heard": heard,
        "on_the_wire": on_the_wire,
        "counters": dict(facts.grown),
    }
    return Check("ingress", status, f"{facts.ingress}: {sentence}", hints, details)


def _as_dict(seen: Seen) -> dict[str, object]:
    shown = {**seen._asdict(), "source": str(seen.source), "destination": str(seen.destination)}
    del shown["broadcast"]
    return shown
