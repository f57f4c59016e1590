"""The addresses of pods. Pods that fail: the tests of the supervisor."""

from __future__ import annotations

import socket

import pytest

from fanout.errors import SocketUnavailable
from fanout.local.pods import free_address
from tests.support.ports import free_port


def test_a_pod_gets_the_first_address_whose_port_is_free() -> None:
    port = free_port()
    assert free_address(port, ()) == "127.0.0.11"
    assert free_address(port, {"127.0.0.11", "127.0.0.13"}) == "127.0.0.12"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.11", port))
        assert free_address(port, ()) == "127.0.0.12"


def test_a_port_that_is_taken_everywhere_is_named_with_how_to_find_who_has_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        with pytest.raises(SocketUnavailable, match=rf"UDP port {port} is taken .* \(ss -lunp sport = :{port} "):
            free_address(port, ())
