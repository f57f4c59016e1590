"""What the relay finds out of pods: real HTTP servers and sockets on loopback, which tell the truth or lie."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Collection

import pytest

from fanout.model import Endpoint
from fanout.ssdp import pod_monitor
from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert
from fanout.ssdp.core.responder import Action, LearnName, Responder
from fanout.ssdp.core.settings import DescriptionPlace
from fanout.ssdp.lan import Lan
from fanout.ssdp.pod_monitor import PodMonitor
from fanout.ssdp.searches import PodAddresses
from tests.support.ssdp_http import OTHER_POD, POD, Asked, Serve
from tests.support.ssdp_http import Pod as HttpPod
from tests.support.waiting import PATIENCE, give_turns, until_async

LOOPBACK = socket.if_nametoindex("lo")
DESCRIPTION = b"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType>
<friendlyName>films</friendlyName><UDN>uuid:1</UDN><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType></service></serviceList></device></root>"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A description may take as long as the machine does."""
    monkeypatch.setattr(pod_monitor, "READ_TIMEOUT", PATIENCE)


class Found(Responder):
    """Keeps what `PodMonitor` finds."""

    def __init__(self) -> None:
        super().__init__(range(28_200, 28_232), (), lambda: 0.5)
        self.adverts: list[tuple[str, Advert, bool]] = []

    def pod_answered(self, pod: str, data: bytes, now: float) -> list[Action]:
        before = self.dropped.copy()
        done = super().pod_answered(pod, data, now)
        if self.dropped == before:
            self.adverts.append((pod, message.parse_answer(data), False))
            self.known.add(pod)
        return done

    def description_read(self, pod: str, adverts: Collection[Advert], now: float) -> list[Action]:
        self.adverts += [(pod, advert, True) for advert in adverts]
        self.known.add(pod)
        return super().description_read(pod, adverts, now)


class PodNetwork(Lan):
    """What came by loopback is the pods'."""

    def may_come_from(self, host: str, interface: int) -> bool:
        return interface == LOOPBACK


@contextlib.asynccontextmanager
async def looking(found: Found, *descriptions: DescriptionPlace) -> AsyncIterator[PodMonitor]:
    looked = PodMonitor(descriptions, found, PodNetwork("lan0", ()), lambda actions: None)
    try:
        yield looked
    finally:
        await looked.close()


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def serve(answer: bytes) -> Serve:
    async def reply(_asked: Asked) -> bytes:
        return answer

    return reply


def test_a_description_tells_of_its_devices() -> None:
    async def run() -> None:
        found = Found()
        async with HttpPod(serve(http(DESCRIPTION, "Server: Linux UPnP/1.0 films/1"))) as pod:
            async with looking(found, DescriptionPlace(pod.port, "/rootDesc.xml")) as looked:
                looked.follow([Endpoint(POD, 9)])
                await until_async(lambda: found.adverts)
                assert looked.names == {(POD, "uuid:1"): "films"}
            assert pod.asked[0].path == "/rootDesc.xml"
            # Jellyfin does not answer a program without a name and a version.
            assert "/" in pod.asked[0].headers["User-Agent"]
        assert {advert.nt for _, advert, _ in found.adverts} == {
            "upnp:rootdevice",
            "uuid:1",
            "urn:schemas-upnp-org:device:MediaServer:1",
            "urn:schemas-upnp-org:service:ContentDirectory:1",
        }
        for host, advert, is_description in found.adverts:
            assert (host, is_description) == (POD, True)
            assert advert.location == f"http://{POD}:{pod.port}/rootDesc.xml"
            assert advert.headers.get("server") == "Linux UPnP/1.0 films/1"
            assert b"LOCATION" in message.answer(advert, advert.nt)

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        http(b"gone", status="404 Not Found"),
        http(b"", "Location: http://127.0.0.66:1/", status="302 Found"),
        http(b"<root"),
        http(b"\0" * 100),
        http(DESCRIPTION, "Content-Encoding: gzip"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n<root>",
        http(b"<root>" + b" " * (2 << 20)),
        http(gzip.compress(b"<root>" + b" " * (64 << 20)), "Content-Encoding: gzip"),
        b"",
    ],
    ids=["404", "redirect", "cut", "zeros", "no gzip", "no http", "short", "large", "bomb", "nothing"],
)
def test_what_is_no_description_is_asked_for_again(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_monitor, "_RETRY_MIN", 0.01)

    async def run() -> None:
        found = Found()
        async with (
            HttpPod(serve(answer)) as pod,
            looking(found, DescriptionPlace(pod.port, "/d.xml")) as looked,
        ):
            looked.follow([Endpoint(POD, 9)])
            await until_async(lambda: len(pod.asked) >= 2)
            assert found.adverts == []
            pod.serve = serve(http(gzip.compress(DESCRIPTION), "Content-Encoding: gzip"))
            await until_async(lambda: found.adverts)

    asyncio.run(run())


def test_a_pod_that_says_nothing_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_asked: Asked) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def run() -> None:
        found = Found()
        async with (
            HttpPod(silent) as dumb,
            HttpPod(serve(http(DESCRIPTION)), "127.0.0.12") as pod,
            looking(found, DescriptionPlace(dumb.port, "/a"), DescriptionPlace(pod.port, "/b")) as looked,
        ):
            looked.follow([Endpoint(POD, 9), Endpoint("127.0.0.12", 9)])
            await until_async(lambda: found.adverts)
            assert {host for host, _, _ in found.adverts} == {"127.0.0.12"}

    asyncio.run(run())


def test_a_pod_that_answers_a_search_is_heard_and_nobody_else() -> None:
    async def run() -> None:
        found = Found()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        ):
            pod.bind((POD, 0))
            pod.settimeout(PATIENCE)
            stranger.bind(("127.0.0.66", 0))
            async with looking(found) as looked:
                looked.follow([Endpoint(*pod.getsockname())])
                await give_turns()
                data, source = await asyncio.to_thread(pod.recvfrom, 4096)
                assert message.parse(data) == message.parse(message.search(message.ALL, 1))
                advert = Advert(message.ROOT_DEVICE, "uuid:1::upnp:rootdevice", f"http://{POD}:1/d.xml")
                stranger.sendto(message.answer(advert, advert.nt), source)
                pod.sendto(b"\0", source)
                pod.sendto(message.answer(advert, advert.nt), source)
                await until_async(lambda: found.adverts)
                (told,) = found.adverts
                assert (told[0], told[1].usn, told[2]) == (POD, advert.usn, False)
                assert found.dropped == {SsdpDrop.NOT_ASKED: 1, SsdpDrop.NOT_SSDP: 1}

    asyncio.run(run())


def test_a_name_is_read_once_and_a_pod_that_left_is_asked_no_more() -> None:
    async def run() -> None:
        found = Found()
        async with HttpPod(serve(http(DESCRIPTION))) as pod, looking(found) as looked:
            looked.follow([Endpoint(POD, 9)])
            for _ in range(5):
                looked.learn_name(LearnName(POD, "uuid:1", f"http://{POD}:{pod.port}/d.xml"))
            await until_async(lambda: looked.names.get((POD, "uuid:1")) == "films")
            assert len(pod.asked) == 1
            assert found.adverts == []
            looked.follow([])
            await until_async(lambda: len(asyncio.all_tasks()) <= 1 + len(pod._tasks), "nobody looks after it")
            assert looked.names == {}

    asyncio.run(run())


def test_a_pod_names_no_device_but_its_own() -> None:
    async def run() -> None:
        found = Found()
        async with HttpPod(serve(http(DESCRIPTION))) as pod, looking(found) as looked:
            looked.follow([Endpoint(POD, 9), Endpoint(OTHER_POD, 9)])
            url = f"http://{POD}:{pod.port}/d.xml"
            looked.learn_name(LearnName(OTHER_POD, "uuid:1", f"http://{OTHER_POD}:{pod.port}/d.xml"))
            looked.learn_name(LearnName(POD, "uuid:2", url))
            looked.learn_name(LearnName(POD, "uuid:1", url))
            await until_async(lambda: not looked._learning)
            assert looked.names == {(OTHER_POD, "uuid:1"): "", (POD, "uuid:2"): "", (POD, "uuid:1"): "films"}
            for number in range(200):
                looked.learn_name(LearnName(POD, f"uuid:{number}", url))
                await until_async(lambda: not looked._learning)
            assert len(looked.names) == 1 + pod_monitor.NAMES_MAX

    asyncio.run(run())


def test_a_name_is_that_of_an_advert_with_capitals() -> None:
    async def run() -> None:
        found = Found()
        body = DESCRIPTION.replace(b"uuid:1", b"uuid:ABCD")
        async with (
            HttpPod(serve(http(body))) as pod,
            looking(found, DescriptionPlace(pod.port, "/d.xml")) as looked,
        ):
            looked.follow([Endpoint(POD, 9)])
            await until_async(lambda: found.adverts)
            assert {looked.names[host, advert.udn] for host, advert, _ in found.adverts} == {"films"}
            assert found.adverts[0][1].usn == "uuid:ABCD::upnp:rootdevice"

    asyncio.run(run())


def test_a_pod_does_not_fill_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_monitor, "_RETRY_MIN", 0.01)

    async def run() -> None:
        found = Found()
        async with (
            HttpPod(serve(http(b"no XML"))) as pod,
            looking(found, DescriptionPlace(pod.port, "/place")) as looked,
        ):
            looked.follow([Endpoint(POD, 9)])
            for number in range(50):
                looked.learn_name(LearnName(POD, f"uuid:{number}", f"http://{POD}:{pod.port}/{number}"))
                await until_async(lambda: not looked._learning)
            await until_async(lambda: [each.path for each in pod.asked].count("/place") > 2)
            assert len(looked._logged) == 2
            looked.follow([])
            assert not looked._logged

    asyncio.run(run())
    said = [record.getMessage().partition(": it is")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert sum(line.endswith("/place") for line in said) == 1


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("a mistake")])
def test_a_pod_that_cannot_be_asked_is_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_monitor, "_RETRY_MAX", 0.01)
    fails = iter([True, True, False])

    class FailingAddresses(PodAddresses):
        def open_socket(self) -> socket.socket:
            if next(fails):
                raise error
            return super().open_socket()

    monkeypatch.setattr(pod_monitor, "PodAddresses", FailingAddresses)

    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
            pod.bind((POD, 0))
            pod.settimeout(PATIENCE)
            async with looking(Found()) as looked:
                looked.follow([Endpoint(*pod.getsockname())])
                await asyncio.to_thread(pod.recvfrom, 4096)

    asyncio.run(run())
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == f"pod_not_asked: cannot query {POD}, will retry: {type(error).__name__}: {error}"
