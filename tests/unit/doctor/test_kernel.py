"""What the kernel tells by its files, and what cannot be read."""

from __future__ import annotations

from fanout.doctor import kernel

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
