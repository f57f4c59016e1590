"""By which address answers leave a host that has several."""

from __future__ import annotations

import socket
import struct

import pytest

import fanout
from fanout.net import pktinfo
from fanout.protocol import probe
from fanout.receiver.reply_path import ReplyPath
from tests.support.frame_client import asking
from tests.support.handler_pods import serving_sync


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_answers_leave_from_the_address_that_was_asked(host: str | None, workers: int) -> None:
    with (
        serving_sync(lambda message: message.payload, host=host, workers=workers) as receiver,
        asking(receiver.address, "127.0.0.9") as asker,
    ):
        for number, asked in enumerate(["127.0.0.5", "127.0.0.1", "127.255.1.2"]):
            to = asker.to = fanout.Endpoint(asked, receiver.address.port)
            asker.ask(3 * number + 1, b"confirmed")
            asker.query(3 * number + 2, b"query")
            asker.send(probe.ping(1, number))
            for _ in range(3):
                assert asker.socket.recvfrom(2048)[1] == to
            # A flood of what nobody answers: the kernel is not asked any more where it came to, until somebody asks.
            asker.send(*[b"plain"] * 200)
            asker.ask(3 * number + 3, b"after")
            asker.socket.recv(2048)
            asker.ask(3 * number + 3, b"after", attempt=1)
            assert asker.socket.recvfrom(2048)[1] == to


def test_what_was_asked_of_an_address_that_cannot_answer_is_answered_from_another() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened, asking(fanout.Endpoint("", 0)) as asker:
        opened.bind(("0.0.0.0", 0))
        exits = ReplyPath(opened)
        address = asker.socket.getsockname()
        broadcast = struct.pack("=I4s4s", 1, bytes(4), bytes([255] * 4))
        for control in ([(socket.IPPROTO_IP, 8, broadcast)], [(0, 99, b"?")], [(socket.IPPROTO_IP, 8, b"short")], []):
            exits.send([b"answer"], address, pktinfo.answer_from(control))
            datagram, source = asker.socket.recvfrom(100)
            assert (datagram, source) == (b"answer", ("127.0.0.1", opened.getsockname()[1]))
