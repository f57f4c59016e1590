"""The sending sockets: one for each family, opened when it is needed."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from fanout.net.udp_sockets import SendingSockets
from tests.support.needs import require_address
from tests.support.open_files import open_files


def test_a_family_has_one_socket_which_is_opened_when_needed() -> None:
    require_address("::1")
    before = open_files()
    sockets = SendingSockets()
    assert (list(sockets), sockets.families) == ([], [])
    one = sockets.of(False)
    assert sockets.of(False) is one
    other = sockets.of(True)
    assert (one.family, other.family) == (socket.AF_INET, socket.AF_INET6)
    assert (list(sockets), sockets.families) == ([one, other], [False, True])
    assert not one.getblocking()
    assert other.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    sockets.close()
    assert (list(sockets), open_files()) == ([], before)
    assert sockets.of(False) is not one, "it is opened again"
    sockets.close()


def test_who_waits_for_answers_asks_for_room_for_them() -> None:
    require_address("::1")
    asked: list[socket.AddressFamily] = []

    class Watched(socket.socket):
        def setsockopt(self, *option: Any) -> None:
            if option[:2] == (socket.SOL_SOCKET, socket.SO_RCVBUF):
                asked.append(self.family)
            super().setsockopt(*option)

    sockets = SendingSockets(Watched)
    one = sockets.of(False)
    assert asked == []
    assert sockets.readable() == [one.fileno()]
    assert asked == [socket.AF_INET]
    other = sockets.of(True)
    assert asked == [socket.AF_INET, socket.AF_INET6], "also for what is opened later"
    assert sockets.readable() == [one.fileno(), other.fileno()]
    sockets.close()
    sockets.of(False)
    assert len(asked) == 2, "nobody waits any more"
    sockets.close()


def test_a_family_that_cannot_be_opened_is_tried_again_each_time() -> None:
    tried: list[int] = []

    def refuse(family: int, kind: int) -> Any:
        tried.append(family)
        raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")

    sockets = SendingSockets(refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="no IPv6 here"):
            sockets.of(True)
    assert tried == [socket.AF_INET6] * 2
    assert list(sockets) == []
