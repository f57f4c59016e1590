"""Reads and parses what the kernel reports in /proc."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import Counter
from pathlib import Path

_COUNTED = {
    "Udp": ("RcvbufErrors", "InCsumErrors", "IgnoredMulti"),
    "TcpExt": ("IPReversePathFilter",),
    "IpExt": ("InMcastPkts", "InBcastPkts"),
}
_COUNTED_6 = {"Udp6RcvbufErrors": "RcvbufErrors", "Udp6InCsumErrors": "InCsumErrors", "Ip6InMcastPkts": "InMcastPkts"}
_MULTICAST_COLUMN = 7  # of the eight that are about receiving


def read(path: str) -> str:
    """Return a file of /proc; empty where it cannot be read."""
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""


def sysctl(name: str) -> int | None:
    """Return a sysctl, `net/core/rmem_max` for instance; None where it cannot be read or is not a number."""
    try:
        return int(read(f"/proc/sys/{name}"))
    except ValueError:
        return None


def counters(interface: str = "") -> dict[str, int]:
    """Return the counters of dropped datagrams, and of packets that `interface` received.

    The protocols' counters are summed over both families; all are those of this network namespace.
    """
    counted = parse_counters(read("/proc/net/snmp") + read("/proc/net/netstat"), read("/proc/net/snmp6"))
    return {**counted, **parse_interface(read("/proc/net/dev"), interface)}


def parse_counters(tables: str, ipv6: str) -> dict[str, int]:
    """Parse /proc/net/snmp and netstat (a line of names, a line of numbers), and snmp6 (a name and a number a line)."""
    found: Counter[str] = Counter()
    lines = tables.splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        table = dict(zip(names.split(), numbers.split(), strict=False))
        for name in _COUNTED.get(names.partition(":")[0], ()):
            if name in table:
                found[name] += int(table[name])
    for line in ipv6.splitlines():
        name, _, number = line.partition(" ")
        if name in _COUNTED_6:
            found[_COUNTED_6[name]] += int(number)
    return found


def parse_interface(table: str, interface: str) -> dict[str, int]:
    """Return `received`, and `received_multicast` where the driver counts it, of /proc/net/dev."""
    for line in table.splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() == interface:
            columns = [int(number) for number in numbers.split()]
            return {"received": columns[1], "received_multicast": columns[_MULTICAST_COLUMN]}
    return {}


def parse_igmp(table: str, interface: str) -> tuple[str, set[str]]:
    """Return the version of IGMP on an interface (`V3`) and the IPv4 groups there, of /proc/net/igmp."""
    version, groups, is_here = "", set(), False
    for line in table.splitlines()[1:]:
        words = line.split()
        if not line[:1].isspace() and len(words) > 4:
            # 4  eth1      :     1      V3
            is_here = words[1].rstrip(":") == interface
            version = words[-1] if is_here else version
        elif is_here and words:
            # The address as the machine holds it.
            groups.add(str(ipaddress.IPv4Address(struct.pack("=I", int(words[0], 16)))))
    return version, groups


def parse_igmp6(table: str, interface: str) -> set[str]:
    """Return the IPv6 groups on an interface, of /proc/net/igmp6."""
    rows = [line.split() for line in table.splitlines()]
    return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[2])) for row in rows if row[1:2] == [interface]}


def parse_default_route(table: str) -> str:
    """Return the interface of the IPv4 default route with the least metric, of /proc/net/route, or an empty string."""
    # Iface Destination Gateway Flags RefCnt Use Metric Mask ...
    rows = [line.split() for line in table.splitlines()[1:]]
    defaults = [(int(row[6]), row[0]) for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    return min(defaults)[1] if defaults else ""
