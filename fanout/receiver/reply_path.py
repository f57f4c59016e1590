"""Sends answers by a listening socket, from the address that was asked."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from fanout.net import bind, pktinfo
from fanout.protocol.receiving.run import ControlMessages


class ReplyPath:
    """Sends answers by a listening socket."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self._has_stopped = False
        self._is_any = bind.is_on_all_addresses(opened)

    def stop_receiving(self) -> None:
        """Receive nothing more; answers can still be sent."""
        bind.stop_receiving(self.socket)
        self._has_stopped = self._is_any

    def send(self, datagrams: list[bytes], address: tuple[Any, ...], source: ControlMessages) -> None:
        """Send answers until the socket is full; a sender without an answer asks again.

        `source` is the address that was asked, as `pktinfo.answer_from` returns it; empty where the socket has only
        one, or it is unknown.
        """
        with contextlib.suppress(OSError):
            if self._has_stopped and not source:
                source = pktinfo.answer_from_any(address)
            for datagram in datagrams:
                try:
                    self.socket.sendmsg([datagram], source, socket.MSG_DONTWAIT, address)
                except BlockingIOError:
                    return
                except OSError:
                    # The address that was asked cannot be a source (a broadcast), or is gone: let the route choose.
                    source = pktinfo.answer_from_any(address) if self._has_stopped else []
                    self.socket.sendmsg([datagram], source, socket.MSG_DONTWAIT, address)
