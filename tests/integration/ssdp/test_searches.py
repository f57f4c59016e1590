"""Searches under way, with pods that are sockets on loopback."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator

import pytest

from fanout.model import Endpoint
from fanout.ssdp import searches
from fanout.ssdp.core import message, responder
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, Headers, InvalidSsdp, Search
from fanout.ssdp.core.responder import Action, OpenSearch, Responder
from fanout.ssdp.lan import Lan
from fanout.ssdp.searches import Searches
from tests.support.event_loops import run_scripted
from tests.support.needs import require_address
from tests.support.open_files import open_files
from tests.support.waiting import PATIENCE, until_async

CLIENT = ("192.168.1.5", 40_000)
ROOT = message.ROOT_DEVICE
LOOPBACK = socket.if_nametoindex("lo")
FORGED = "127.0.0.13"


class Heard(Responder):
    """Keeps what `Searches` tells."""

    def __init__(self) -> None:
        super().__init__(range(28_200, 28_232), (), lambda: 0.5)
        self.answers: list[tuple[tuple[str, int], str, str]] = []
        self.missing: list[tuple[tuple[str, int], bool]] = []
        self.sessions = Searches(self, PodNetwork("lan0", ()), lambda actions: None)

    def ask(self, client: tuple[str, int], search: Search, pods: list[Endpoint]) -> None:
        """Let a client search these pods."""
        self.pods_changed(frozenset(pod.host for pod in pods), 0)
        self.sessions.follow(pods)
        data = message.search(search.target, search.mx or 0, search.headers)
        if search.mx is None:
            data = data.replace(b"MX: 0\r\n", b"")
        asked = self.search_arrived(data, client, to_group=False)
        assert asked is not None
        self.sessions.ask(asked)

    def answer_arrived(self, search: OpenSearch, pod: str, data: bytes, now: float) -> list[Action]:
        try:
            self.answers.append((search.client, pod, search.parse(pod, data).usn))
        except InvalidSsdp as error:
            self.dropped[error.reason] += 1
        return []

    def answers_due(self, search: OpenSearch, is_late: bool, now: float) -> list[Action]:
        self.missing.append((search.client, is_late))
        return []


class PodNetwork(Lan):
    """What came by loopback is the pods', but for what one of them is not the source of."""

    def may_come_from(self, host: str, interface: int) -> bool:
        return interface == LOOPBACK and host != FORGED


@pytest.fixture
def pods() -> Iterator[list[socket.socket]]:
    opened = []
    for number in (11, 12):
        pod = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        pod.bind((f"127.0.0.{number}", 0))
        pod.settimeout(PATIENCE)
        opened.append(pod)
    yield opened
    for pod in opened:
        pod.close()


def endpoints(pods: list[socket.socket]) -> list[Endpoint]:
    return [Endpoint(*pod.getsockname()) for pod in pods]


def answer(uuid: str, target: str = ROOT) -> bytes:
    return message.answer(Advert(target, f"uuid:{uuid}::{target}", "http://127.0.0.11:8200/d.xml"), target)


def test_each_search_has_a_socket_of_its_own_and_gets_its_own_answers(pods: list[socket.socket]) -> None:
    async def run() -> None:
        heard = Heard()
        clients = [("192.168.1.5", 40_000 + number) for number in range(20)]
        try:
            for client in clients:
                heard.ask(client, Search(f"uuid:{client[1]}", 1), endpoints(pods))
            assert len(heard.sessions) == 20
            sources = set()
            for pod in pods:
                for _ in clients:
                    data, source = pod.recvfrom(4096)
                    sources.add(source[1])
                    search = message.parse(data)
                    assert isinstance(search, Search)
                    assert search.mx == 1
                    pod.sendto(answer(search.target.removeprefix("uuid:"), search.target), source)
            assert len(sources) == 20
            await until_async(lambda: len(heard.answers) == 40)
            assert sorted(heard.answers) == sorted(
                (client, pod.getsockname()[0], f"uuid:{client[1]}::uuid:{client[1]}")
                for client in clients
                for pod in pods
            )
            assert heard.dropped == {}
        finally:
            heard.sessions.close()

    asyncio.run(run())


def test_what_was_not_asked_is_dropped_with_a_reason(pods: list[socket.socket]) -> None:
    async def run() -> None:
        heard = Heard()
        asked, stranger = pods
        try:
            heard.ask(CLIENT, Search(ROOT, 1), [*endpoints([asked]), Endpoint(FORGED, 9)])
            _, source = asked.recvfrom(4096)
            stranger.sendto(answer("a"), source)  # no pod that was asked
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
                forger.bind((FORGED, 0))
                forger.sendto(answer("a"), source)  # it came by another way than a pod's
            asked.sendto(answer("a", "urn:schemas-upnp-org:service:ContentDirectory:1"), source)  # another's question
            asked.sendto(message.search(ROOT, 1), source)  # no answer
            asked.sendto(b"HTTP/1.1 200 OK\r\n\r\n", source)
            asked.sendto(bytes(4097), source)
            asked.sendto(b"\0", source)
            asked.sendto(answer("b"), source)
            await until_async(lambda: heard.answers)
            assert heard.answers == [(CLIENT, "127.0.0.11", f"uuid:b::{ROOT}")]
            assert heard.dropped == {
                SsdpDrop.NOT_ASKED: 4,
                SsdpDrop.MALFORMED: 1,
                SsdpDrop.OVERSIZED: 1,
                SsdpDrop.NOT_SSDP: 1,
            }
        finally:
            heard.sessions.close()

    asyncio.run(run())


def test_a_pod_that_answers_without_end_is_cut_off(pods: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "ANSWERS_MAX", 3)

    async def run() -> None:
        heard = Heard()
        try:
            heard.ask(CLIENT, Search(ROOT, 1), endpoints(pods))
            _, source = pods[0].recvfrom(4096)
            for _ in range(10):
                pods[0].sendto(answer("a"), source)
            await until_async(lambda: heard.dropped[SsdpDrop.NOT_ASKED] == 7)
            assert len(heard.answers) == 3
            pods[1].sendto(answer("b"), source)
            await until_async(lambda: len(heard.answers) == 4)
        finally:
            heard.sessions.close()

    asyncio.run(run())


def advert(number: int = 0, *, nt: str = ROOT, location: str = "http://127.0.0.11:8200/d.xml") -> Advert:
    return Advert(nt, f"uuid:{number}::{nt}", location)


def session(target: str = ROOT) -> OpenSearch:
    return OpenSearch(CLIENT, target, 1, frozenset({"127.0.0.11"}), b"")


def test_what_a_client_was_sent_is_not_sent_again() -> None:
    asked = session()
    assert not asked.has_sent(advert())
    assert asked.may_send("127.0.0.11", advert(), 400)
    assert asked.has_sent(advert())
    assert asked.has_sent(Advert(ROOT, f"UUID:0::{ROOT}", advert().location, max_age=60))
    assert not asked.has_sent(advert(1))
    assert not asked.has_sent(advert(location="http://127.0.0.11:9000/d.xml")), "it is found elsewhere, too"
    first, second = (f"urn:schemas-upnp-org:device:MediaServer:{version}" for version in (1, 2))
    asked = session(first)
    assert asked.may_send("127.0.0.11", advert(nt=first), 400)
    assert asked.has_sent(message.as_asked(advert(nt=second), first)), "it is sent as the version that was asked for"
    asked = session(message.ALL)
    assert asked.may_send("127.0.0.11", advert(nt=first), 400)
    assert not asked.has_sent(message.as_asked(advert(nt=second), message.ALL))
    assert not asked.has_sent(advert())


def test_a_search_brings_its_client_no_more_than_may_be() -> None:
    asked = session()
    sent = sum(asked.may_send("127.0.0.11", advert(number), 400) for number in range(1000))
    assert sent == responder.POD_BYTES_MAX // 400
    assert asked.has_sent(advert(sent - 1))
    assert not asked.has_sent(advert(sent)), "what was not sent does not count as sent"
    assert asked.may_send("127.0.0.12", advert(5000), 400), "others have a share of their own"
    for pod in range(100):
        for number in range(10):
            asked.may_send(f"10.0.0.{pod}", advert(number), 4096)
    most = responder.BYTES_MAX
    assert most - 4096 < asked._bytes.total() <= most


def test_it_is_over_soon_after_mx_and_leaves_nothing(pods: list[socket.socket]) -> None:
    async def run() -> None:
        heard = Heard()
        before = open_files()
        loop = asyncio.get_running_loop()
        heard.ask(CLIENT, Search(ROOT, 1), endpoints(pods))
        heard.ask(CLIENT, Search(ROOT, None), endpoints(pods))  # sent to the relay alone, without MX
        await until_async(lambda: len(heard.sessions) == 0)
        assert 1 + searches.MARGIN <= loop.time() < 1.2 + searches.MARGIN
        assert heard.missing == [(CLIENT, False), (CLIENT, False), (CLIENT, True), (CLIENT, True)]
        assert open_files() == before

    run_scripted(run())


def test_where_there_are_as_many_as_may_be_the_oldest_makes_room(
    pods: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "SEARCHES_MAX", 3)

    async def run() -> None:
        heard = Heard()
        clients = [("192.168.1.5", 40_000 + number) for number in range(5)]
        for client in clients:
            heard.ask(client, Search(ROOT, 5), endpoints(pods))
        assert len(heard.sessions) == 3
        for _ in clients:
            _, source = pods[0].recvfrom(4096)
            pods[0].sendto(answer("a"), source)
        await until_async(lambda: len(heard.answers) == 3)
        assert sorted(client for client, _, _ in heard.answers) == clients[2:]
        assert heard.dropped == {SsdpDrop.TOO_MANY_SEARCHES: 2}
        heard.sessions.close()
        assert len(heard.sessions) == 0

    asyncio.run(run())


def test_they_leave_half_of_the_files_to_others(pods: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))

    async def run() -> None:
        heard = Heard()
        for _ in range(60):
            heard.ask(CLIENT, Search(ROOT, 5), endpoints(pods))
        assert len(heard.sessions) == 50
        heard.sessions.close()

    asyncio.run(run())


def test_pods_of_both_families_are_asked() -> None:
    require_address("::1")

    async def run() -> None:
        heard = Heard()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        ):
            four.bind(("127.0.0.11", 0))
            six.bind(("::1", 0))
            both = [Endpoint("127.0.0.11", four.getsockname()[1]), Endpoint("::1", six.getsockname()[1])]
            heard.ask(CLIENT, Search(ROOT, 1, Headers((("USER-AGENT", "x/1"),))), both)
            for pod in (four, six):
                pod.settimeout(PATIENCE)
                data, source = pod.recvfrom(4096)
                assert b"USER-AGENT: x/1\r\n" in data
                pod.sendto(answer("a"), source)
            await until_async(lambda: len(heard.answers) == 2)
            assert {host for _, host, _ in heard.answers} == {"127.0.0.11", "::1"}
            heard.sessions.close()

    asyncio.run(run())
