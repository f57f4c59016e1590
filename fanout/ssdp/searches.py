"""Searches under way: a socket of its own for each, so that no client gets what another asked for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.net import pktinfo, sockaddr
from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import DATAGRAM_MAX, Advert, InvalidSsdp, Search, SearchResponse

_TURN = 32
"""Datagrams that one socket may give before it is another's turn."""


class PodDatagram(NamedTuple):
    """What came back."""

    data: bytes
    host: str
    interface: int
    """The number of the interface that it came by; 0 where the system does not tell."""


def open_socket(pods: Collection[Endpoint]) -> socket.socket:
    """Return a non-blocking UDP socket that can send to all of them. Raises OSError."""
    is_ipv6 = any(":" in pod.host for pod in pods)
    opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    if is_ipv6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    pktinfo.tell_destinations(opened, True)
    return opened


def ask(opened: socket.socket, data: bytes, pods: Collection[Endpoint]) -> int:
    """Send a question to each pod; return to how many the kernel did not take it."""
    failed = 0
    for host, port in pods:
        address = sockaddr.mapped(host) if opened.family == socket.AF_INET6 else host
        try:
            opened.sendto(data, (address, port))
        except OSError:
            failed += 1
    return failed


def receive(opened: socket.socket) -> list[PodDatagram]:
    """Return what waits, as much as a turn holds."""
    replies = []
    with contextlib.suppress(OSError):
        for _ in range(_TURN):
            # One byte more than may be: larger ones are known by that.
            data, control, _, source = opened.recvmsg(DATAGRAM_MAX + 1, pktinfo.SPACE)
            replies.append(PodDatagram(data, sockaddr.plain(source[0]), pktinfo.interface(control)))
    return replies


def answers(
    opened: socket.socket, is_genuine: Callable[[str, int], bool], drop: Callable[[SsdpDrop], None]
) -> Iterator[tuple[str, Advert]]:
    """Yield what pods answered: a pod's address, and what it has.

    `is_genuine` says whether what names that source, and came by the interface of that number, is an answer of a pod
    that was asked; what is not, or cannot be read, is told to `drop`.
    """
    for data, host, interface in receive(opened):
        if not is_genuine(host, interface):
            drop(SsdpDrop.NOT_ASKED)
            continue
        try:
            answer = message.parse(data)
        except InvalidSsdp as error:
            drop(error.reason)
            continue
        if isinstance(answer, SearchResponse):
            yield host, answer.advert
        else:
            drop(SsdpDrop.NOT_ASKED)


SESSIONS_MAX = 2048
MARGIN = 1.5
"""Seconds that a search lives longer than its MX: answers are under way, and late."""
MX_UNICAST = 1
"""Seconds, where a search to the relay alone names none (UDA 1.1, 1.3.2)."""
_GIVEN_UP = 0.8
"""The part of MX after which a pod that should have answered, and has not, is answered for."""
_PREPARED = 0.1
"""Seconds within which is answered what needs no pod, so that not all comes at once."""
ANSWERS_MAX = 128
"""Answers of one pod to one search that are looked at: a device has some ten adverts, or tens."""
BYTES_MAX = 1 << 18
"""What one search may bring its client, who may be none that asked: its address may be forged."""
POD_BYTES_MAX = 1 << 15
"""Of that, what one pod may bring: what a real device answers has some 400 bytes."""


@dataclass(slots=True, eq=False)
class OpenSearch:
    """A client's search for one target, until its answers are in."""

    client: tuple[str, int]
    target: str
    socket: socket.socket
    pods: frozenset[str]
    """Addresses of those that were asked."""
    answers: Counter[str] = field(default_factory=Counter)
    """How many each pod has sent, lies included."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    _told: set[int] = field(default_factory=set)
    _bytes: Counter[str] = field(default_factory=Counter)

    def has_told(self, advert: Advert) -> bool:
        """Whether the client has been told of it."""
        return self._key(advert) in self._told

    def may_tell(self, pod: str, advert: Advert, size: int) -> bool:
        """Whether the client may be told of a pod's advert in so many bytes; if so, it counts as told."""
        if self._bytes[pod] + size > POD_BYTES_MAX or self._bytes.total() + size > BYTES_MAX:
            return False
        self._bytes[pod] += size
        self._told.add(self._key(advert))
        return True

    def _key(self, advert: Advert) -> int:
        """Return what makes an answer another one: what a pod with many addresses says at each of them is not the same.

        A hash alone is kept: the texts are a stranger's, and may be long.
        """
        asked = message.as_asked(advert, self.target)
        return hash((asked.usn.lower(), asked.nt.lower(), asked.location))


class Searches:
    """Asks pods for clients. `heard` is called with each answer, `missing` when the client should be told the rest.

    `is_genuine` says whether what names a pod as its source, and came by that interface (its number), is the pod's.
    """

    def __init__(
        self,
        heard: Callable[[OpenSearch, str, Advert], None],
        missing: Callable[[OpenSearch, bool], None],
        is_genuine: Callable[[str, int], bool],
        drop: Callable[[SsdpDrop], None],
    ) -> None:
        self._is_genuine = is_genuine
        self._heard = heard
        self._missing = missing
        self._drop = drop
        self._sessions: dict[OpenSearch, None] = {}
        """The oldest first."""
        # A search takes a file; half of those that may be open are for what is played.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = SESSIONS_MAX if files == resource.RLIM_INFINITY else min(SESSIONS_MAX, files // 2)

    def __len__(self) -> int:
        return len(self._sessions)

    def ask(self, client: tuple[str, int], search: Search, pods: Collection[Endpoint]) -> None:
        """Ask all pods for a client. Raises OSError."""
        if len(self._sessions) >= self._most:  # the oldest has most of its answers
            self._end(next(iter(self._sessions)))
            self._drop(SsdpDrop.TOO_MANY_SEARCHES)
        mx = MX_UNICAST if search.mx is None else min(search.mx, message.MX_MAX)
        session = OpenSearch(client, search.target, open_socket(pods), frozenset(pod.host for pod in pods))
        self._sessions[session] = None
        asyncio.get_running_loop().add_reader(session.socket, self._readable, session)
        self._schedule(session, mx)
        if ask(session.socket, message.search(search.target, max(1, mx), search.headers), pods):
            self._drop(SsdpDrop.NOT_SENT)

    def _schedule(self, session: OpenSearch, mx: int) -> None:
        loop = asyncio.get_running_loop()
        session.timers = [
            loop.call_later(random.uniform(0, min(_PREPARED, mx)), self._missing, session, False),
            loop.call_later(_GIVEN_UP * max(mx, 1), self._missing, session, True),
            loop.call_later(mx + MARGIN, self._end, session),
        ]

    def _readable(self, session: OpenSearch) -> None:
        def is_genuine(host: str, interface: int) -> bool:
            if host not in session.pods or not self._is_genuine(host, interface):
                return False  # what only names a pod as its source does not take that one's turns
            session.answers[host] += 1
            return session.answers[host] <= ANSWERS_MAX

        for host, advert in answers(session.socket, is_genuine, self._drop):
            # The port may have been another search's before.
            if message.matches(session.target, advert.nt, advert.usn):
                self._heard(session, host, advert)
            else:
                self._drop(SsdpDrop.NOT_ASKED)

    def _end(self, session: OpenSearch) -> None:
        for timer in session.timers:
            timer.cancel()
        del self._sessions[session]
        asyncio.get_running_loop().remove_reader(session.socket)
        session.socket.close()

    def close(self) -> None:
        """End all."""
        for session in list(self._sessions):
            self._end(session)
