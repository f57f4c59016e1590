"""Listening sockets: how they are bound, their buffers, their drops, and whether they merge datagrams."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import struct
import sys

from fanout import errno_text
from fanout.errors import InvalidService, SocketUnavailable
from fanout.model import Endpoint, parse_port
from fanout.net import sockaddr

log: logging.Logger = logging.getLogger("fanout")

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Default bytes of receive buffer to request."""

_SO_MEMINFO = 55  # include/uapi/asm-generic/socket.h: nine counters of the socket, no privilege needed
_MEMINFO = struct.Struct("=9I")
_MEMINFO_HELD, _MEMINFO_DROPS = 0, 8
UDP_GRO = 104  # include/uapi/linux/udp.h, Linux 5.0
_INT_MAX = 2**31 - 1
_SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)  # struct sock_filter: return 0 bytes of each packet
_FILTER_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: their number and address
_DISCARD_PORT = 9


def listen(host: str | None, port: int, *, shared: bool = False, device: str = "") -> socket.socket:
    """Return a non-blocking UDP socket on `host`, or on all addresses of both families; port 0 is a free one.

    With `shared`, other shared sockets of the same user may have the same port (SO_REUSEPORT, man 7 socket). With a
    `device` it receives only from that interface (SO_BINDTODEVICE). Raises `InvalidService` for an invalid address,
    `SocketUnavailable` where the system refuses.
    """
    if port != 0:
        parse_port(port)
    try:
        # Only of a string: ip_address() accepts numbers and bytes, too.
        address = None if host is None else ipaddress.ip_address(host if isinstance(host, str) else "")
    except ValueError:
        raise InvalidService(f"host must be an IP address to listen on; got {host!r}") from None
    if address is None:
        try:
            return _bind(socket.AF_INET6, Endpoint("::", port), shared, device, both_families=True)
        except SocketUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return _bind(socket.AF_INET, Endpoint("0.0.0.0", port), shared, device)
            raise
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return _bind(family, Endpoint(str(address), port), shared, device)


def _bind(
    family: socket.AddressFamily, endpoint: Endpoint, shared: bool, device: str, *, both_families: bool = False
) -> socket.socket:
    opened = None
    try:
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if device:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        opened.bind(endpoint)
    except OSError as error:
        if opened is not None:
            opened.close()
        raise SocketUnavailable(errno_text.binding(endpoint, error.errno or 0, device=device)) from error
    return opened


def is_on_all_addresses(listening: socket.socket) -> bool:
    """Whether it listens on all addresses of this host."""
    host: str = listening.getsockname()[0]
    return host in ("::", "0.0.0.0")


def stop_receiving(listening: socket.socket) -> None:
    """Let the socket keep what it holds and receive nothing more; its port stays taken, and senders get ICMP errors.

    A connected socket receives only from its peer (man 7 udp), so it is connected to a peer that never sends: this
    host itself. Where it cannot be, bound to an interface for instance, a filter drops what arrives (man 7 socket,
    SO_ATTACH_FILTER), which counts as `drops`. Without this, what arrives between the last read and the close would be
    lost uncounted.
    """
    host = listening.getsockname()[0].partition("%")[0]
    address = ipaddress.ip_address(host)
    peers = [host]
    if address.is_unspecified or address.is_multicast:
        peers = ["127.0.0.1"] if address.version == 4 else [sockaddr.mapped("127.0.0.1"), "::1"]
    for peer in peers:
        with contextlib.suppress(OSError):
            listening.connect((peer, _DISCARD_PORT))
            return
    drop_all(listening)


def drop_all(opened: socket.socket) -> None:
    """Let the kernel drop all that arrives at the socket, by a filter (man 7 socket, SO_ATTACH_FILTER).

    ICMP errors are still received.
    """
    import ctypes  # slow to import, and seldom needed

    program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    with contextlib.suppress(OSError):
        option = _FILTER_PROGRAM.pack(1, ctypes.addressof(program))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)


def merge(listening: socket.socket, wanted: bool) -> bool:
    """Let the kernel deliver runs of datagrams as one buffer (UDP_GRO), or not; return whether it does now.

    False where the system has no UDP_GRO. What was merged before must be read while merging is on: otherwise the
    kernel does not report the segment size.
    """
    if sys.platform != "linux":
        return False
    try:
        listening.setsockopt(socket.IPPROTO_UDP, UDP_GRO, wanted)
    except OSError:
        return False
    return wanted


def drops(listening: socket.socket) -> int:
    """Return how often the kernel dropped for a full buffer (0 where it does not report it); raise OSError.

    A merged buffer (UDP_GRO) counts as one drop, however many datagrams it holds (net/ipv4/udp.c,
    __udp_enqueue_schedule_skb); a socket that does not merge counts each datagram.
    """
    return _counter(listening, _MEMINFO_DROPS)


def held(listening: socket.socket) -> int:
    """Return the bytes of buffer in use (0 where the kernel does not report it); raise OSError."""
    return _counter(listening, _MEMINFO_HELD)


def _counter(listening: socket.socket, number: int) -> int:
    if sys.platform != "linux":
        return 0
    return int(_MEMINFO.unpack(listening.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[number])


def set_buffer(listening: socket.socket, size: int) -> None:
    """Set the receive buffer to `size` bytes, as far as the system allows."""
    with contextlib.suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(size, _INT_MAX))


def grow_buffer(listening: socket.socket, wanted: int) -> int:
    """Request `wanted` bytes of receive buffer; return what was granted, and warn where that is less."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(wanted, _INT_MAX))
    granted = listening.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if sys.platform == "linux":
        granted //= 2  # man 7 socket: the kernel doubles it for its own bookkeeping, and returns the double
    if granted < wanted:
        log.warning(
            "receive_buffer_clamped: asked for %(wanted)d bytes, got %(granted)d; "
            "bursts may be dropped: raise net.core.rmem_max (sysctl)",
            {"wanted": wanted, "granted": granted},
        )
    return granted
