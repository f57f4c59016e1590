"""Ports that are a test's own: nobody else takes them, however long it is until they are used.

Another test run, another worker of this one and the system, which lends ports to whoever asks for any (port 0), all
stay away from a port that was lent here. A process holds the ports that it lends until it ends, a block at a time: by
an abstract socket that is named after the block, and is seen as far as the ports are, in one network namespace.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

_FIRST, _LAST, _BLOCK = 10_240, 32_768, 64
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 1000
held: set[int] = set()
"""The numbers of the open files that hold this process's ports."""
_own: list[int] = []
"""Ports of the block that was taken last, in descending order."""


def free_port() -> int:
    """Return a port of which nobody has the UDP nor the TCP one, on any address."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> range:
    """Return so many such ports in a row."""
    for _ in range(_TRIES):
        ports = _lend(count)
        with contextlib.ExitStack() as stack:
            try:
                for port in ports:
                    for opened in _bound(port):
                        stack.enter_context(opened)
            except OSError:
                continue
            return ports
    raise AssertionError(f"no {count} free ports in a row")


def bind_both(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket on one port, which this process has not lent before."""
    for _ in range(_TRIES):
        (port,) = _lend(1)
        try:
            return _bound(port, host)
        except OSError:
            continue
    raise AssertionError("no free port")


@contextlib.contextmanager
def refusing(*hosts: str) -> Iterator[int]:
    """Yield a port on which nothing listens at these addresses, nor can: UDP and TCP are refused.

    A UDP socket that is connected gets what comes from its peer alone; what others send is refused by ICMP.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(_TRIES):
            (port,) = _lend(1)
            try:
                with contextlib.ExitStack() as opening:
                    for host in hosts:
                        udp, _ = map(opening.enter_context, _bound(port, host))
                        udp.connect((host, port))
                    stack.enter_context(opening.pop_all())
                break
            except OSError:
                continue
        else:
            raise AssertionError("no free port")
        yield port


def _lend(count: int) -> range:
    while len(_own) < count:
        _own[:] = _take_block()
    port = _own[-1]
    del _own[-count:]
    return range(port, port + count)


def _take_block() -> list[int]:
    """Hold a block that no other process holds; return its ports in descending order."""
    usual = _ephemeral()
    blocks = [range(first, first + _BLOCK) for first in range(_FIRST, _LAST, _BLOCK)]
    # Where the system lends all of them, the next look at a port has to do.
    own = [block for block in blocks if block[-1] < usual[0] or block[0] > usual[1]] or blocks
    # Not of `random`, which hypothesis makes the same in two processes.
    for ports in secrets.SystemRandom().sample(own, len(own)):
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0fanout-tests-ports-{ports[0]}")
        except OSError:
            name.close()
            continue
        held.add(name.detach())
        return list(reversed(ports))
    raise AssertionError("other test runs hold all ports")


def _ephemeral() -> tuple[int, int]:
    """Return the first and the last port that the system lends by itself."""
    try:
        first, last = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        return 32_768, 60_999
    return first, last


def _bound(port: int, host: str | None = None) -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket on that port of one address, or of all."""
    is_ipv6 = socket.has_dualstack_ipv6() if host is None else ":" in host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
    try:
        for opened in (udp, tcp):
            if is_ipv6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host is not None)
            opened.bind((host or "", port))
    except OSError:
        udp.close()
        tcp.close()
        raise
    return udp, tcp
