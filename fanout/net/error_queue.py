"""The error queue of a sending socket: ICMP errors and the endpoints they concern (IP_RECVERR, man 7 ip)."""

from __future__ import annotations

import socket
import struct

from fanout.model import Endpoint
from fanout.report import Fault

# Values of Linux (include/uapi/linux/in.h, in6.h, errqueue.h) that the socket module does not name.
_IPV4_ERRORS = (socket.IPPROTO_IP, 11)  # IP_RECVERR
_IPV6_ERRORS = (socket.IPPROTO_IPV6, 25)  # IPV6_RECVERR
_SOCK_EXTENDED_ERR = struct.Struct("=IBBBBII")
_LOCAL = 1  # SO_EE_ORIGIN_LOCAL
_IS_THERE = hasattr(socket, "MSG_ERRQUEUE")
_READS = 8192


def fill(sender: socket.socket, is_ipv6: bool) -> None:
    """Let the kernel queue ICMP errors for `read`; each also fails the socket's next send, to any destination."""
    if _IS_THERE:
        sender.setsockopt(*(_IPV6_ERRORS if is_ipv6 else _IPV4_ERRORS), 1)


def read(sender: socket.socket, most: int = _READS) -> list[Fault]:
    """Return the queued ICMP errors with the endpoints they concern, at most N: a peer may send a flood."""
    faults: list[Fault] = []
    if not _IS_THERE:
        return faults
    for _ in range(most):
        try:
            _, ancillary, _, address = sender.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            break
        for level, kind, data in ancillary:
            if (level, kind) in (_IPV4_ERRORS, _IPV6_ERRORS) and len(data) >= _SOCK_EXTENDED_ERR.size:
                number, origin, *_ = _SOCK_EXTENDED_ERR.unpack_from(data)
                if origin != _LOCAL:  # of the failed send itself, whose errno says the same
                    faults.append(Fault(Endpoint(address[0], address[1]), number))
    return faults
