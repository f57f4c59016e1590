"""The way out of a listening socket: answers leave from the address that was asked."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from fanout.net import bind, pktinfo
from fanout.net.pktinfo import Control


class ReplyPath:
    """A listening socket, as far as answers leave by it."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self._is_deaf = False
        self._is_any = bind.is_on_all_addresses(opened)

    def deafen(self) -> None:
        """Get nothing more; answers can still be sent."""
        bind.deafen(self.socket)
        self._is_deaf = self._is_any

    def send(self, datagrams: list[bytes], address: tuple[Any, ...], source: Control) -> None:
        """Send answers, as far as there is room: whoever asks and hears nothing asks again.

        `source` is the address that was asked, as `pktinfo.answer_from` gives it; nothing where the socket has but
        one, or it is unknown.
        """
        with contextlib.suppress(OSError):
            if self._is_deaf and not source:
                source = pktinfo.answer_from_any(address)
            for datagram in datagrams:
                try:
                    self.socket.sendmsg([datagram], source, socket.MSG_DONTWAIT, address)
                except BlockingIOError:
                    return
                except OSError:
                    # The address that was asked is none to answer from (a broadcast), or is gone: let the route choose.
                    source = pktinfo.answer_from_any(address) if self._is_deaf else []
                    self.socket.sendmsg([datagram], source, socket.MSG_DONTWAIT, address)
