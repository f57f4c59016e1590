"""Ports that cannot be had, and what goes wrong inside: said once in a while, not each time."""

from __future__ import annotations

import logging

import pytest

from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.core.urls import Origin
from fanout.ssdp.http import server
from fanout.ssdp.http.upstream import ResponseRewriter
from tests.support.ports import bind_both
from tests.support.ssdp_http import POD, Pod, always, http, relay, run

XML = "Content-Type: text/xml"


def test_a_port_that_is_taken_is_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(server, "monotonic", lambda: now)

    async def test() -> None:
        nonlocal now
        udp, tcp = bind_both("")
        port = tcp.getsockname()[1]
        with udp, tcp:
            tcp.listen()
            async with relay() as edge:
                assert not any(edge.proxy.listen(port) for _ in range(10))
                assert said(caplog) == 1
                now += server.TAKEN_TIME
                assert not edge.proxy.listen(port)
                assert said(caplog) == 2
                tcp.close()
                assert not edge.proxy.listen(port)
                now += server.TAKEN_TIME
                assert edge.proxy.listen(port)
                assert edge.proxy.listen(port)
                assert said(caplog) == 2

    run(test())


def said(caplog: pytest.LogCaptureFixture, event: str = "http_port_taken") -> int:
    return sum(record.getMessage().startswith(f"{event}:") for record in caplog.records)


def test_ports_are_asked_for_until_one_can_be_had() -> None:
    left = iter([1, 2, 3, None])
    refused: list[int] = []

    class Ports(PortMap):
        def other(self, origin: Origin) -> int | None:
            return next(left)

        def refuse(self, port: int) -> None:
            refused.append(port)

    ports = Ports(1, 3)
    rewriter = ResponseRewriter(ports, lambda host: host == POD, lambda port: port == 2, HttpCounts())
    location = ("Location", f"http://{POD}:8200/")
    assert rewriter.headers([location], "10.0.0.1")["Location"] == "http://10.0.0.1:2/"
    assert refused == [1]
    assert rewriter.headers([location], "10.0.0.1")["Location"] == location[1]
    assert refused == [1, 3]


def test_what_breaks_inside_has_a_name_of_its_own_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "monotonic", lambda: 1000.0)

    async def test() -> None:
        async with Pod(always(http(b"<a/>", XML))) as pod, relay(pod) as edge:
            monkeypatch.setattr(edge.proxy, "_answer", broken)
            for _ in range(20):
                reply = await edge.get()
                assert reply.status == 500
                assert reply.headers["Server"] == "fanout"
            assert edge.counts.statuses == {5: 20}

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    with caplog.at_level(logging.WARNING):
        run(test())
    assert said(caplog, "http_broke") == server._LINES
    assert "a mistake" in caplog.text
    assert said(caplog, "http_failed") == 0


def test_a_document_cannot_ask_for_ports_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"".join(b"http://%s:%d/ " % (POD.encode(), port) for port in range(1000, 2000))

    async def test() -> None:
        async with Pod(always(http(body, XML))) as pod, relay(pod, ports=30) as edge:
            asked: list[Origin] = []
            other = edge.port_map.other

            def ask(origin: Origin) -> int | None:
                asked.append(origin)
                return other(origin)

            monkeypatch.setattr(edge.port_map, "other", ask)
            reply = await edge.get()
            assert reply.body.count(b"://127.0.0.20:") == 8  # so many other servers may a pod have
            assert edge.counts.left == 992
            assert 8 <= len(asked) <= 16

    run(test())
