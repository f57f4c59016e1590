"""Decides what is said on the LAN, to whom and when: events in, actions out. Pure.

Each event is a method: a search arrived, a pod answered, announced itself or was described, the pods of the Service
changed, the LAN was opened or lost, a port was opened or not, time passed. It returns the actions, which the relay
carries out in this order. Which devices are known is in `registry`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fanout.acl import Acl, Network
from fanout.ssdp.core import message, urls
from fanout.ssdp.core.announcer import Announce, Announcer, Log
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, InvalidSsdp, Notify, NotifyKind, Search
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.registry import Announcement, Registry

LIMIT = 100.0
"""Searches a second of one client that are answered."""
LIMIT_OF_ALL = 500.0
"""The same of all clients: sources can be forged, and each search brings its source some ten answers."""
_BURST, _BURST_OF_ALL = 10.0, 4.0  # seconds' worth of searches at once
MX_UNICAST = 1
"""Seconds for a search to the relay alone that has no MX (UDA 1.1, 1.3.2)."""
ANSWERS_MAX = 128
"""Answers of one pod to one search that are read: a device has some ten adverts, a few have tens."""
BYTES_MAX = 1 << 18
"""Bytes that a client is sent for one search, which it may never have sent: its address may be forged."""
POD_BYTES_MAX = 1 << 15
"""The part of them for one pod: an answer of a real device has some 400 bytes."""
_LINES_MAX = 64
"""Log lines of one kind, each about another subject."""


@dataclass(slots=True, eq=False)
class OpenSearch:
    """A client's search for one target, while it is answered."""

    client: tuple[str, int]
    target: str
    mx: int
    """Seconds within which pods answer."""
    pods: frozenset[str]
    """Addresses of the pods that are searched."""
    datagram: bytes
    """The search, as it goes to the pods."""
    _arrived: Counter[str] = field(default_factory=Counter)
    """Answers of each pod, valid or not."""
    _sent: set[int] = field(default_factory=set)
    """Hashes of the answers that the client was sent; not the texts, which strangers write and may be long."""
    _bytes: Counter[str] = field(default_factory=Counter)
    """Bytes that the client was sent for each pod."""

    def parse(self, pod: str, data: bytes) -> Advert:
        """Return the answer of a pod; raise `InvalidSsdp` if it does not answer this search, or is one too many."""
        self._arrived[pod] += 1
        if self._arrived[pod] > ANSWERS_MAX:
            raise InvalidSsdp(SsdpDrop.NOT_ASKED, f"it has answered {ANSWERS_MAX} times")
        advert = message.parse_answer(data)
        if not message.matches(self.target, advert.nt, advert.usn):  # the port may have been another search's before
            raise InvalidSsdp(SsdpDrop.NOT_ASKED, f"it does not answer a search for {self.target}")
        return advert

    def has_sent(self, answer: Advert) -> bool:
        """Whether the client was sent that answer (`message.as_asked`)."""
        return _key(answer) in self._sent

    def may_send(self, pod: str, answer: Advert, size: int) -> bool:
        """Whether the client may be sent an answer of `size` bytes for a pod; if so, it counts as sent."""
        if self._bytes[pod] + size > POD_BYTES_MAX or self._bytes.total() + size > BYTES_MAX:
            return False
        self._bytes[pod] += size
        self._sent.add(_key(answer))
        return True


def _key(answer: Advert) -> int:
    """Return what distinguishes an answer: a pod with several addresses answers once for each of them."""
    return hash((answer.usn.lower(), answer.nt.lower(), answer.location))


class SearchReply(NamedTuple):
    """Send a datagram to a client that searches."""

    data: bytes
    client: tuple[str, int]


class OpenPort(NamedTuple):
    """Listen on an HTTP port, and report the result (`Responder.port_opened`); always the last action."""

    port: int


class LearnName(NamedTuple):
    """Read the name of a device in its description, unless it is known."""

    pod: str
    udn: str
    url: str


Action = Announce | SearchReply | OpenPort | LearnName | Log


class _Answer(NamedTuple):
    """An answer of a pod, for a client."""

    search: OpenSearch
    pod: str
    advert: Advert
    """As it answers the search (`message.as_asked`); its LOCATION still leads to the pod."""


class Responder:
    """Decides which searches are answered, with which LOCATION, and what is announced when. Not thread-safe.

    Only `allowed` networks are answered; `jitter` returns random numbers from 0 to 1.
    """

    def __init__(self, ports: range, allowed: Sequence[Network], jitter: Callable[[], float]) -> None:
        self.dropped: Counter[SsdpDrop] = Counter()
        self.foreign: int = 0
        """LOCATIONs that name another host than the pod."""
        self.hosts: frozenset[str] = frozenset()
        """Addresses of the pods of the Service."""
        self.known: set[str] = set()
        """Those that have announced or described a device, or answered."""
        self.port_map: PortMap = PortMap(ports[0], ports[-1])
        self.announcer: Announcer = Announcer()
        self._registry = Registry(self.dropped, jitter)
        self._jitter = jitter
        self._acl = Acl(allowed, LIMIT, _BURST)
        self._limit_of_all = Acl((), LIMIT_OF_ALL, _BURST_OF_ALL)
        self._address = ""
        """The relay's address on the LAN, the last one that it had."""
        self._is_on_lan = False
        self._open_ports: set[int] = set()
        """The relay listens on each of them until it ends."""
        self._pending: deque[Announcement | LearnName | _Answer] = deque()
        """What is still to be sent or read; some of it waits for a port to be opened."""
        self._logged: dict[str, set[str]] = defaultdict(set)
        """The subjects of the logged lines, by kind."""

    def refusal(self, client: str, now: float) -> SsdpDrop | None:
        """Return why a search of that address is not answered; None where it is, which counts it."""
        if refusal := self._acl.refusal(client, now):
            return SsdpDrop(refusal)
        return SsdpDrop.TOO_MANY_SEARCHES if self._limit_of_all.refusal("", now) else None

    def search_arrived(self, data: bytes, client: tuple[str, int], to_group: bool) -> OpenSearch | None:
        """Take what a client has sent, to the group or to the relay alone; return the search to send to the pods."""
        try:
            search = message.parse(data)
        except InvalidSsdp as error:
            self.dropped[error.reason] += 1
            return None
        if not isinstance(search, Search):
            self.dropped[SsdpDrop.NOT_ASKED] += 1
        elif to_group and search.mx is None:
            self.dropped[SsdpDrop.NO_MX] += 1
        elif not self.hosts:
            self.dropped[SsdpDrop.NO_ENDPOINTS] += 1
        else:
            mx = MX_UNICAST if search.mx is None else search.mx
            datagram = message.search(search.target, max(1, mx), search.headers)
            return OpenSearch(client, search.target, mx, self.hosts, datagram)
        return None

    def answer_arrived(self, search: OpenSearch, pod: str, data: bytes, now: float) -> list[Action]:
        """Take what a pod has sent in answer to a client's search."""
        try:
            advert = search.parse(pod, data)
        except InvalidSsdp as error:
            self.dropped[error.reason] += 1
            return []
        answer = _Answer(search, pod, message.as_asked(advert, search.target))
        if pod in self.hosts:
            self._heard(pod, advert, now)
        if self._registry.is_owner(pod, advert.udn):
            self._pending.append(answer)
        else:
            self.dropped[SsdpDrop.UDN_TAKEN] += 1
        return self._say(now)

    def answers_due(self, search: OpenSearch, is_late: bool, now: float) -> list[Action]:
        """Answer for the pods that take no searches; when `is_late`, for all that have not answered."""
        pods = None if is_late else [pod for pod in self.hosts if not self._registry.speaks(pod)]
        answers = self._registry.answers(search.target, pods)
        # In any order, as from the pods themselves: some clients (nmap) take only the first answer of a host.
        turns = {pod: self._jitter() for pod, _ in answers}
        for pod, advert in sorted(answers, key=lambda answer: turns[answer[0]]):
            self._pending.append(_Answer(search, pod, message.as_asked(advert, search.target)))
        return self._say(now)

    def pod_answered(self, pod: str, data: bytes, now: float) -> list[Action]:
        """Take what a pod has sent in answer to the relay's own search for everything."""
        try:
            advert = message.parse_answer(data)
        except InvalidSsdp as error:
            self.dropped[error.reason] += 1
            return []
        if pod in self.hosts:
            self._heard(pod, advert, now)
        return self._say(now)

    def pod_announced(self, pod: str, data: bytes, now: float) -> list[Action]:
        """Take what was sent to the group on a network of pods, with that source."""
        if pod not in self.hosts:
            return []
        try:
            notify = message.parse(data)
        except InvalidSsdp as error:
            self.dropped[error.reason] += 1
            return []
        if not isinstance(notify, Notify):
            return []
        if notify.kind is NotifyKind.ALIVE:
            self._heard(pod, notify.advert, now)
        elif notify.kind is NotifyKind.UPDATE:
            self._pending.extend(self._registry.updated(pod, notify.advert, now))
        else:
            self._pending.extend(self._registry.left(pod, notify.advert, now))
        return self._say(now)

    def description_read(self, pod: str, adverts: Collection[Advert], now: float) -> list[Action]:
        """Take all adverts that follow from a description of a pod."""
        if pod in self.hosts:
            self.known.add(pod)
            self._pending.extend(self._registry.described(pod, adverts, now))
        return self._say(now)

    def pods_changed(self, hosts: frozenset[str], now: float) -> list[Action]:
        """Take which pods the Service has now."""
        gone, self.hosts = self.hosts - hosts, hosts
        self.known -= gone
        for host in gone:
            self.port_map.gone(host)
        self._pending.extend(self._registry.pods(hosts, now))
        return self._say(now)

    def lan_opened(self, address: str, now: float) -> list[Action]:
        """Announce all devices at the relay's new address on the LAN."""
        before, self._address, self._is_on_lan = self._address, address, True
        kinds = [NotifyKind.ALIVE]
        if before not in ("", address):  # players would keep the old address
            kinds.insert(0, NotifyKind.BYEBYE)
        everything = self._registry.answers(message.ALL, None)
        self._pending.extend(Announcement(kind, pod, advert) for kind in kinds for pod, advert in everything)
        return self._say(now)

    def lan_lost(self) -> None:
        """Answer nobody for now."""
        self._is_on_lan = False

    def port_opened(self, port: int, is_open: bool, now: float) -> list[Action]:
        """Record that the relay listens on an HTTP port until it ends, or cannot: another program may have it."""
        if is_open:
            self._open_ports.add(port)
        else:
            self.port_map.refuse(port)
        return self._say(now)

    def time_passed(self, now: float) -> list[Action]:
        """Return the actions that are due; call it some ten times a second."""
        actions: list[Action] = [*self.announcer.repeats(now)]
        for udn, pod, owner in self._registry.take_conflicts():
            values = {"udn": udn, "host": pod, "owner": owner}
            text = "%(host)s has the identity of %(owner)s, %(udn)s: it is announced when that one has gone"
            actions.append(Log("warning", f"udn_taken: {text}", values))
        self._pending.extend(self._registry.due(now))
        actions += self._say(now)
        if self.announcer.has_changed:
            self.announcer.update(self._registry.devices, self.port_map)
        return actions

    def farewell(self, now: float) -> list[Action]:
        """Revoke everything, and announce nothing from now on: the relay ends."""
        self._pending.extend(self._registry.farewell())
        return self._say(now)

    def _heard(self, pod: str, advert: Advert, now: float) -> None:
        """Take an advert that a pod itself has sent."""
        self.known.add(pod)
        self._pending.extend(self._registry.heard(pod, advert, now))
        is_root = advert.nt == message.ROOT_DEVICE
        if is_root and self._registry.is_owner(pod, advert.udn) and urls.at(pod, advert.location):
            self._pending.append(LearnName(pod, advert.udn, advert.location))

    def _say(self, now: float) -> list[Action]:
        """Return the actions for what is pending, up to the first that needs a port to be opened."""
        actions: list[Action] = []
        while self._pending:
            pending = self._pending[0]
            if isinstance(pending, LearnName):
                actions.append(pending)
            elif isinstance(pending, _Answer):
                self._answer(pending, actions)
            else:
                self._announce(pending, now, actions)
            if actions and isinstance(actions[-1], OpenPort):
                break
            self._pending.popleft()
        return actions

    def _answer(self, answer: _Answer, actions: list[Action]) -> None:
        search, pod, advert = answer
        located = None if search.has_sent(advert) else self._located(pod, advert, actions)
        if located is None or not self._is_on_lan:
            return
        data = message.answer(located, search.target)
        if search.may_send(pod, advert, len(data)):
            actions.append(SearchReply(data, search.client))
        else:
            self.dropped[SsdpDrop.NOT_ASKED] += 1

    def _announce(self, announcement: Announcement, now: float, actions: list[Action]) -> None:
        self.announcer.has_changed = True
        kind, pod, advert = announcement
        if kind is not NotifyKind.BYEBYE:
            located = self._located(pod, advert, actions)
        else:
            located = advert if self.announcer.is_alive(advert) else None
        if located is not None:
            actions += self.announcer.announce(kind, pod, located, now)

    def _located(self, pod: str, advert: Advert, actions: list[Action]) -> Advert | None:
        """Return an advert with a LOCATION of the relay; None where no port is left, or one must be opened first.

        A LOCATION of another host than the pod stays as it is.
        """
        url = urls.at(pod, advert.location)
        if url is None:
            self.foreign += 1
            values = {"udn": advert.udn, "host": pod, "location": advert.location}
            text = "%(udn)s of %(host)s says that it is found at %(location)s, which is not that address"
            self._log(f"location_foreign: {text}: passed on unchanged", values, advert.location, actions)
            return advert
        port = self.port_map.claim(url.origin, advert.udn)
        if port is None:
            self.dropped[SsdpDrop.NO_PORT] += 1
            reason = "all HTTP ports are taken: give more (--http-ports)"
            values = {"udn": advert.udn, "host": pod, "reason": reason}
            self._log("no_http_port: %(udn)s of %(host)s is not announced: %(reason)s", values, advert.udn, actions)
        elif port in self._open_ports:
            return replace(advert, location=f"http://{self._address}:{port}{url.path}")
        else:
            actions.append(OpenPort(port))
        return None

    def _log(self, text: str, values: dict[str, str], about: str, actions: list[Action]) -> None:
        """Log a line once for each subject, and at most `_LINES_MAX` lines of a kind."""
        logged = self._logged[text]
        if about not in logged and len(logged) < _LINES_MAX:
            logged.add(about)
            actions.append(Log("warning", text, values))
