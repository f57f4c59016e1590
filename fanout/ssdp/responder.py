"""The LAN's side of a search: who is heard, and what is answered, by pods or for them."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from time import monotonic

from fanout.model import Endpoint
from fanout.relay.core.acl import Acl
from fanout.relay.core.ingress import Network
from fanout.ssdp.announcer import Announcer
from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, InvalidSsdp, Search
from fanout.ssdp.core.registry import Registry
from fanout.ssdp.lan import Lan
from fanout.ssdp.searches import OpenSearch, Searches

LIMIT = 100.0
"""Searches a second of one client that are answered."""
LIMIT_OF_ALL = 500.0
"""The same of all together: sources are forged, and each search brings some ten answers to whoever is named."""
_BURST, _BURST_OF_ALL = 10.0, 4.0  # seconds' worth of them at once


class Responder:
    """Answers those who search. `told` is called with what a pod answered, before its client has it."""

    def __init__(
        self,
        lan: Lan,
        allowed: Sequence[Network],
        registry: Registry,
        announcer: Announcer,
        told: Callable[[str, Advert], None],
        drop: Callable[[SsdpDrop], None],
    ) -> None:
        self.searches = 0
        """Datagrams that came, but for announcements."""
        self.answers = 0
        """Answers that were sent."""
        self.pods: tuple[Endpoint, ...] = ()
        """Those that are asked."""
        self._lan = lan
        self._acl = Acl(allowed, LIMIT, _BURST)
        self._guard_of_all = Acl((), LIMIT_OF_ALL, _BURST_OF_ALL)
        self._registry = registry
        self._announcer = announcer
        self._told = told
        self._drop = drop
        self._sessions = Searches(self._answered, self._tell_rest, lan.may_come_from, drop)

    @property
    def waiting(self) -> int:
        """Searches under way."""
        return len(self._sessions)

    def arrived(self, opened: socket.socket) -> None:
        """Take what came to one of the LAN's sockets."""
        for data, client, to_group in self._lan.receive(opened):
            if data.startswith(b"NOTIFY"):  # a LAN is full of them; pods are heard where they are
                continue
            self.searches += 1
            if reason := self._take(data, client, to_group):
                self._drop(reason)

    def close(self) -> None:
        """Answer nobody any more."""
        self._sessions.close()

    def _take(self, data: bytes, client: tuple[str, int], to_group: bool) -> SsdpDrop | None:
        """Have pods asked for a client; return why not, where it is not done."""
        if not self._lan.may_answer(client):
            return SsdpDrop.SOURCE_NOT_UNICAST
        now = monotonic()
        if refusal := self._acl.refusal(client[0], now):
            return SsdpDrop(refusal.value)
        if self._guard_of_all.refusal("", now):
            return SsdpDrop.TOO_MANY_SEARCHES
        if not self._lan.leads_to(client[0]):
            return SsdpDrop.SOURCE_NOT_ALLOWED
        try:
            search = message.parse(data)
        except InvalidSsdp as error:
            return error.reason
        if not isinstance(search, Search):
            return SsdpDrop.NOT_ASKED
        if to_group and search.mx is None:
            return SsdpDrop.NO_MX
        if not self.pods:
            return SsdpDrop.NO_ENDPOINTS
        try:
            self._sessions.ask(client, search, self.pods)
        except OSError:  # as many files are open as may be
            return SsdpDrop.TOO_MANY_SEARCHES
        return None

    def _answered(self, session: OpenSearch, host: str, advert: Advert) -> None:
        """Pass a pod's answer on to the client that searched."""
        self._told(host, advert)
        if self._registry.is_owner(host, advert.udn):
            self._tell(session, host, advert)
        else:
            self._drop(SsdpDrop.UDN_TAKEN)

    def _tell_rest(self, session: OpenSearch, is_late: bool) -> None:
        """Answer for pods that take no searches; when it is late, for all that have not answered."""
        pods = None if is_late else [pod.host for pod in self.pods if not self._registry.speaks(pod.host)]
        answers = self._registry.answers(session.target, pods)
        # As they would come from the pods themselves: some clients (nmap) take of one host no more than the first.
        turns = {pod: random.random() for pod, _ in answers}
        for pod, advert in sorted(answers, key=lambda answer: turns[answer[0]]):
            self._tell(session, pod, advert)

    def _tell(self, session: OpenSearch, pod: str, advert: Advert) -> None:
        located = None if session.has_told(advert) else self._announcer.located(pod, advert)
        if located is None or not self._lan.is_open:
            return
        data = message.answer(located, session.target)
        if not session.may_tell(pod, advert, len(data)):
            self._drop(SsdpDrop.NOT_ASKED)
        elif self._lan.send(data, session.client):
            self.answers += 1
        else:
            self._drop(SsdpDrop.NOT_SENT)
