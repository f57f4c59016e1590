"""Listens to the announcements of pods, where their network carries multicast; most do not, and nothing needs it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from itertools import islice
from time import monotonic

from fanout.errors import SocketUnavailable
from fanout.net import interfaces
from fanout.net.multicast import open_group
from fanout.ssdp.core.message import GROUP, PORT
from fanout.ssdp.core.responder import Responder
from fanout.ssdp.searches import CarryOut, receive

log: logging.Logger = logging.getLogger("fanout")

_PODS_MAX = 256
"""Pods whose route is looked up; all of them are reached by one interface or two."""


class PodListener:
    """Listens on the interfaces that lead to pods, except the LAN's. `follow` needs a running event loop."""

    def __init__(self, responder: Responder, lan: str, carry_out: CarryOut) -> None:
        self._responder = responder
        self._lan = lan
        self._carry_out = carry_out
        self._sockets: dict[str, socket.socket] = {}

    def follow(self, hosts: Iterable[str]) -> None:
        """Listen on the interfaces that lead to these pods."""
        routes = (interfaces.route(host) for host in islice(hosts, _PODS_MAX) if ":" not in host)
        wanted = {route[0] for route in routes if route is not None} - {self._lan, "lo"}
        for gone in self._sockets.keys() - wanted:
            self._close(gone)
        for name in wanted - self._sockets.keys():
            try:
                opened = open_group(GROUP, PORT, name)
            except SocketUnavailable as error:
                log.debug("pods_unheard: %(reason)s", {"reason": str(error)})
                continue
            self._sockets[name] = opened
            asyncio.get_running_loop().add_reader(opened, self._readable, opened)

    def close(self) -> None:
        """Stop listening."""
        for name in list(self._sockets):
            self._close(name)

    def _readable(self, opened: socket.socket) -> None:
        for data, host, _ in receive(opened):
            self._carry_out(self._responder.pod_announced(host, data, monotonic()))

    def _close(self, name: str) -> None:
        opened = self._sockets.pop(name)
        asyncio.get_running_loop().remove_reader(opened)
        opened.close()
