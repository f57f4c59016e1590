"""Opens the sockets of an ingress: bound, joined, and with an errno's sentence where the system refuses."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from fanout.errors import SocketUnavailable
from fanout.model import Endpoint
from fanout.net import bind, errno_text, interfaces, pktinfo, sockaddr
from fanout.relay.core.ingress import Ingress, IngressKind

# include/uapi/linux/in.h and in6.h; the protocol-independent requests of RFC 3678, 5.1.
_MCAST_JOIN_GROUP, _MCAST_JOIN_SOURCE_GROUP = 42, 46
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_STORAGE = 128  # sizeof(struct sockaddr_storage)
_REQUEST = struct.Struct(f"@I0Q{_STORAGE}s")  # struct group_req
_SOURCE_REQUEST = struct.Struct(f"@I0Q{_STORAGE}s{_STORAGE}s")  # struct group_source_req


class InterfaceNotReady(SocketUnavailable):
    """The interface of an ingress is not there (yet), or has no address (yet)."""


def open_port(ingress: Ingress, port: int) -> socket.socket:
    """Return a non-blocking socket that gets what comes to one port of an ingress.

    Raises `InterfaceNotReady`, or `SocketUnavailable` where the system refuses otherwise; the sentence names the
    ingress.
    """
    if ingress.interface and interfaces.index(ingress.interface) is None:
        raise _missing(ingress)
    try:
        if ingress.kind is IngressKind.UDP:
            opened = bind.listen(ingress.host or None, port, device=ingress.interface)
        else:
            opened = _shared(ingress, port)
    except SocketUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENODEV:  # gone since the first look
            raise _missing(ingress) from None
        is_late = ingress.interface and isinstance(cause, OSError) and cause.errno == errno.EADDRNOTAVAIL
        raise (InterfaceNotReady if is_late else SocketUnavailable)(f"ingress {ingress}: {error}") from cause
    # Groups that other programs of this host have joined are none of this ingress's.
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    with contextlib.suppress(OSError):
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    return opened


def describe(ingress: Ingress) -> str:
    """Say where an ingress that was opened listens: what was joined, on which interface and address, and the route."""
    if not ingress.interface:
        return "listens on all addresses" if not ingress.host else f"listens on {ingress.host}"
    found = interfaces.addresses(ingress.interface)
    if not (found or interfaces.addresses()):  # the system does not tell
        return f"listens on {ingress.interface}"
    version = 6 if ingress.is_ipv6 else 4
    here = [str(address) for address in found if address.version == version]
    where = f"{ingress.interface} ({', '.join(here) or f'no IPv{version} address'})"
    if ingress.kind is not IngressKind.MULTICAST:
        return f"listens on {where}"
    group = f"{ingress.host} from {ingress.source}" if ingress.source else ingress.host
    route = interfaces.route(ingress.source or ingress.host, ingress.interface)
    asked = f"to {ingress.source}" if ingress.source else "to the group"
    way = f"no route leads {asked}" if route is None else f"the route {asked} is by {route[0]} ({route[1]})"
    return f"joined {group} on {where}; {way}"


def _missing(ingress: Ingress) -> InterfaceNotReady:
    there = ", ".join(interfaces.names())
    return InterfaceNotReady(
        f"ingress {ingress}: there is no interface {ingress.interface} here (there are {there}): "
        "is it attached to the pod, and is that its name?"
    )


def _shared(ingress: Ingress, port: int) -> socket.socket:
    """Return a socket for a group or for broadcast: the port may be others' as well, each gets a copy."""
    family = socket.AF_INET6 if ingress.is_ipv6 else socket.AF_INET
    device = interfaces.index(ingress.interface) or 0
    endpoint = Endpoint(ingress.host or "0.0.0.0", port)
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ingress.kind is IngressKind.BROADCAST or ingress.is_ipv6:
            # Of an IPv6 group the kernel looks at the membership, and not at the interface (net/ipv6/mcast.c).
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ingress.interface.encode())
        if ingress.kind is IngressKind.BROADCAST:
            pktinfo.tell_destinations(opened, True)
        # Bound to the group itself: what comes to the same port of this host, or for another group, is not for it.
        opened.bind((*endpoint, 0, device) if family == socket.AF_INET6 else endpoint)
    except OSError as error:
        opened.close()
        raise SocketUnavailable(errno_text.binding(endpoint, error.errno or 0, device=ingress.interface)) from error
    try:
        if ingress.kind is IngressKind.MULTICAST:
            _join(opened, ingress, device)
    except OSError as error:
        opened.close()
        raise SocketUnavailable(errno_text.joining(ingress.host, ingress.interface, error.errno or 0)) from error
    return opened


def _join(opened: socket.socket, ingress: Ingress, device: int) -> None:
    level = socket.IPPROTO_IPV6 if ingress.is_ipv6 else socket.IPPROTO_IP
    group = sockaddr.pack(ingress.host)
    if ingress.source:
        request = _SOURCE_REQUEST.pack(device, group, sockaddr.pack(ingress.source))
        opened.setsockopt(level, _MCAST_JOIN_SOURCE_GROUP, request)
    else:
        opened.setsockopt(level, _MCAST_JOIN_GROUP, _REQUEST.pack(device, group))
