"""Opens the sockets of an ingress, and describes where it listens."""

from __future__ import annotations

import errno
import socket

from fanout.errors import SocketUnavailable
from fanout.net import bind, interfaces, multicast
from fanout.net.multicast import InterfaceNotReady
from fanout.relay.core.ingress import Ingress, IngressKind


def open_port(ingress: Ingress, port: int) -> socket.socket:
    """Return a non-blocking socket that gets what comes to one port of an ingress.

    Raises `InterfaceNotReady`, or `SocketUnavailable` for any other refusal; both name the ingress.
    """
    if ingress.interface and interfaces.index(ingress.interface) is None:
        raise _missing(ingress)
    try:
        if ingress.kind is IngressKind.MULTICAST:
            return multicast.open_group(ingress.host, port, ingress.interface, source=ingress.source)
        if ingress.kind is IngressKind.BROADCAST:
            opened = multicast.open_broadcast(port, ingress.interface)
        else:
            opened = bind.listen(ingress.host or None, port, device=ingress.interface)
    except SocketUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENODEV:  # gone since the check above
            raise _missing(ingress) from None
        is_late = ingress.interface and isinstance(cause, OSError) and cause.errno == errno.EADDRNOTAVAIL
        raise (InterfaceNotReady if is_late else SocketUnavailable)(f"ingress {ingress}: {error}") from cause
    multicast.keep_to_own_groups(opened)
    return opened


def describe(ingress: Ingress) -> str:
    """Return where an open ingress listens: the group that it joined, its interface, address and route."""
    if not ingress.interface:
        return "listens on all addresses" if not ingress.host else f"listens on {ingress.host}"
    found = interfaces.addresses(ingress.interface)
    if not (found or interfaces.addresses()):  # the system does not list them
        return f"listens on {ingress.interface}"
    version = 6 if ingress.is_ipv6 else 4
    here = [str(address) for address in found if address.version == version]
    where = f"{ingress.interface} ({', '.join(here) or f'no IPv{version} address'})"
    if ingress.kind is not IngressKind.MULTICAST:
        return f"listens on {where}"
    group = f"{ingress.host} from {ingress.source}" if ingress.source else ingress.host
    route = interfaces.route(ingress.source or ingress.host, ingress.interface)
    target = f"to {ingress.source}" if ingress.source else "to the group"
    way = f"there is no route {target}" if route is None else f"the route {target} is by {route[0]} ({route[1]})"
    return f"joined {group} on {where}; {way}"


def _missing(ingress: Ingress) -> InterfaceNotReady:
    there = ", ".join(interfaces.names())
    return InterfaceNotReady(
        f"ingress {ingress}: there is no interface {ingress.interface} here (there are {there}): "
        "check its name, and that it is attached to the pod"
    )
