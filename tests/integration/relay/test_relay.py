"""The relay on this machine's loopback: real sockets on both sides."""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fanout import (
    Closed,
    Endpoint,
    Ingress,
    InvalidIngress,
    InvalidInput,
    Relay,
    RelayDrop,
    ResolverUnavailable,
    SocketUnavailable,
)
from fanout.discovery.core import endpoints
from fanout.discovery.core.answer import DnsAnswer
from fanout.model import parse_literals
from fanout.net import interfaces
from fanout.relay import relay as relaying
from fanout.relay.core import loop_guard
from fanout.testing import ScriptedResolver
from tests.support.open_files import open_files
from tests.support.pods import Pod
from tests.support.ports import free_port, free_ports
from tests.support.waiting import PATIENCE, until

Pods = Callable[..., list[Pod]]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay may take long to forward what it holds at its end, and knows loops however long they take."""
    monkeypatch.setattr(relaying, "_STOP_FORWARD", 3600)
    monkeypatch.setattr(loop_guard, "LOOP_SECONDS", 3600)


@contextlib.contextmanager
def serving(relay: Relay) -> Iterator[Relay]:
    """Let the relay forward in a thread of its own; an error of it is the test's."""
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            relay.serve()
        except BaseException as error:
            raised.append(error)

    relay.open()
    thread = threading.Thread(target=serve, name="fanout-relay")
    thread.start()
    try:
        until(lambda: relay.waiting is None or not thread.is_alive())
        yield relay
    finally:
        relay.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        if raised:
            raise raised[0]


@contextlib.contextmanager
def device(port: int, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """What sends to an ingress."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((host, port))
        yield sender


def named(pods: list[Pod]) -> str:
    return ",".join(str(pod.endpoint) for pod in pods)


def test_datagrams_reach_every_pod_byte_for_byte_and_in_order(pods: Pods, closed_port: int) -> None:
    three = pods(3)
    chance = random.Random(5)
    sizes = [0, 1, 2, 65_507, 1400, 1400, 1400, 0, 700, 700, 699, 700, 30_000, 30_000, 30_000, *([64] * 100)]
    payloads = [chance.randbytes(size) for size in sizes]
    with serving(Relay(named(three), [f"udp://127.0.0.1:{closed_port}"])) as relay, device(closed_port) as sender:
        for payload in payloads:
            sender.send(payload)
        for pod in three:
            assert [pod.receive() for _ in payloads] == payloads
    (ingress,) = relay.stats.ingresses
    assert (ingress.datagrams, ingress.forwarded, ingress.dropped) == (len(sizes), len(sizes), {})
    assert ingress.bytes == sum(sizes)
    assert relay.stats.sent == 3 * len(sizes)
    assert [(pod.host, pod.sent, pod.bytes) for pod in relay.stats.pods] == [
        (pod.endpoint.host, len(sizes), sum(sizes)) for pod in three
    ]


def test_each_port_of_a_range_goes_to_its_own_port() -> None:
    first = free_ports(6)[0]
    with contextlib.ExitStack() as stack:
        pods = [Pod("127.0.0.11", first + step) for step in range(3)]
        for pod in pods:
            stack.callback(pod.socket.close)
        url = f"udp://127.0.0.9:{first + 3}-{first + 5}"
        stack.enter_context(serving(Relay("127.0.0.11", [url], to_port=first)))
        for step, pod in enumerate(pods):
            with device(first + 3 + step, "127.0.0.9") as sender:
                sender.send(b"step %d" % step)
            assert pod.receive() == b"step %d" % step


class Changing:
    """Answers with what the Service has now."""

    def __init__(self, pods: str) -> None:
        self.pods = pods

    def resolve(self) -> DnsAnswer:
        return DnsAnswer(parse_literals(self.pods) or (), dns_ttl=0)


def test_pods_follow_the_answers_of_dns(pods: Pods, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "TTL_MIN", 0.01)
    monkeypatch.setattr(relaying, "_CHECK", 0.01)
    two = pods(2)
    port = two[0].endpoint.port
    resolver = Changing("127.0.0.11,")
    ingress = Ingress.parse(f"udp://127.0.0.1:{closed_port}", service="headless-udp", to_port=port)
    relay = Relay(ingresses=[ingress], find_resolver=lambda service: resolver)
    with serving(relay), device(closed_port) as sender:
        sender.send(b"one")
        assert two[0].receive() == b"one"
        assert [pod.host for pod in relay.stats.pods] == ["127.0.0.11"]
        resolver.pods = "127.0.0.11,127.0.0.12"
        until(lambda: len(relay.stats.pods) == 2)
        sender.send(b"two")
        assert [pod.receive() for pod in two] == [b"two", b"two"]


def test_what_comes_while_there_is_no_pod_is_counted(closed_port: int) -> None:
    resolver = ScriptedResolver("")
    relay = Relay("headless-udp", [f"udp://127.0.0.1:{closed_port}"], find_resolver=lambda service: resolver)
    relay.open()
    with device(closed_port) as sender:
        for _ in range(3):
            sender.send(b"for nobody")
        with serving(relay):
            until(lambda: relay.stats.ingresses[0].datagrams == 3)
    assert relay.stats.ingresses[0].dropped == {RelayDrop.NO_ENDPOINTS: 3}
    assert relay.stats.ingresses[0].forwarded == 0


def test_stopping_forwards_what_the_kernel_holds(pods: Pods, closed_port: int) -> None:
    (pod,) = pods(1)
    relay = Relay(f"{pod.endpoint},", [f"udp://127.0.0.1:{closed_port}"]).open()
    with device(closed_port) as sender:
        for number in range(300):
            sender.send(b"%d" % number)
    relay.stop()
    relay.serve()
    with pytest.raises(Closed):
        relay.serve()
    assert pod.waiting() == [b"%d" % number for number in range(300)]


def test_a_flood_takes_turns_with_the_others(pods: Pods, closed_port: int) -> None:
    (pod,) = pods(1)
    urls = [f"udp://127.0.0.1:{closed_port}", f"udp://127.0.0.2:{closed_port}"]
    over = threading.Event()

    def flood() -> None:
        with device(closed_port) as sender:
            while not over.is_set():
                sender.send(bytes(1000))

    with serving(Relay(f"{pod.endpoint},", urls)) as relay, device(closed_port, "127.0.0.2") as sender:
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            until(lambda: relay.stats.ingresses[0].datagrams > 1000)
            for number in range(200):
                sender.send(b"%d" % number)
            until(lambda: relay.stats.ingresses[1].forwarded == 200)
        finally:
            over.set()
            flooding.join()
    assert relay.stats.ingresses[1].dropped == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"allow_source": ["10.0.0.0/8"]}, RelayDrop.SOURCE_NOT_ALLOWED),
        ({"limit": 0.001}, RelayDrop.OVER_LIMIT),
    ],
)
def test_refused_sources_are_counted(pods: Pods, closed_port: int, options: dict[str, Any], reason: RelayDrop) -> None:
    (pod,) = pods(1)
    with serving(Relay(f"{pod.endpoint},", [f"udp://127.0.0.1:{closed_port}"], **options)) as relay:
        with device(closed_port) as sender:
            for _ in range(5):
                sender.send(b"x")
        until(lambda: relay.stats.ingresses[0].datagrams == 5)
    passed = 1 if reason is RelayDrop.OVER_LIMIT else 0
    assert relay.stats.ingresses[0].dropped == {reason: 5 - passed}
    assert len(pod.waiting()) == passed


def test_an_ingress_that_dns_names_as_a_pod_gets_no_copy(
    pods: Pods, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = ScriptedResolver("127.0.0.1,127.0.0.11")
    ingress = f"udp://127.0.0.1:{closed_port}"
    with serving(Relay("headless-udp", [ingress], find_resolver=lambda service: resolver)) as relay:
        with device(closed_port) as sender:
            sender.send(b"x")
        until(lambda: relay.stats.ingresses[0].forwarded == 1)
    assert (relay.stats.ingresses[0].datagrams, relay.stats.sent) == (1, 1)
    assert f"endpoint_is_ingress: 127.0.0.1:{closed_port}" in caplog.text


def test_a_relay_to_itself_is_refused(closed_port: int) -> None:
    relay = Relay("127.0.0.1", [f"udp://0.0.0.0:{closed_port}"])
    with pytest.raises(InvalidIngress, match=r"is this relay itself: .*\(--to-port, to_port\)"):
        relay.open()


def test_two_relays_that_feed_each_other_forward_each_datagram_once(pods: Pods, closed_port: int) -> None:
    (pod,) = pods(1)
    there = ("127.0.0.5", "127.0.0.6")
    relays = [
        Relay(f"{other}:{closed_port},{pod.endpoint}", [f"udp://{own}:{closed_port}"], loop_guard=True)
        for own, other in (there, there[::-1])
    ]
    with serving(relays[0]), serving(relays[1]), device(closed_port, there[0]) as sender:
        for number in range(100):
            sender.send(b"%d" % number)
        until(lambda: relays[0].stats.ingresses[0].datagrams == 200)
    assert [relay.stats.ingresses[0].forwarded for relay in relays] == [100, 100]
    assert relays[0].stats.ingresses[0].dropped == {RelayDrop.LOOP: 100}
    assert len(pod.waiting()) == 200


def test_an_interface_that_never_appears_ends_it_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "_CHECK", 0.01)
    relay = Relay("10.0.0.1", ["mcast://239.1.1.1:5001@nowhere0"], interface_timeout=0.1)
    with pytest.raises(SocketUnavailable, match=r"mcast://239.1.1.1:5001@nowhere0: there is no interface nowhere0"):
        relay.serve()
    assert relay.waiting is not None


def test_a_port_in_use_is_said_of_the_ingress(pods: Pods) -> None:
    (taken,) = pods(1)
    relay = Relay("10.0.0.1", [f"udp://{taken.endpoint}"])
    with pytest.raises(SocketUnavailable, match=f"ingress udp://{taken.endpoint}: .*the port is in use"):
        relay.open()


def test_an_address_that_nobody_has_here() -> None:
    with pytest.raises(SocketUnavailable, match="no interface of this machine has that address"):
        Relay("10.0.0.1", ["udp://198.51.100.7:5004"]).open()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("10.0.0.1", []), "a relay must have at least one ingress"),
        (("", ["udp://:1"]), "Service name must be a string that is not empty"),
        (("a b", ["nonsense"]), "ingress 'nonsense'"),
        (("10.0.0.1", "udp://:1"), "a list of URLs"),
        (("10.0.0.1", ["udp://:1"], {"allow_source": "10.0.0.0/8"}), "a list of networks"),
        (
            ("10.0.0.1", ["udp://:1"], {"receive_buffer": 0}),
            "receive_buffer must be a number of bytes of at least 1; got 0",
        ),
        (("10.0.0.1", ["udp://:1"], {"receive_buffer": "4M"}), "receive_buffer must be .*; got '4M'"),
        (("10.0.0.1", ["udp://:1"], {"receive_buffer": True}), "receive_buffer must be .*; got True"),
        (
            ("10.0.0.1", ["udp://:1"], {"interface_timeout": "x"}),
            "interface_timeout must be a number of seconds of at least 0; got 'x'",
        ),
        (("10.0.0.1", ["udp://:1"], {"interface_timeout": float("nan")}), "interface_timeout must be .*; got nan"),
    ],
)
def test_nonsense_is_refused_before_anything_is_opened(arguments: tuple[Any, ...], says: str) -> None:
    service, urls, *rest = arguments
    with pytest.raises(InvalidInput, match=says):
        Relay(service, urls, **(rest[0] if rest else {}))


def test_a_buffer_beyond_all_measure_is_as_large_as_may_be() -> None:
    first = free_ports(2)[0]
    with Relay("10.0.0.1", [f"udp://127.0.0.1:{first}-{first + 1}"], receive_buffer=2**40):
        pass


def test_leaving_it_while_another_thread_serves_waits_for_that(pods: Pods, closed_port: int) -> None:
    (pod,) = pods(1)
    raised: list[BaseException] = []

    def serve(relay: Relay) -> None:
        try:
            relay.serve()
        except BaseException as error:
            raised.append(error)

    for _ in range(20):
        with Relay(f"{pod.endpoint},", [f"udp://127.0.0.1:{closed_port}"]) as relay:
            thread = threading.Thread(target=serve, args=(relay,))
            thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [error for error in raised if not isinstance(error, Closed)] == []


def test_one_thread_serves(pods: Pods, closed_port: int) -> None:
    (pod,) = pods(1)
    with serving(Relay(f"{pod.endpoint},", [f"udp://127.0.0.1:{closed_port}"])) as relay:
        until(lambda: relay.silence > 0)
        with pytest.raises(InvalidInput, match="already served by another thread"):
            relay.serve()


def test_out_of_open_files_it_says_so_and_gives_all_back() -> None:
    first = free_ports(10)[0]
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        fileno = last.fileno()
    for more in range(8):
        relay = Relay("10.0.0.1", [f"udp://127.0.0.1:{first}-{first + 9}"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (fileno + more, hard))
        try:
            with pytest.raises(SocketUnavailable, match="ulimit -n"):
                relay.open()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with pytest.raises(Closed):
            relay.open()
    assert open_files() == before


def test_what_comes_before_dns_has_said_anything_is_counted_at_the_end(
    closed_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "_STOP_WAIT", 0.1)
    asked = threading.Event()

    class Silent:
        def resolve(self) -> DnsAnswer:
            asked.wait(PATIENCE)
            raise ResolverUnavailable("silent")

    relay = Relay("headless-udp", [f"udp://127.0.0.1:{closed_port}"], find_resolver=lambda service: Silent()).open()
    with device(closed_port) as sender:
        for _ in range(10):
            sender.send(b"x")
    relay.stop()
    relay.serve()
    asked.set()
    assert "service_unresolved" in caplog.text
    assert relay.stats.ingresses[0].dropped == {RelayDrop.NO_ENDPOINTS: 10}


def test_nothing_is_left_open(pods: Pods, closed_port: int) -> None:
    (pod,) = pods(1)
    assert interfaces.index("lo")  # the one socket that interfaces are asked of by
    before = open_files()
    for _ in range(3):
        with serving(
            Relay(f"{pod.endpoint},", [f"udp://127.0.0.1:{closed_port}", f"mcast://239.1.1.1:{free_port()}@lo"])
        ):
            pass
        with Relay(f"{pod.endpoint},", [f"udp://127.0.0.1:{closed_port}"]):
            pass
    assert open_files() == before


def test_it_says_what_it_is(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fanout")
    relay = Relay("10.0.0.1", [f"udp://127.0.0.1:{closed_port}", f"mcast://239.1.1.1:{closed_port}@lo"])
    assert repr(relay).endswith(": not opened>")
    with serving(relay):
        assert repr(relay).endswith(": forwards>")
    assert repr(relay).endswith(": closed>")
    assert f"mcast://239.1.1.1:{closed_port}@lo joined 239.1.1.1 on lo (127.0.0.1)" in caplog.text


def test_a_pod_that_is_gone_costs_the_others_nothing(pods: Pods, closed_port: int) -> None:
    one, other = pods(2)
    gone = Endpoint("127.0.0.13", one.endpoint.port)
    with serving(Relay(f"{one.endpoint},{gone},{other.endpoint}", [f"udp://127.0.0.1:{closed_port}"])) as relay:
        with device(closed_port) as sender:
            for number in range(50):
                sender.send(b"%d" % number)
                assert one.receive() == other.receive() == b"%d" % number
        until(lambda: relay.stats.refused > 0)
    refused = {pod.host: pod.refused for pod in relay.stats.pods}
    assert refused[gone.host] > 0
    assert refused[one.endpoint.host] == refused[other.endpoint.host] == 0
