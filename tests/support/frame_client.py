"""Somebody who asks, made by hand of frames and one socket: no part of the sender's code is used."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from fanout.model import Endpoint
from fanout.protocol import frame
from fanout.protocol.frame import ASK, FRAGMENT_OVERHEAD, QUERY, Answer, AnswerStatus, Cut, Frame
from tests.support.waiting import PATIENCE

SENDER = 0x1234_5678_9ABC_DEF0
SIZE = 1200


class Asker:
    """Sends frames to one receiver and hears what it answers."""

    def __init__(self, to: Endpoint, opened: socket.socket, sender: int = SENDER) -> None:
        self.to = to
        self.socket = opened
        self.sender = sender

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.socket.sendto(datagram, self.to)

    def ask(self, number: int, payload: bytes, *, flags: int = ASK, attempt: int = 0, size: int = SIZE) -> None:
        """Send a message; its last fragment asks."""
        self.send(*fragments(number, payload, flags=flags, attempt=attempt, size=size, sender=self.sender))

    def query(self, number: int, payload: bytes, *, size: int = SIZE) -> None:
        self.ask(number, payload, flags=ASK | QUERY, size=size)

    def hear(self) -> Frame:
        """Return the next frame that comes back."""
        return frame.decode(self.socket.recv(65_535))

    def answer(self) -> Answer:
        """Return the next frame, which is an answer."""
        heard = self.hear()
        assert isinstance(heard, Answer)
        return heard

    def status(self, number: int) -> AnswerStatus:
        """Return what is said of that message."""
        heard = self.answer()
        assert (heard.number, heard.asker) == (number, self.sender)
        return heard.status

    def is_quiet(self) -> bool:
        """Whether nothing has come back by now: what it sends to itself comes first."""
        self.socket.sendto(b"", self.socket.getsockname())
        return not self.socket.recv(65_535)


def fragments(
    number: int, payload: bytes, *, flags: int = ASK, attempt: int = 0, size: int = SIZE, sender: int = SENDER
) -> list[bytes]:
    """Return a message in frames, the last of which asks where the flags say so."""
    cut = Cut.of(payload, size)
    pad = FRAGMENT_OVERHEAD + size if flags & QUERY else 0
    last = cut.parts - 1
    return [
        frame.fragment(
            cut,
            sender,
            number,
            index,
            flags=flags if index == last else flags & ~ASK,
            attempt=attempt,
            pad=pad if index == last else 0,
        )
        for index in range(cut.parts)
    ]


@contextmanager
def asking(to: Endpoint, host: str = "127.0.0.1", sender: int = SENDER) -> Iterator[Asker]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.settimeout(PATIENCE)
        opened.bind((host, 0))
        yield Asker(to, opened, sender)
