"""Searches of the LAN: taken from its sockets, put to the pods by a socket each, and ended when their time is over.

So no client gets the answers to another's search. How pods are searched is here, too, for other callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.net import pktinfo, sockaddr
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import DATAGRAM_MAX
from fanout.ssdp.core.responder import Action, AskPods, OpenSearch, Responder
from fanout.ssdp.lan import Lan

SEARCHES_MAX = 2048
"""Searches under way."""
MARGIN = 1.5
"""Seconds that a search lives longer than its MX: answers are under way, and late."""
_GIVEN_UP = 0.8
"""The part of MX after which a pod that should have answered, and has not, is answered for."""
_PREPARED = 0.1
"""Seconds within which is answered what needs no pod, so that not all comes at once."""
_TURN = 32
"""Datagrams that are read of one socket before it is another's turn."""

CarryOut = Callable[[Iterable[Action]], None]
"""Carries out what the responder decided."""


class PodDatagram(NamedTuple):
    """What a pod sent, or a forger in its name."""

    data: bytes
    host: str
    interface: int
    """The number of the interface that it came by; 0 where the system does not tell."""


class PodAddresses:
    """Some pods, and the means to send a search to all of them."""

    def __init__(self, pods: Collection[Endpoint]) -> None:
        self._family = socket.AF_INET6 if any(":" in pod.host for pod in pods) else socket.AF_INET
        is_ipv6 = self._family == socket.AF_INET6
        self._addresses = [(sockaddr.mapped(pod.host) if is_ipv6 else pod.host, pod.port) for pod in pods]

    def open_socket(self) -> socket.socket:
        """Return a non-blocking UDP socket that can send to all of them. Raises OSError."""
        opened = socket.socket(self._family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        if self._family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        pktinfo.tell_destinations(opened, True)
        return opened

    def ask(self, opened: socket.socket, data: bytes) -> bool:
        """Send a search to each of them; return whether the kernel took every copy."""
        is_sent = True
        for address in self._addresses:
            try:
                opened.sendto(data, address)
            except OSError:
                is_sent = False
        return is_sent


def receive(opened: socket.socket) -> list[PodDatagram]:
    """Return what waits, up to a turn's worth."""
    is_ipv6 = opened.family == socket.AF_INET6
    datagrams = []
    with contextlib.suppress(OSError):
        for _ in range(_TURN):
            # One byte more than the limit, to detect larger ones.
            data, control, _, (host, *_) = opened.recvmsg(DATAGRAM_MAX + 1, pktinfo.SPACE)
            datagrams.append(PodDatagram(data, sockaddr.plain(host) if is_ipv6 else host, pktinfo.interface(control)))
    return datagrams


class Searches:
    """Takes what clients search, and what pods answer, to the responder."""

    def __init__(self, responder: Responder, lan: Lan, carry_out: CarryOut) -> None:
        self.count: int = 0
        """Datagrams that came from the LAN, but for announcements."""
        self.answers = 0
        """Those that were sent to clients."""
        self._responder = responder
        self._lan = lan
        self._carry_out = carry_out
        self._pods = PodAddresses(())
        self._sockets: dict[OpenSearch, socket.socket] = {}
        """The oldest first."""
        self._timers: dict[OpenSearch, list[asyncio.TimerHandle]] = {}
        # A search takes a file; half of those that may be open are for what is played.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = SEARCHES_MAX if files == resource.RLIM_INFINITY else min(SEARCHES_MAX, files // 2)

    def __len__(self) -> int:
        return len(self._sockets)

    def follow(self, pods: Collection[Endpoint]) -> None:
        """Search these pods from now on."""
        self._pods = PodAddresses(pods)

    def take_searches(self, opened: socket.socket) -> None:
        """Take what came to one of the LAN's sockets."""
        lan, responder = self._lan, self._responder
        for data, client, to_group in lan.receive(opened):
            if data.startswith(b"NOTIFY"):  # a LAN is full of them; those of pods come elsewhere
                continue
            self.count += 1
            if not lan.may_answer(client):
                responder.dropped[SsdpDrop.SOURCE_NOT_UNICAST] += 1
            elif refusal := responder.refusal(client[0], monotonic()):
                responder.dropped[refusal] += 1
            elif not lan.leads_to(client[0]):
                responder.dropped[SsdpDrop.SOURCE_NOT_ALLOWED] += 1
            elif asked := responder.search_arrived(data, client, to_group):
                self.ask(asked)

    def ask(self, asked: AskPods) -> None:
        """Send a client's search to all pods."""
        dropped = self._responder.dropped
        if len(self._sockets) >= self._most:  # the oldest has most of its answers
            self._end(next(iter(self._sockets)))
            dropped[SsdpDrop.TOO_MANY_SEARCHES] += 1
        try:
            opened = self._pods.open_socket()
        except OSError:  # as many files are open as may be
            dropped[SsdpDrop.TOO_MANY_SEARCHES] += 1
            return
        search, loop = asked.search, asyncio.get_running_loop()
        self._sockets[search] = opened
        loop.add_reader(opened, self._take_answers, search, opened)
        self._timers[search] = [
            loop.call_later(random.uniform(0, min(_PREPARED, search.mx)), self._answer_for_pods, search, False),
            loop.call_later(_GIVEN_UP * max(search.mx, 1), self._answer_for_pods, search, True),
            loop.call_later(search.mx + MARGIN, self._end, search),
        ]
        if not self._pods.ask(opened, asked.data):
            dropped[SsdpDrop.NOT_SENT] += 1

    def close(self) -> None:
        """End all."""
        for search in list(self._sockets):
            self._end(search)

    def _take_answers(self, search: OpenSearch, opened: socket.socket) -> None:
        for data, host, interface in receive(opened):
            # What only names a pod as its source does not take that one's turns.
            if host in search.pods and self._lan.may_come_from(host, interface):
                self._carry_out(self._responder.answer_arrived(search, host, data, monotonic()))
            else:
                self._responder.dropped[SsdpDrop.NOT_ASKED] += 1

    def _answer_for_pods(self, search: OpenSearch, is_late: bool) -> None:
        self._carry_out(self._responder.answers_due(search, is_late, monotonic()))

    def _end(self, search: OpenSearch) -> None:
        for timer in self._timers.pop(search):
            timer.cancel()
        opened = self._sockets.pop(search)
        asyncio.get_running_loop().remove_reader(opened)
        opened.close()
