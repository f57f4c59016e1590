"""What is said on the LAN: actions of the responder, carried out on a LAN that keeps what is sent."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable

import pytest

from fanout.acl import parse_network
from fanout.ssdp.core import message, responder
from fanout.ssdp.core.announcer import AGAIN, Announce, Log
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import ROOT_DEVICE, Advert, Notify, NotifyKind
from fanout.ssdp.core.responder import Action, LearnName, OpenPort, Responder, SearchReply
from fanout.ssdp.core.stats import DeviceStats, HttpCounts
from fanout.ssdp.core.urls import Origin

POD, OTHER = "10.60.0.11", "10.60.0.12"
UDN = "uuid:1"
RELAY, CLIENT = "192.168.1.2", ("192.168.1.5", 40_000)
log = logging.getLogger("fanout")


class World:
    """A responder, and what carries out its actions."""

    def __init__(self, first: int = 28_200, last: int = 28_231) -> None:
        self.responder = Responder(range(first, last + 1), [parse_network("192.168.1.0/24")], lambda: 0.5)
        self.port_map = self.responder.port_map
        self.dropped = self.responder.dropped
        self.sent: list[bytes] = []
        self.replies: list[SearchReply] = []
        self.learned: list[LearnName] = []
        self.taken: set[int] = set()
        self.listened: list[int] = []
        self.do(self.responder.lan_opened(RELAY, 0))
        self.do(self.responder.pods_changed(frozenset({POD, OTHER}), 0))

    def do(self, actions: Iterable[Action]) -> None:
        pending = deque(actions)
        while pending:
            action = pending.popleft()
            if isinstance(action, Announce):
                self.sent.append(action.data)
            elif isinstance(action, SearchReply):
                self.replies.append(action)
            elif isinstance(action, OpenPort):
                assert not pending, "it is the last one"
                self.listened.append(action.port)
                pending.extend(self.responder.port_opened(action.port, action.port not in self.taken, 0))
            elif isinstance(action, Log):
                getattr(log, action.level)(action.message, action.values)
            else:
                self.learned.append(action)

    def hear(self, pod: str, location: str, udn: str = UDN, now: float = 0) -> None:
        advert = Advert(ROOT_DEVICE, f"{udn}::{ROOT_DEVICE}", location)
        self.do(self.responder.pod_answered(pod, message.answer(advert, ROOT_DEVICE), now))

    def pods(self, hosts: set[str], now: float) -> None:
        self.do(self.responder.pods_changed(frozenset(hosts), now))

    def pass_time(self, now: float) -> None:
        self.do(self.responder.time_passed(now))

    def devices(
        self, names: dict[tuple[str, str], str] | None = None, counts: HttpCounts | None = None
    ) -> list[DeviceStats]:
        """What is announced now."""
        self.pass_time(-math.inf)
        return self.responder.announcer.devices(names or {}, counts or HttpCounts())

    @property
    def said(self) -> list[tuple[NotifyKind, str]]:
        """What was sent, as its kinds and LOCATIONs; it is forgotten then."""
        said = []
        for data in self.sent:
            notify = message.parse(data)
            assert isinstance(notify, Notify)
            said.append((notify.kind, notify.advert.location))
        self.sent.clear()
        return said


def test_a_location_leads_to_the_relay_by_a_port_that_is_open() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/rootDesc.xml?x=1")
    port = world.port_map.known(Origin(POD, 8200))
    assert world.listened == [port]
    assert world.said == [(NotifyKind.ALIVE, f"http://192.168.1.2:{port}/rootDesc.xml?x=1")]
    (device,) = world.devices({(POD, UDN): "films"}, HttpCounts(requests={port or 0: 3}, bytes={port or 0: 5}))
    assert (device.udn, device.pod, device.name, device.requests, device.bytes) == (UDN, POD, "films", 3, 5)
    assert device.location == f"http://192.168.1.2:{port}/rootDesc.xml?x=1"


def test_ports_that_others_have_are_passed_over() -> None:
    world = World(100, 103)
    world.taken = {100, 101, 103}
    world.hear(POD, f"http://{POD}:8200/")
    assert world.said == [(NotifyKind.ALIVE, "http://192.168.1.2:102/")]


def test_without_a_port_a_device_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    world = World(100, 100)
    world.hear(POD, f"http://{POD}:8200/")
    with caplog.at_level(logging.WARNING, "fanout"):
        for now in (1, 2):
            world.hear(OTHER, f"http://{OTHER}:8200/{now}", "uuid:2", now)
    assert [where for _, where in world.said] == ["http://192.168.1.2:100/"]
    world.pods({POD}, 3)
    assert world.said == [], "what was never alive is not revoked"
    assert world.dropped[SsdpDrop.NO_PORT] >= 1
    assert [record.msg.partition(":")[0] for record in caplog.records] == ["no_http_port"]
    assert [device.pod for device in world.devices()] == [POD]


@pytest.mark.parametrize(
    "location",
    [
        "http://media-0.media:8200/d.xml",
        f"http://{OTHER}:8200/",
        "http://192.168.1.9:80/d.xml",
        "http://[fd00::1]:80/d.xml",
        "ftp://x/",
        "-",
    ],
)
def test_a_location_of_somebody_else_is_passed_on_and_counted(location: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.WARNING, "fanout"):
        world.hear(POD, location)
        world.hear(POD, location, "uuid:2")
    assert world.said == [(NotifyKind.ALIVE, location)] * 2
    assert world.responder.foreign == 2
    assert world.listened == []
    assert [record.msg.partition(":")[0] for record in caplog.records] == ["location_foreign"]


def test_what_is_said_is_said_again_and_of_each_only_the_last() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/")
    port = world.port_map.known(Origin(POD, 8200))
    world.pass_time(AGAIN / 2)
    assert len(world.said) == 1
    world.pods({OTHER}, AGAIN / 2)
    assert world.said == [(NotifyKind.BYEBYE, "")]
    world.pass_time(AGAIN)
    assert world.said == []
    world.pass_time(2 * AGAIN)
    assert world.said == [(NotifyKind.BYEBYE, "")]
    world.pass_time(math.inf)
    assert world.said == []
    assert world.responder.announcer.counts == {"ssdp:alive": 1, "ssdp:byebye": 1}
    assert port is not None
    assert world.devices() == []


def test_a_pod_that_restarted_elsewhere_keeps_its_location() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/")
    (first,) = world.said
    world.pods({OTHER}, 1)
    world.hear(OTHER, f"http://{OTHER}:8200/", now=2)
    assert world.said == [(NotifyKind.BYEBYE, ""), first]
    assert len(set(world.listened)) == 1


def search(world: World, target: str = ROOT_DEVICE, *, mx: int = 1) -> responder.OpenSearch:
    asked = world.responder.search_arrived(message.search(target, mx), CLIENT, True)
    assert asked is not None
    return asked


def answer(world: World, asked: responder.OpenSearch, pod: str, udn: str = UDN, now: float = 0) -> None:
    advert = Advert(ROOT_DEVICE, f"{udn}::{ROOT_DEVICE}", f"http://{pod}:8200/d.xml")
    world.do(world.responder.answer_arrived(asked, pod, message.answer(advert, ROOT_DEVICE), now))


def replied(world: World) -> list[tuple[str, str]]:
    """The UDNs and LOCATIONs that the client was sent; they are forgotten then."""
    found = []
    for data, client in world.replies:
        assert client == CLIENT
        advert = message.parse_answer(data)
        found.append((advert.udn, advert.location))
    world.replies.clear()
    return found


def test_a_search_is_asked_of_the_pods_and_their_answers_go_to_the_client_with_the_relays_location() -> None:
    world = World(100, 103)
    asked = world.responder.search_arrived(message.search(ROOT_DEVICE, 3), CLIENT, True)
    assert asked is not None
    assert asked.datagram == message.search(ROOT_DEVICE, 3)
    assert (asked.client, asked.mx, asked.pods) == (CLIENT, 3, frozenset({POD, OTHER}))
    answer(world, asked, POD)
    (port,) = world.listened
    assert replied(world) == [(UDN, f"http://{RELAY}:{port}/d.xml")]
    assert world.said == [(NotifyKind.ALIVE, f"http://{RELAY}:{port}/d.xml")]
    assert world.learned == [LearnName(POD, UDN, f"http://{POD}:8200/d.xml")]
    answer(world, asked, POD)
    assert replied(world) == [], "the client has it"
    answer(world, asked, OTHER)
    assert replied(world) == []
    assert world.dropped == {SsdpDrop.UDN_TAKEN: 2}, "when it came into the shadow, and now"


def test_an_answer_waits_for_a_port_that_can_be_had() -> None:
    world = World(100, 103)
    world.taken = {100, 101, 103}
    answer(world, search(world), POD)
    assert replied(world) == [(UDN, f"http://{RELAY}:102/d.xml")]
    world = World(100, 101)
    world.taken = {100, 101}
    answer(world, search(world), POD)
    assert replied(world) == []
    assert world.dropped[SsdpDrop.NO_PORT] == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0", SsdpDrop.NOT_SSDP),
        (message.search(ROOT_DEVICE, 1).replace(b"MX: 1\r\n", b""), SsdpDrop.NO_MX),
        (message.answer(Advert(ROOT_DEVICE, "uuid:1", "http://10.0.0.1/"), ROOT_DEVICE), SsdpDrop.NOT_ASKED),
    ],
)
def test_what_is_no_search_of_the_group_is_not_asked(data: bytes, reason: SsdpDrop) -> None:
    world = World()
    assert world.responder.search_arrived(data, CLIENT, True) is None
    assert world.dropped == {reason: 1}


def test_a_search_to_the_relay_alone_needs_no_mx_and_one_without_pods_is_not_asked() -> None:
    world = World()
    data = message.search(ROOT_DEVICE, 1).replace(b"MX: 1\r\n", b"")
    asked = world.responder.search_arrived(data, CLIENT, False)
    assert asked is not None
    assert asked.mx == 1
    world.pods(set(), 1)
    assert world.responder.search_arrived(data, CLIENT, False) is None
    assert world.dropped == {SsdpDrop.NO_ENDPOINTS: 1}


def test_who_is_not_allowed_or_searches_too_often_is_refused() -> None:
    world = World()
    assert world.responder.refusal("10.0.0.1", 0) is SsdpDrop.SOURCE_NOT_ALLOWED
    refusals = [world.responder.refusal(CLIENT[0], 0) for _ in range(1001)]
    assert refusals == [None] * 1000 + [SsdpDrop.OVER_LIMIT]
    others = [world.responder.refusal(f"192.168.1.{number % 200 + 10}", 0) for number in range(1001)]
    assert others == [None] * 1000 + [SsdpDrop.TOO_MANY_SEARCHES], "all together"


def test_for_pods_that_have_not_answered_is_answered_later() -> None:
    world = World()
    adverts = [Advert(ROOT_DEVICE, f"uuid:2::{ROOT_DEVICE}", f"http://{OTHER}:8200/d.xml")]
    world.do(world.responder.description_read(OTHER, adverts, 0))
    world.hear(POD, f"http://{POD}:8200/d.xml")
    asked = search(world)
    world.do(world.responder.answers_due(asked, False, 0))
    assert [udn for udn, _ in replied(world)] == ["uuid:2"], "the one that takes no search"
    world.do(world.responder.answers_due(asked, True, 1))
    assert [udn for udn, _ in replied(world)] == [UDN]


def test_nobody_is_answered_while_the_lan_is_lost_and_a_new_address_is_announced() -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/d.xml")
    (port,) = world.listened
    _ = world.said
    world.responder.lan_lost()
    asked = search(world)
    answer(world, asked, POD)
    assert replied(world) == []
    world.do(world.responder.lan_opened(RELAY, 1))
    assert world.said == [(NotifyKind.ALIVE, f"http://{RELAY}:{port}/d.xml")]
    answer(world, asked, POD)
    assert len(replied(world)) == 1, "it was not sent before"
    world.do(world.responder.lan_opened("192.168.1.3", 2))
    assert world.said == [(NotifyKind.BYEBYE, ""), (NotifyKind.ALIVE, f"http://192.168.1.3:{port}/d.xml")]


def test_a_client_is_sent_no_more_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "POD_BYTES_MAX", 300)
    world = World()
    asked = search(world)
    for number in range(3):
        answer(world, asked, POD, f"uuid:{number}")
    assert len(replied(world)) == 1
    assert world.dropped == {SsdpDrop.NOT_ASKED: 2}


def test_a_pod_is_heard_so_many_times_and_only_of_what_was_searched() -> None:
    world = World()
    asked = search(world, "urn:x")
    answer(world, asked, POD)
    assert replied(world) == []
    assert world.dropped == {SsdpDrop.NOT_ASKED: 1}, "it answers another search"
    asked = search(world)
    for number in range(responder.ANSWERS_MAX + 2):
        answer(world, asked, POD, f"uuid:{number}" if number in (0, responder.ANSWERS_MAX) else UDN)
    assert [udn for udn, _ in replied(world)] == ["uuid:0", UDN]
    assert world.dropped == {SsdpDrop.NOT_ASKED: 3}, "those that come after"


def test_the_description_of_what_is_no_pod_any_more_changes_nothing() -> None:
    world = World()
    world.pods({OTHER}, 1)
    adverts = [Advert(ROOT_DEVICE, f"{UDN}::{ROOT_DEVICE}", f"http://{POD}:8200/d.xml")]
    world.do(world.responder.description_read(POD, adverts, 1))
    assert (world.said, world.responder.known) == ([], set())


def test_what_is_no_answer_of_a_pod_is_dropped() -> None:
    world = World()
    asked = search(world, "upnp:rootdevice")
    for data in (b"\0", message.search(ROOT_DEVICE, 1)):
        world.do(world.responder.answer_arrived(asked, POD, data, 0))
        world.do(world.responder.pod_answered(POD, data, 0))
    assert world.dropped == {SsdpDrop.NOT_SSDP: 2, SsdpDrop.NOT_ASKED: 2}
    world.hear("10.60.0.99", "http://10.60.0.99:8200/")
    world.pods({OTHER}, 1)
    answer(world, asked, POD)
    assert (world.said, replied(world), world.responder.known) == ([], [], set()), "they are no pods of the Service"


def test_what_pods_announce_themselves_is_announced() -> None:
    world = World()
    advert = Advert(ROOT_DEVICE, f"{UDN}::{ROOT_DEVICE}", f"http://{POD}:8200/d.xml")

    def announce(pod: str, data: bytes, now: float) -> list[NotifyKind]:
        world.do(world.responder.pod_announced(pod, data, now))
        return [kind for kind, _ in world.said]

    assert announce("10.60.0.99", message.notify(NotifyKind.ALIVE, advert), 0) == []
    assert announce(POD, b"\0", 0) == []
    assert announce(POD, message.search(ROOT_DEVICE, 1), 0) == []
    assert world.dropped == {SsdpDrop.NOT_SSDP: 1}
    assert announce(POD, message.notify(NotifyKind.ALIVE, advert), 0) == [NotifyKind.ALIVE]
    assert announce(POD, message.notify(NotifyKind.UPDATE, advert), 5) == [NotifyKind.UPDATE]
    assert announce(POD, message.notify(NotifyKind.BYEBYE, advert), 6) == [NotifyKind.BYEBYE]


def test_a_taken_identity_is_logged_and_a_farewell_revokes_all(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.hear(POD, f"http://{POD}:8200/d.xml")
    world.hear(OTHER, f"http://{OTHER}:8200/d.xml")
    world.pass_time(0)
    assert f"udn_taken: {OTHER} has the identity of {POD}, {UDN}" in caplog.text
    _ = world.said
    world.do(world.responder.farewell(1))
    assert world.said == [(NotifyKind.BYEBYE, "")]
    world.pass_time(math.inf)
    assert world.said == [(NotifyKind.BYEBYE, "")]
    assert world.devices() == []
