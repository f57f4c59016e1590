"""Sentences for errnos: what one means for an address, and what to change. One line for an exception."""

from __future__ import annotations

import errno
import os

from fanout.model import Endpoint
from fanout.options import printable

_LINE_MAX = 500

_SENDING = {
    errno.ECONNREFUSED: "nothing listens on that port there: is the receiver ready, and is the port right?",
    errno.EHOSTUNREACH: "the host is unreachable: is the pod or its node gone, or does a policy reject it?",
    errno.ENETUNREACH: "no route to that network: does this machine have that address family?",
    errno.ENETDOWN: "the network interface is down",
    errno.EPERM: "a firewall rule on this host forbids it",
    errno.EACCES: "a broadcast address, or forbidden here: name the pods' own addresses",
    errno.EMSGSIZE: "larger than the path carries unfragmented: send smaller messages",
    errno.ENOBUFS: "the interface's queue is full: send more slowly (--rate)",
    errno.ENOMEM: "the kernel has no memory for it: send more slowly (--rate)",
    errno.EAGAIN: "the socket stayed full: is the interface stuck? raise net.core.wmem_max",
    errno.EINVAL: "the kernel does not accept that address",
    errno.EAFNOSUPPORT: "this machine has no such address family: try --family",
    errno.EADDRNOTAVAIL: "no source address for it: does this machine have that address family?",
}


def exception(error: BaseException) -> str:
    """Return an exception of a user's code as one printable line: `ValueError: no such cache`. Never raises."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())[:_LINE_MAX]
    except BaseException:  # the exception's own code runs here, and may raise anything
        text = "it cannot be printed"
    line = f"{name}: {text}" if text else name
    return printable(line)


def sending(endpoint: Endpoint, number: int) -> str:
    """Return why a datagram to `endpoint` was refused or dropped."""
    return f"{endpoint}: {_SENDING.get(number) or os.strerror(number)} ({errno.errorcode.get(number, number)})"


def binding(endpoint: Endpoint, number: int, protocol: str = "UDP", device: str = "") -> str:
    """Return why a socket could not listen on `endpoint`, or be bound to the interface `device`."""
    if number == errno.EADDRINUSE:
        flag = "u" if protocol == "UDP" else "t"
        hint = f"the port is in use: find the process (ss -l{flag}np 'sport = :{endpoint.port}') or choose another"
    elif number == errno.EPERM and device:
        hint = f"binding to the interface {device} needs CAP_NET_RAW before Linux 5.7: leave @{device} out, or add it"
    elif number in (errno.EACCES, errno.EPERM):
        hint = "ports below 1024 need a privilege (net.ipv4.ip_unprivileged_port_start): choose another port"
    elif number == errno.EADDRNOTAVAIL:
        hint = "no interface of this machine has that address (ip address)"
    elif number in (errno.EMFILE, errno.ENFILE):
        hint = "this process has as many open files as it may: raise its limit (ulimit -n)"
    else:
        hint = os.strerror(number)
    return f"cannot listen on {protocol} {endpoint}: {hint}"


def leaving(number: int) -> str:
    """Return why there is no socket for sending to a pod, or no route to it."""
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many open files: raise their limit (ulimit -n), or listen on fewer ports"
    if number == errno.EUSERS:
        return "too many sockets, one for each port and pod: listen on fewer ports, or split them among relays"
    if number == errno.EAGAIN:
        return "no free port to send from: raise net.ipv4.ip_local_port_range (sysctl), or listen on fewer ports"
    return _SENDING.get(number) or os.strerror(number)


def joining(group: str, interface: str, number: int) -> str:
    """Return why a multicast group could not be joined on an interface."""
    version = 6 if ":" in group else 4
    if number == errno.ENOBUFS and version == 4:
        hint = "the kernel allows no more groups: raise net.ipv4.igmp_max_memberships (sysctl)"
    elif number in (errno.EADDRNOTAVAIL, errno.EINVAL, errno.EAFNOSUPPORT):
        hint = f"does it have IPv{version} (ip address show {interface})?"
    else:
        hint = os.strerror(number)
    return f"cannot join {group} on {interface}: {hint}"
