"""Hears what pods announce to the group, where their network carries it: most carry none, and nothing relies on it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from itertools import islice

from fanout.errors import SocketUnavailable
from fanout.net import interfaces
from fanout.relay.multicast import open_port
from fanout.ssdp.core.message import PORT
from fanout.ssdp.lan import group
from fanout.ssdp.searches import receive

log = logging.getLogger("fanout")

_PODS_ASKED = 256
"""Pods of which is looked up by which interface they are reached: all go by one or two."""


class PodListener:
    """Listens on the interfaces that lead to pods, but not on the LAN's. Not before there is an event loop."""

    def __init__(self, lan: str, heard: Callable[[bytes, str], None]) -> None:
        self._lan = lan
        self._heard = heard
        self._sockets: dict[str, socket.socket] = {}

    def follow(self, hosts: Iterable[str]) -> None:
        """Listen where these pods can be heard."""
        routes = (interfaces.route(host) for host in islice(hosts, _PODS_ASKED) if ":" not in host)
        wanted = {route[0] for route in routes if route is not None} - {self._lan, "lo"}
        for gone in self._sockets.keys() - wanted:
            self._close(gone)
        for name in wanted - self._sockets.keys():
            try:
                opened = open_port(group(name), PORT)
            except SocketUnavailable as error:
                log.debug("pods_unheard: %(reason)s", {"reason": str(error)})
                continue
            self._sockets[name] = opened
            asyncio.get_running_loop().add_reader(opened, self._readable, opened)

    def close(self) -> None:
        """Listen no more."""
        for name in list(self._sockets):
            self._close(name)

    def _readable(self, opened: socket.socket) -> None:
        for data, host, _ in receive(opened):
            self._heard(data, host)

    def _close(self, name: str) -> None:
        opened = self._sockets.pop(name)
        asyncio.get_running_loop().remove_reader(opened)
        opened.close()
