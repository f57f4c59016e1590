"""Searches of the LAN: read from its sockets, sent to the pods, and ended when their time is over.

Each has a socket of its own towards the pods, so no client gets the answers to another's search. What sends a search to
pods and reads their answers serves other modules, too.
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
from fanout.ssdp.core.responder import Action, OpenSearch, Responder
from fanout.ssdp.lan import Lan

SEARCHES_MAX = 2048
"""Searches in progress."""
MARGIN = 1.5
"""Seconds that a search continues after its MX, for late answers."""
_GIVEN_UP = 0.8
"""The part of MX after which the relay answers for pods that have not answered."""
_PREPARED = 0.1
"""Seconds over which the relay spreads the answers for pods that take no searches."""
_TURN = 32
"""Datagrams that are read from one socket before the next has its turn."""

CarryOut = Callable[[Iterable[Action]], None]
"""Carries out the actions of the responder."""


class PodDatagram(NamedTuple):
    """A datagram with the source of a pod, which may be forged."""

    data: bytes
    host: str
    interface: int
    """The index of the interface that it arrived on; 0 where the system does not tell."""


class PodAddresses:
    """The addresses of pods as one socket takes them, which sends a search to all."""

    def __init__(self, pods: Collection[Endpoint]) -> None:
        self._family = socket.AF_INET6 if any(":" in pod.host for pod in pods) else socket.AF_INET
        is_ipv6 = self._family == socket.AF_INET6
        self._addresses = [(sockaddr.mapped(pod.host) if is_ipv6 else pod.host, pod.port) for pod in pods]

    def open_socket(self) -> socket.socket:
        """Return a non-blocking UDP socket that can send to all pods. Raises OSError."""
        opened = socket.socket(self._family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        if self._family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        pktinfo.report_destinations(opened, True)
        return opened

    def ask(self, opened: socket.socket, data: bytes) -> bool:
        """Send a search to each pod; return whether the kernel took every copy."""
        is_sent = True
        for address in self._addresses:
            try:
                opened.sendto(data, address)
            except OSError:
                is_sent = False
        return is_sent


def receive(opened: socket.socket) -> list[PodDatagram]:
    """Return the datagrams that wait at a socket of `PodAddresses`, up to a turn's worth."""
    is_ipv6 = opened.family == socket.AF_INET6
    datagrams = []
    with contextlib.suppress(OSError):
        for _ in range(_TURN):
            # One byte more than the limit, to detect larger ones.
            data, control, _, (host, *_) = opened.recvmsg(DATAGRAM_MAX + 1, pktinfo.SPACE)
            datagrams.append(PodDatagram(data, sockaddr.plain(host) if is_ipv6 else host, pktinfo.interface(control)))
    return datagrams


class Searches:
    """Passes the searches of clients and the answers of pods to the responder."""

    def __init__(self, responder: Responder, lan: Lan, carry_out: CarryOut) -> None:
        self.count: int = 0
        """Datagrams from the LAN other than announcements."""
        self.answers = 0
        """Answers sent to clients."""
        self._responder = responder
        self._lan = lan
        self._carry_out = carry_out
        self._pods = PodAddresses(())
        self._sockets: dict[OpenSearch, socket.socket] = {}
        """The oldest first."""
        self._timers: dict[OpenSearch, list[asyncio.TimerHandle]] = {}
        # A search takes a file; half of those that may be open are left for HTTP.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = SEARCHES_MAX if files == resource.RLIM_INFINITY else min(SEARCHES_MAX, files // 2)

    def __len__(self) -> int:
        return len(self._sockets)

    def follow(self, pods: Collection[Endpoint]) -> None:
        """Send searches to these pods from now on."""
        self._pods = PodAddresses(pods)

    def take_searches(self, opened: socket.socket) -> None:
        """Take the datagrams at one of the LAN's sockets."""
        lan, responder = self._lan, self._responder
        for data, client, to_group in lan.receive(opened):
            if data.startswith(b"NOTIFY"):  # a LAN is full of them; those of pods arrive elsewhere
                continue
            self.count += 1
            if not lan.may_answer(client):
                responder.dropped[SsdpDrop.SOURCE_NOT_UNICAST] += 1
            elif refusal := responder.refusal(client[0], monotonic()):
                responder.dropped[refusal] += 1
            elif not lan.leads_to(client[0]):
                responder.dropped[SsdpDrop.SOURCE_NOT_ALLOWED] += 1
            elif search := responder.search_arrived(data, client, to_group):
                self.ask(search)

    def ask(self, search: OpenSearch) -> None:
        """Send a client's search to all pods."""
        dropped = self._responder.dropped
        if len(self._sockets) >= self._most:  # the oldest has had most of its answers
            self._end(next(iter(self._sockets)))
            dropped[SsdpDrop.TOO_MANY_SEARCHES] += 1
        try:
            opened = self._pods.open_socket()
        except OSError:  # too many files are open
            dropped[SsdpDrop.TOO_MANY_SEARCHES] += 1
            return
        loop = asyncio.get_running_loop()
        self._sockets[search] = opened
        loop.add_reader(opened, self._take_answers, search, opened)
        self._timers[search] = [
            loop.call_later(random.uniform(0, min(_PREPARED, search.mx)), self._answer_for_pods, search, False),
            loop.call_later(_GIVEN_UP * max(search.mx, 1), self._answer_for_pods, search, True),
            loop.call_later(search.mx + MARGIN, self._end, search),
        ]
        if not self._pods.ask(opened, search.datagram):
            dropped[SsdpDrop.NOT_SENT] += 1

    def close(self) -> None:
        """End all searches."""
        for search in list(self._sockets):
            self._end(search)

    def _take_answers(self, search: OpenSearch, opened: socket.socket) -> None:
        for data, host, interface in receive(opened):
            # A datagram with a forged source must not count as one of the pod's answers.
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
