"""Packets as the wire has them, and those that are cut off."""

from __future__ import annotations

from fanout.doctor.capture import parse_packet
from fanout.doctor.core.facts import Seen
from fanout.model import Endpoint

SOURCE = Endpoint("10.0.0.12", 4000)


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
