"""The addresses that pods get, beside what else listens on loopback."""

from __future__ import annotations

import socket

import pytest

from fanout.errors import SocketUnavailable
from fanout.local.pod_process import free_address
from tests.support.ports import free_port


def test_an_address_is_the_first_that_nobody_has() -> None:
    port = free_port()
    assert free_address(port, ()) == "127.0.0.11"
    assert free_address(port, {"127.0.0.11", "127.0.0.13"}) == "127.0.0.12"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.12", port))
        assert free_address(port, {"127.0.0.11"}) == "127.0.0.13"


def test_no_address_is_left_where_a_program_listens_on_all() -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", port))
        with pytest.raises(SocketUnavailable, match=rf"UDP port {port} is taken on every address .* \(--port\)"):
            free_address(port, ())
