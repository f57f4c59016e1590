"""What `fanout doctor` makes of facts, cause by cause: no kernel, no network."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from fanout.discovery.core.answer import DnsAnswer, Lookup, Refusal
from fanout.doctor import kernel
from fanout.doctor.capture import parse_packet
from fanout.doctor.core import checks, diagnose_ingress
from fanout.doctor.core.facts import (
    Check,
    CheckStatus,
    Heard,
    HostFacts,
    IngressFacts,
    Match,
    PodFacts,
    Seen,
    WayFacts,
    match,
)
from fanout.model import Endpoint, Service
from fanout.relay.core.ingress import Ingress

NAMESERVER = "10.96.0.10:53"
FULL_NAME = "headless-udp.shop.svc.cluster.local."
POD, OTHER_POD = Endpoint("10.0.0.7", 12000), Endpoint("10.0.0.8", 12000)
SERVICE = Service("headless-udp")


def only(found: list[Check]) -> Check:
    (check,) = found
    return check


def assert_said(check: Check, status: CheckStatus, *parts: str) -> None:
    """Assert the status, and that sentence and hints say these things."""
    said = "\n".join([check.sentence, *check.hints])
    assert check.status is status, said
    for part in parts:
        assert part in said


HOST = HostFacts(asked=4_194_304, granted=4_194_304, sysctl=4_194_304, room={200: 6553}, has_gso=True)


def test_a_host_that_is_well() -> None:
    found = checks.host(HOST)
    assert [check.check for check in found] == ["receive buffer", "gso"]
    assert {check.status for check in found} == {CheckStatus.OK}
    assert "room for about 6,553 datagrams of 200 bytes" in found[0].sentence
    assert not any(check.hints for check in found)


def test_a_small_buffer_is_a_warning_that_names_what_to_change() -> None:
    buffers, _ = checks.host(replace(HOST, granted=212_992, sysctl=212_992))
    assert_said(buffers, CheckStatus.WARNING, "212,992 of the 4,194,304", "net.core.rmem_max=4194304")


def test_a_kernel_without_gso_is_no_ill() -> None:
    _, gso = checks.host(replace(HOST, has_gso=False))
    assert_said(gso, CheckStatus.OK, "UDP_SEGMENT takes Linux 4.18", "several times the CPU")
    assert (gso.hints, gso.details) == ((), {"supported": False})


def test_drops_are_a_warning_only_where_they_go_on() -> None:
    never = only(checks.dropped(0, 0))
    assert_said(never, CheckStatus.OK, "no datagram was dropped for want of receive buffer meanwhile")
    before = only(checks.dropped(17, 17))
    assert_said(before, CheckStatus.OK, "meanwhile (17 since this network namespace was made)")
    assert before.details == {"RcvbufErrors": 17, "meanwhile": 0}
    goes_on = only(checks.dropped(17, 1_018))
    assert_said(
        goes_on, CheckStatus.WARNING, "cost 1,001 datagrams while this was checked (1,018 since", "kernel_drops"
    )
    assert goes_on.details == {"RcvbufErrors": 1018, "meanwhile": 1001}
    assert checks.dropped(None, 1) == checks.dropped(1, None) == []


def lookup(name: str, result: str, record: str = "A") -> Lookup:
    return Lookup(name, record, NAMESERVER, "UDP", result)


def test_a_name_that_resolves_says_how() -> None:
    answer = DnsAnswer((POD, OTHER_POD), 5.0, FULL_NAME, (), (lookup(FULL_NAME, "2 records"),))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(check, CheckStatus.OK, FULL_NAME, "is 2 pods", NAMESERVER, "2 records of type A", "DNS TTL 5 s")
    assert not check.hints
    assert check.details["endpoints"] == ["10.0.0.7:12000", "10.0.0.8:12000"]


def test_one_address_may_be_a_service_that_is_not_headless() -> None:
    answer = DnsAnswer((POD,), 5.0, FULL_NAME, (), (lookup(FULL_NAME, "1 record"),))
    assert_said(only(checks.resolved(SERVICE, answer)), CheckStatus.OK, "is 1 pod", "clusterIP: None")


def test_a_literal_list_needs_no_dns() -> None:
    service = Service("10.0.0.7,10.0.0.8")
    assert_said(only(checks.resolved(service, DnsAnswer((POD, OTHER_POD)))), CheckStatus.OK, "2 endpoints", "no DNS")


def test_addresses_that_are_refused_beside_others_are_a_warning() -> None:
    answer = DnsAnswer((POD,), 5.0, FULL_NAME, (Refusal("127.0.0.1", "loopback"),), (lookup(FULL_NAME, "2 records"),))
    resolved, refused = checks.resolved(SERVICE, answer)
    assert resolved.status is CheckStatus.OK
    assert_said(refused, CheckStatus.WARNING, "1 address", "127.0.0.1 (loopback)")


def test_only_refused_addresses_are_a_problem() -> None:
    answer = DnsAnswer((), 5.0, FULL_NAME, (Refusal("127.0.0.1", "loopback"),), (lookup(FULL_NAME, "1 record"),))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(check, CheckStatus.PROBLEM, "127.0.0.1 (loopback)", "--allow-loopback")
    linked = replace(answer, refused=(Refusal("169.254.0.1", "link-local"),))
    assert not any("--allow-loopback" in hint for hint in only(checks.resolved(SERVICE, linked)).hints)


def test_no_such_name_in_a_cluster_is_no_service_or_no_ready_pod() -> None:
    answer = DnsAnswer((), lookups=(lookup(FULL_NAME, "NXDOMAIN"), lookup("headless-udp.", "NXDOMAIN")))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(
        check, CheckStatus.PROBLEM, "no such Service, or none of its pods is ready", FULL_NAME, "endpointslices"
    )
    assert not any("ClusterFirstWithHostNet" in hint for hint in check.hints)


def test_no_such_name_outside_of_a_cluster() -> None:
    answer = DnsAnswer((), lookups=(lookup("headless-udp.example.", "NXDOMAIN"),))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(check, CheckStatus.PROBLEM, "outside", "--nameserver", "ClusterFirstWithHostNet")
    assert_said(
        only(checks.resolved(Service("headless-udp", "rtp"), answer)), CheckStatus.PROBLEM, "is rtp the name of"
    )


def test_a_name_without_records_of_the_type() -> None:
    answer = DnsAnswer((), lookups=(lookup(FULL_NAME, "NODATA"), lookup(FULL_NAME, "NODATA", "AAAA")))
    assert_said(only(checks.resolved(SERVICE, answer)), CheckStatus.PROBLEM, "no record of type A or AAAA", "--family")


def test_no_answer_at_all() -> None:
    check = checks.unresolved(SERVICE, "cannot resolve headless-udp A at 10.96.0.10:53: no answer within 2 s")
    assert_said(check, CheckStatus.PROBLEM, "no answer within 2 s")


def test_pods_that_answer() -> None:
    check = only(checks.reached([PodFacts(POD, 1, 0.0004), PodFacts(OTHER_POD, 2, 0.0012)]))
    assert_said(check, CheckStatus.OK, "2 of 2 pods answer a probe within 1.2 ms")
    assert_said(only(checks.reached([PodFacts(POD, 1, 0.0004)])), CheckStatus.OK, "the pod answers")
    assert checks.reached([]) == []


def test_a_pod_that_refuses_has_nothing_on_the_port() -> None:
    answers, refuses = checks.reached([PodFacts(POD, 1, 0.001), PodFacts(OTHER_POD, 1, None, errno.ECONNREFUSED)])
    assert_said(answers, CheckStatus.OK, "1 of 2 pods")
    assert_said(
        refuses, CheckStatus.PROBLEM, "10.0.0.8:12000: nothing listens on that port there", "the Service's port"
    )
    unreachable = only(checks.reached([PodFacts(POD, 1, None, errno.EHOSTUNREACH)]))
    assert_said(unreachable, CheckStatus.PROBLEM, "the host is unreachable")
    assert not unreachable.hints


def test_a_silent_pod_is_said_as_far_as_it_is_known() -> None:
    alone = only(checks.reached([PodFacts(POD, 6)]))
    assert_said(
        alone, CheckStatus.PROBLEM, "6 probes left this host", "neither an answer nor an ICMP error",
        "whether they arrived is not known", "NetworkPolicy", "UDP 12000", "a receiver with keys",
    )  # fmt: skip
    assert len(alone.hints) == 2
    outside = only(checks.reached([PodFacts(POD, 6)], inside=False))
    assert_said(outside, CheckStatus.PROBLEM, "no pod of a cluster", "cannot be reached from outside")
    _, beside = checks.reached([PodFacts(POD, 1, 0.001), PodFacts(OTHER_POD, 6)])
    assert_said(beside, CheckStatus.PROBLEM, "10.0.0.8:12000", "other pods of the Service answer")


def test_many_pods_are_named_by_example() -> None:
    pods = [PodFacts(Endpoint(f"10.0.0.{number}", 12000), 6) for number in range(1, 9)]
    check = only(checks.reached(pods))
    assert "10.0.0.3:12000, and 5 more" in check.sentence
    assert len(check.details["pods"]) == 8


def test_ways_that_are_alike_are_one_check() -> None:
    ways = [
        WayFacts(POD, "eth0", 1450, 1422, True),
        WayFacts(OTHER_POD, "eth0", 1450, 1422, True),
        WayFacts(Endpoint("fd00::1", 12000), "eth0", 1450, 1402, None),
    ]
    first, second = checks.carried(ways)
    assert_said(
        first, CheckStatus.OK, "by eth0 to 10.0.0.7:12000, 10.0.0.8:12000", "MTU of 1,450", "1,422 bytes", "came back"
    )
    assert_said(second, CheckStatus.OK, "[fd00::1]:12000", "1,402 bytes", "not tried")


def test_a_way_that_swallows_large_datagrams() -> None:
    check = only(checks.carried([WayFacts(POD, "eth0", 1500, 1472, False)]))
    assert_said(
        check, CheckStatus.PROBLEM, "1,472 bytes", "small ones did", "MTU of the pod network", "--max-datagram 1200"
    )


GROUP = Ingress.parse("mcast://224.0.67.67:5001@eth1", service="pods")
FROM_ONE = Ingress.parse("mcast://10.0.0.12,224.0.67.67:5001@eth1", service="pods")
GROUP_6 = Ingress.parse("mcast://[ff15::67]:5001@eth1", service="pods")
BROADCAST = Ingress.parse("broadcast://:9999@eth1", service="pods")
PORTS = Ingress.parse("udp://0.0.0.0:5004-5007", service="pods")
SOURCE = Endpoint("10.0.0.12", 4000)
SEEN = Seen("eth1", SOURCE, Endpoint("224.0.67.67", 5001), 1328, 1)
QUIET = IngressFacts(
    GROUP, 10.0, ("lo", "eth0", "eth1"), addresses=("10.0.0.7",), own_addresses=("127.0.0.1", "10.0.0.7"),
    described="joined 224.0.67.67 on eth1 (10.0.0.7)", joined=True, igmp_version="V3", seen={},
)  # fmt: skip
DROPPED = replace(QUIET, seen={Match.FITS: SEEN}, way_back="eth1")


def test_an_ingress_that_hears() -> None:
    check = diagnose_ingress.listened(replace(QUIET, heard=Heard(SOURCE, 5001, 1328, 0.21)))
    assert_said(
        check, CheckStatus.OK, "mcast://224.0.67.67:5001@eth1", "1,328 bytes from 10.0.0.12:4000", "joined 224.0.67.67"
    )
    assert check.details["heard"] == {"source": "10.0.0.12:4000", "port": 5001, "size": 1328, "seconds": 0.21}


def test_an_ingress_that_cannot_be_listened_to() -> None:
    check = diagnose_ingress.listened(
        replace(QUIET, refused=f"ingress {GROUP}: there is no interface eth1 here", joined=None)
    )
    assert_said(check, CheckStatus.PROBLEM, "mcast://224.0.67.67:5001@eth1: there is no interface eth1 here")
    assert check.sentence.count("mcast://") == 1


def test_a_port_in_use_is_well_where_its_program_is_sent_datagrams() -> None:
    taken = replace(QUIET, ingress=PORTS, refused="cannot listen on UDP 0.0.0.0:5004: the port is in use", in_use=True)
    assert_said(diagnose_ingress.listened(taken), CheckStatus.PROBLEM, "the port is in use", "is it the relay itself?")
    seen = Seen("eth0", SOURCE, Endpoint("10.0.0.7", 5004), 1328, 64)
    assert_said(
        diagnose_ingress.listened(replace(taken, seen={Match.FITS: seen})),
        CheckStatus.OK,
        "10.0.0.12:4000",
        "has the port",
    )


@pytest.mark.parametrize(
    ("facts", "parts"),
    [
        (replace(QUIET, is_up=False), ["eth1 is down or has no carrier", "ip link set eth1 up"]),
        (replace(QUIET, joined=False), ["does not list 224.0.67.67"]),
        (
            replace(DROPPED, reverse_filter=1, way_back="eth0", grown={"IPReversePathFilter": 10}),
            [
                "came in by eth1, and this host dropped it",
                "the route back to 10.0.0.12 is by eth0, and rp_filter=1 (strict) drops such packets (10 meanwhile)",
                "ip route add 10.0.0.12 dev eth1",
                "net.ipv4.conf.eth1.rp_filter=2",
            ],
        ),
        (
            replace(DROPPED, reverse_filter=2, way_back=None),
            ["no route leads back to 10.0.0.12, and rp_filter=2 (loose)", "rp_filter=0"],
        ),
        (replace(DROPPED, own_addresses=("10.0.0.12",)), ["10.0.0.12 is an address of this host"]),
        (replace(DROPPED, grown={"InCsumErrors": 10}), ["checksums", "ethtool -K eth1"]),
        (replace(DROPPED, reverse_filter=2, way_back="eth0"), ["rp_filter does not explain it", "nft list ruleset"]),
        (
            replace(QUIET, seen={Match.OTHER_PORT: SEEN._replace(destination=Endpoint("224.0.67.67", 5002))}),
            ["to 224.0.67.67:5002: the port is another one", "is 5002 the port"],
        ),
        (
            replace(QUIET, seen={Match.OTHER_INTERFACE: SEEN._replace(interface="eth0")}),
            ["came in by eth0", "is @eth0 the interface"],
        ),
        (
            replace(QUIET, ingress=FROM_ONE, seen={Match.OTHER_SOURCE: SEEN._replace(source=Endpoint("10.0.0.13", 1))}),
            ["the source is not 10.0.0.12", "is 10.0.0.13 the source"],
        ),
        (
            replace(QUIET, grown={"received": 20, "received_multicast": 8}),
            [
                "nothing came for it within 10 s, nor did eth1 get anything of the kind",
                "eth1 got 20 packets of any kind, 8 of them multicast",
                "TTL",
                "querier",
                "Of a macvlan, its parent",
            ],
        ),
        (
            replace(QUIET, seen=None, reverse_filter=1, grown={"IPReversePathFilter": 10, "IgnoredMulti": 7}),
            ["without CAP_NET_RAW", "rp_filter dropped 10", "rp_filter=2", "7 multicast datagrams found no program"],
        ),
        (replace(QUIET, missed=3), ["nor did eth1 get anything of the kind (3 packets came too fast to look at)"]),
        (replace(QUIET, grown={"RcvbufErrors": 4}), ["full receive buffers cost 4 datagrams"]),
        (replace(QUIET, addresses=()), ["eth1 has no IPv4 address"]),
        (replace(QUIET, ingress=GROUP_6, addresses=()), ["eth1 has no IPv6 address"]),
        (replace(QUIET, ingress=FROM_ONE, igmp_version="V2"), ["IGMPv2", "cannot ask for one source", "IGMPv3"]),
        (replace(QUIET, ingress=FROM_ONE, igmp_version="V2", forced_version=2), ["force_igmp_version=0"]),
        (replace(QUIET, igmp_version="V2", forced_version=2), ["force_igmp_version is 2", "speak that version"]),
        (replace(QUIET, ingress=GROUP_6, forced_version=1), ["force_mld_version is 1"]),
        (
            replace(QUIET, reverse_filter=1, default_interface="eth0"),
            ["rp_filter is strict on eth1, and the default route is by eth0"],
        ),
        (replace(QUIET, ingress=BROADCAST), ["Routers do not forward broadcasts"]),
        (replace(QUIET, ingress=PORTS), ["nor did any interface get", "firewall or NetworkPolicy"]),
    ],
)  # fmt: skip
def test_why_an_ingress_is_silent(facts: IngressFacts, parts: list[str]) -> None:
    assert_said(diagnose_ingress.listened(facts), CheckStatus.PROBLEM, str(facts.ingress), *parts)


def test_loose_rp_filter_is_no_advice_where_it_is_loose_already() -> None:
    check = diagnose_ingress.listened(replace(QUIET, seen=None, reverse_filter=2, grown={"IPReversePathFilter": 10}))
    assert not any("rp_filter=2" in hint for hint in check.hints)


@pytest.mark.parametrize(
    ("ingress", "seen", "expected"),
    [
        (GROUP, SEEN, Match.FITS),
        (GROUP, SEEN._replace(interface="eth0"), Match.OTHER_INTERFACE),
        (GROUP, SEEN._replace(destination=Endpoint("224.0.67.67", 5002)), Match.OTHER_PORT),
        (GROUP, SEEN._replace(interface="eth0", destination=Endpoint("224.0.67.67", 5002)), None),
        (GROUP, SEEN._replace(destination=Endpoint("224.0.0.251", 5001)), None),
        (FROM_ONE, SEEN, Match.FITS),
        (FROM_ONE, SEEN._replace(source=Endpoint("10.0.0.13", 4000)), Match.OTHER_SOURCE),
        (BROADCAST, Seen("eth1", SOURCE, Endpoint("10.0.0.255", 9999), 1, 1, True), Match.FITS),
        (BROADCAST, Seen("eth1", SOURCE, Endpoint("10.0.0.7", 9999), 1, 1), None),
        (PORTS, Seen("eth0", SOURCE, Endpoint("10.0.0.7", 5007), 1, 1), Match.FITS),
        (PORTS, Seen("eth0", SOURCE, Endpoint("10.0.0.7", 5008), 1, 1), None),
        (PORTS, Seen("eth0", SOURCE, Endpoint("10.0.0.255", 5007), 1, 1, True), None),
    ],
)
def test_how_a_datagram_on_the_wire_fits_an_ingress(ingress: Ingress, seen: Seen, expected: Match | None) -> None:
    assert match(ingress, seen) is expected


def test_packets_on_the_wire() -> None:
    udp = bytes.fromhex("0fa0 1389 000c 0000") + b"abcd"
    ipv4 = bytes.fromhex("4500 0020 0001 0000 0511 0000 0a00000c e0004343") + udp
    seen = Seen("eth1", SOURCE, Endpoint("224.0.67.67", 5001), 4, 5)
    assert parse_packet(ipv4, 4, "eth1", broadcast=False) == seen
    with_options = b"\x46" + ipv4[1:20] + bytes(4) + udp
    assert parse_packet(with_options, 4, "eth1", broadcast=False) == seen
    later_fragment = ipv4[:6] + b"\x00\xb9" + ipv4[8:]
    assert parse_packet(later_fragment, 4, "eth1", broadcast=False) is None
    tcp = ipv4[:9] + b"\x06" + ipv4[10:]
    assert parse_packet(tcp, 4, "eth1", broadcast=False) is None
    address = bytes.fromhex("fd00000000000000000000000000000c")
    ipv6 = bytes.fromhex("60000000 000c 11 05") + address + bytes.fromhex("ff15000000000000000000000000 0067") + udp
    seen = Seen("eth1", Endpoint("fd00::c", 4000), Endpoint("ff15::67", 5001), 4, 5)
    assert parse_packet(ipv6, 6, "eth1", broadcast=False) == seen
    for packet, version in ((ipv4, 4), (ipv6, 6)):
        for length in range(len(packet) - 4):
            assert parse_packet(packet[:length], version, "eth1", broadcast=False) is None


SNMP = """\
Ip: Forwarding InReceives
Ip: 1 9
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 1 2 3 4 5 6 7 8 9
TcpExt: SyncookiesSent IPReversePathFilter
TcpExt: 0 11
IpExt: InNoRoutes InMcastPkts
IpExt: 0 12
"""
DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 100 3 0 0 0 0 0 0 100 3 0 0 0 0 0 0
  eth1:2000 20 0 0 0 0 0 8 100 3 0 0 0 0 0 0
"""  # noqa: E501 - as it is
IGMP = """\
Idx	Device    : Count Querier	Group    Users Timer	Reporter
4	eth0      :     1      V3
				010000E0     1 0:00000000		0
5	eth1      :     2      V2
				434300E0     1 0:00000000		0
				010000E0     1 0:00000000		0
"""
IGMP6 = """\
4    eth0            ff020000000000000000000000000001     1 0000000C 0
5    eth1            ff150000000000000000000000000067     1 00000004 0
"""
ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	00000000	0100000A	0003	0	0	0	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""


def test_what_the_kernel_tells() -> None:
    counted = kernel.parse_counters(SNMP, "Ip6InReceives 4\nUdp6RcvbufErrors   \t 20\nIp6InMcastPkts 1\n")
    assert counted == {
        "RcvbufErrors": 25, "InCsumErrors": 7, "IgnoredMulti": 8, "IPReversePathFilter": 11, "InMcastPkts": 13,
    }  # fmt: skip
    assert kernel.parse_counters("", "") == {}
    assert kernel.parse_interface(DEVICES, "eth1") == {"received": 20, "received_multicast": 8}
    assert kernel.parse_interface(DEVICES, "eth2") == kernel.parse_interface("", "") == {}
    assert kernel.parse_igmp(IGMP, "eth1") == ("V2", {"224.0.67.67", "224.0.0.1"})
    assert kernel.parse_igmp(IGMP, "eth0") == ("V3", {"224.0.0.1"})
    assert kernel.parse_igmp("", "eth0") == ("", set())
    assert kernel.parse_igmp6(IGMP6, "eth1") == {"ff15::67"}
    assert kernel.parse_default_route(ROUTES) == "eth0"
    assert kernel.parse_default_route("") == ""


def test_what_cannot_be_read_is_unknown() -> None:
    assert kernel.sysctl("net/no/such") is None
    assert kernel.read("/proc/no/such") == ""
