"""The admin port of an app, and peers that lie, are silent, drip, or are too many."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from fanout.daemon.common import admin
from fanout.daemon.common.admin import AdminServer
from tests.support.admin import get
from tests.support.needs import has_address
from tests.support.waiting import PATIENCE, until

AT_A_TIME = 32


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminServer]:
    """An admin port that cuts nobody off."""
    monkeypatch.setattr(admin, "_PEER_TIMEOUT", PATIENCE)
    monkeypatch.setattr(admin, "_POLL", 0.01)
    opened = AdminServer("127.0.0.1", 0, CollectorRegistry(), alive=lambda: None, ready=lambda: "draining")
    yield opened
    opened.close()


def connect(server: AdminServer) -> socket.socket:
    return socket.create_connection(server.address, timeout=PATIENCE)


def answers(server: AdminServer) -> bool:
    try:
        return get(f"http://{server.address}/livez") == (200, "ok\n")
    except OSError:
        return False


def test_what_is_said(server: AdminServer) -> None:
    assert get(f"http://{server.address}/livez") == (200, "ok\n")
    assert get(f"http://{server.address}/readyz") == (503, "draining\n")
    assert get(f"http://{server.address}/metrics") == (200, "")
    assert get(f"http://{server.address}/nonsense") == (404, "there are /livez, /readyz and /metrics\n")


def test_without_a_host_it_listens_on_all_addresses() -> None:
    opened = AdminServer(None, 0, CollectorRegistry(), alive=lambda: None, ready=lambda: None)
    try:
        for host in ["127.0.0.1", *(["[::1]"] if has_address("::1") else [])]:
            assert get(f"http://{host}:{opened.address.port}/readyz") == (200, "ok\n")
    finally:
        opened.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"x" * 100_000, b"\r\n", b"GET /\r\n", b""],
    ids=lambda garbage: repr(garbage[:10]),
)
def test_it_survives_peers_that_lie(server: AdminServer, garbage: bytes) -> None:
    with connect(server) as peer, contextlib.suppress(OSError):  # cut off, as it should be
        peer.sendall(garbage)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65_536):
            pass
    until(lambda: answers(server))


def test_it_cuts_off_peers_that_are_silent_or_drip(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is not for each read, which a peer that sends byte by byte would never meet."""
    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(admin, "_PEER_TIMEOUT", 0.02)
        dripping, *silent = [stack.enter_context(connect(server)) for _ in range(AT_A_TIME)]
        while takes(dripping, b"x"):
            pass
        for peer in silent:
            assert peer.recv(1) == b""
        monkeypatch.setattr(admin, "_PEER_TIMEOUT", PATIENCE)
        until(lambda: answers(server))


def takes(peer: socket.socket, drop: bytes) -> bool:
    """Send something; return whether the connection still stands."""
    try:
        peer.send(drop)
        return bool(peer.recv(1, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_it_serves_so_many_at_a_time(server: AdminServer) -> None:
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(connect(server)) for _ in range(AT_A_TIME)]
        with connect(server) as one_more:
            assert one_more.recv(1) == b""
        served[0].close()
        until(lambda: answers(server))
