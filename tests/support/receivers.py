"""`fanout receive` beside a test: what it received, what it answers, and what its admin port says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from fanout.daemon.common import logs
from fanout.daemon.common.logs import LogStream
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Receipt
from fanout.sender.sync import Sender
from tests.support.admin import get
from tests.support.cli import Run, Running, invoke, receiving
from tests.support.frame_client import Asker, asking
from tests.support.waiting import PATIENCE


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def received(receiver: Running, count: int) -> list[dict[str, object]]:
    """Return the lines of messages, once there are so many."""
    receiver.wait_until(lambda: receiver.out.count('"message_received"') >= count and receiver.out.endswith("\n"))
    return receiver.events("message_received")


def admin_of(receiver: Running) -> str:
    return f"http://{receiver.events('receiver_started')[0]['admin']}"


def metric(admin: str, name: str) -> float:
    """Return the value of one metric, whose name may have a label."""
    lines = get(f"{admin}/metrics")[1].splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def query(endpoint: str, payload: bytes = b"abc") -> tuple[bytes | None, str]:
    """Return the reply and, where there is none, the reason."""
    with Sender(endpoint) as sender:
        asked = sender.query(payload, timeout=PATIENCE)
        replies = [reply.payload for reply in asked]
        return (replies[0] if replies else None), asked.confirmation.receipts[0].reason


def confirm(endpoint: str, payload: bytes = b"abc") -> Receipt:
    with Sender(endpoint) as sender:
        return sender.send(payload, confirm=True, timeout=PATIENCE).receipts[0]


@contextmanager
def asked_of(folder: Path, *arguments: str) -> Iterator[tuple[Running, Asker]]:
    with receiving(folder, *arguments) as (receiver, endpoint), asking(Endpoint.parse(endpoint)) as asker:
        yield receiver, asker


def receive(*arguments: str) -> Run:
    """Run `fanout receive` in this process, where it cannot start."""
    opened: list[LogStream] = []

    def open_log(path: str | None, *, patience: float | None) -> LogStream:
        opened.append(LogStream(path, patience=patience))
        return opened[-1]

    try:
        with mock.patch.object(logs, "LogStream", open_log):
            return invoke("receive", *arguments)
    finally:
        for stream in opened:
            stream._file.close()
