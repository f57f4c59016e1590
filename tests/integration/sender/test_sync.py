"""Both senders, over sockets and in memory: every case runs in both shells."""

from __future__ import annotations

import contextlib
import errno
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fanout
from fanout.model import Endpoint
from fanout.net.udp import UdpTransport
from fanout.report import DropReason
from fanout.sender.aio import AsyncSender
from fanout.sender.sync import Sender
from fanout.testing import MemoryTransport, ScriptedResolver
from tests.support.pods import Pod, literals
from tests.support.senders import A, B, C, LaterResolver, Shell, Stuck, full_socket, send_async, send_sync
from tests.support.waiting import until


def test_every_pod_gets_every_message(send: Shell, pods: Callable[..., list[Pod]]) -> None:
    made = pods(hosts=["127.0.0.11", "127.0.0.12", "::1"])
    report = send(literals(made), [b"%d" % number for number in range(100)])
    assert report.complete
    assert (report.messages, report.size, report.stale) == (100, 190, False)
    assert [outcome.sent for outcome in report.outcomes] == [100] * 3
    assert [pod.waiting(100) for pod in made] == [[b"%d" % number for number in range(100)]] * 3


def test_one_outcome_a_pod(send: Shell, pods: Callable[..., list[Pod]], refusing_port: int) -> None:
    (pod,) = pods(1)
    service = f"{pod.endpoint},127.255.255.255:9,127.0.0.1:{refusing_port}"
    # ICMP is heard a moment later, as a rule.
    report = until(lambda: report if (report := send(service, [b"x"], settle=0.01)).refused else None)
    assert [str(outcome.endpoint) for outcome in report.sent] == [str(pod.endpoint)]
    assert [outcome.endpoint.port for outcome in report.refused] == [refusing_port]
    assert [outcome.reason for outcome in report.dropped] == [DropReason.NOT_PERMITTED]
    assert pod.receive() == b"x"


def test_an_oversized_message_reaches_no_pod(send: Shell, pods: Callable[..., list[Pod]]) -> None:
    made = pods(2)
    with pytest.raises(fanout.MessageTooLarge):
        send(literals(made), [bytes(65_508)])
    with pytest.raises(fanout.InvalidInput):
        send(literals(made), "text")
    send(literals(made), [b"later"])
    assert [pod.waiting(1) for pod in made] == [[b"later"]] * 2


def test_what_came_before_a_bad_message_is_sent(send: Shell, pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    with pytest.raises(fanout.MessageTooLarge):
        send(str(pod.endpoint), [b"1", b"2", bytes(70_000), b"3"])
    send(str(pod.endpoint), [b"later"])
    assert pod.waiting(3) == [b"1", b"2", b"later"]


@pytest.mark.usefixtures("dns_is_asked_soon")
def test_no_endpoints_and_no_resolver(send: Shell) -> None:
    with pytest.raises(fanout.NoEndpoints):
        send("nosuch", [b"x"], resolver=ScriptedResolver(""))
    with pytest.raises(fanout.ResolverUnavailable):
        send("nosuch", [b"x"], resolver=ScriptedResolver(fanout.ResolverUnavailable("no")))


@pytest.mark.usefixtures("dns_is_asked_soon")
def test_a_stream_follows_the_pods(send: Shell) -> None:
    transport = MemoryTransport()
    resolver = LaterResolver(lambda: transport.sent, "10.0.0.1", "10.0.0.1,10.0.0.2")

    def payloads() -> Iterator[bytes]:
        yield b"first"
        until(lambda: resolver.asked >= 2)
        # The next answer is taken at any moment now.
        while transport.sent[-1][0] != B:
            yield b"later"

    report = send("headless-udp", payloads(), resolver=resolver, transport=transport)
    assert report.endpoints == (A, B)
    assert report.outcomes[0].sent == report.messages
    assert 1 <= report.outcomes[1].sent < report.messages
    assert transport.closed


@pytest.mark.usefixtures("dns_is_asked_soon")
def test_a_stale_answer_is_said_with_its_age(send: Shell, caplog: pytest.LogCaptureFixture) -> None:
    failure = fanout.ResolverUnavailable("timeout")
    transport = MemoryTransport()
    resolver = LaterResolver(lambda: transport.sent, "10.0.0.1", failure)

    def payloads() -> Iterator[bytes]:
        yield b"1"
        until(lambda: "resolver_failed" in caplog.text)
        yield b"2"

    report = send("headless-udp", payloads(), resolver=resolver, transport=transport)
    assert report.stale
    assert report.age >= 0.9 * 0.02
    assert report.complete


@given(
    room=st.lists(st.integers(0, 3), max_size=15),
    faults=st.dictionaries(st.sampled_from([A, B, C]), st.sampled_from([errno.EPERM, errno.ENOBUFS])),
    payloads=st.lists(st.binary(max_size=8), max_size=5),
    shell=st.sampled_from([send_sync, send_async]),
)
def test_each_pod_is_attempted_exactly_once_whatever_the_socket_does(
    room: list[int], faults: dict[Endpoint, int], payloads: list[bytes], shell: Shell
) -> None:
    transport = MemoryTransport(room=room, faults=faults)
    report = shell("10.0.0.1,10.0.0.2,10.0.0.3", payloads, transport=transport)
    assert sorted(transport.attempted) == sorted([A, B, C] * len(payloads))
    for endpoint in (A, B, C):
        assert transport.received(endpoint.host) == ([] if endpoint in faults else payloads)
    for outcome in report.outcomes:
        assert (outcome.sent, outcome.dropped) == (
            (0, len(payloads)) if outcome.endpoint in faults else (len(payloads), 0)
        )


def test_a_socket_that_stays_full_costs_only_the_copies_that_wait_for_it(
    send: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fanout.sender.engine.STALL", 0.05)
    with full_socket() as left:
        report = send("10.0.0.1,10.0.0.2,10.0.0.3", [b"x"], transport=Stuck(left.fileno()))
    assert [str(outcome.reason) for outcome in report.dropped] == ["no_buffer"]
    assert len(report.sent) == 2


def test_many_threads_share_a_sender(pods: Callable[..., list[Pod]], refusing_port: int) -> None:
    (pod,) = pods(1)
    refused: list[int] = []
    with Sender(f"{pod.endpoint},127.0.0.1:{refusing_port}") as sender:

        def work() -> None:
            for _ in range(50):
                refused.extend(outcome.refused for outcome in sender.send(b"x").outcomes)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        def all_refused() -> bool:
            refused.extend(outcome.refused for outcome in sender.send_many([]).refused)
            return sum(refused) >= 200

        until(all_refused, lambda: sum(refused))
        stats = sender.stats
    assert pod.waiting(200) == [b"x"] * 200
    assert sum(refused) == stats.refused == 200
    assert stats.sent == 400


def test_a_close_while_others_send_ends_them_with_closed_and_opens_nothing(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    for number in range(30):
        transport = UdpTransport()
        sender = Sender(str(pod.endpoint), transport=transport)
        sender.resolve()
        ended: list[bool] = []

        def work(sender: Sender = sender, ended: list[bool] = ended) -> None:
            with contextlib.suppress(fanout.Closed):
                while True:
                    sender.send(b"x")
            ended.append(True)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        if number % 2:
            pod.receive()  # in the middle of it, not only before
        sender.close()
        for thread in threads:
            thread.join()
        assert len(ended) == 3
        assert not transport._sockets.families
        assert set(pod.waiting()) <= {b"x"}


def test_a_sender_that_is_forgotten_stops_to_resolve() -> None:
    resolver = ScriptedResolver("10.0.0.1")
    sender = Sender("headless-udp", resolver=resolver, transport=MemoryTransport())
    sender.send(b"x")
    del sender
    gc.collect()  # the fixture sees that the thread ends


def test_a_list_in_a_service_needs_no_dns(send: Shell) -> None:
    transport = MemoryTransport()
    assert send(fanout.Service("10.0.0.1,10.0.0.2"), [b"x"], transport=transport).complete
    assert [endpoint for endpoint, _ in transport.sent] == [A, B]


def test_stats_and_repr() -> None:
    transport = MemoryTransport(faults={B: errno.EPERM}, refusals={C: errno.ECONNREFUSED})
    sender = Sender("10.0.0.1,10.0.0.2,10.0.0.3", transport=transport)
    assert repr(sender) == "<Sender 10.0.0.1,10.0.0.2,10.0.0.3 (0 endpoints, not opened)>"
    assert sender.endpoints == ()
    assert sender.stats.answer_age is None
    with sender:
        assert sender.resolve() == (A, B, C)
        sender.send(b"x")
        sender.send(b"y")
        stats = sender.stats
    assert (stats.messages, stats.sent, stats.refused, stats.endpoints) == (2, 4, 2, 3)
    assert stats.dropped == {DropReason.NOT_PERMITTED: 2}
    assert "closed" in repr(sender)
    with pytest.raises(fanout.Closed):
        sender.send(b"z")
    sender.close()


def test_a_sender_that_never_sent_closes_as_well() -> None:
    sender = Sender("headless-udp")
    sender.close()
    assert "closed" in repr(sender)
    with pytest.raises(fanout.Closed):
        sender.send(b"x")


@pytest.mark.parametrize(
    "arguments",
    [("",), (" ",), ("a..b",), ("x" * 64,), ("10.0.0.999",), ("a", 0), ("a", "UDP PORT"), ("10.0.0.1", "udp")],
)
def test_bad_arguments_are_refused_at_once(arguments: tuple[Any, ...]) -> None:
    for make in (Sender, AsyncSender):
        with pytest.raises(fanout.InvalidService):
            make(*arguments)
    with pytest.raises(fanout.InvalidService):
        Sender("headless-udp", nameserver="not an address")
    with pytest.raises(ValueError, match="ipx"):
        Sender("headless-udp", family="ipx")
    for service in (None, 123, b"headless-udp"):
        with pytest.raises(fanout.InvalidService):
            Sender(service)  # type: ignore[arg-type]
