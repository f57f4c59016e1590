"""Copies sent by whatever transport, to the end."""

from __future__ import annotations

from fanout.model import Endpoint
from fanout.net.transport import Transport
from fanout.protocol.sending.batch import Batch
from fanout.report import Fault

NO_ROOM = 1_000
"""More calls than any script has entries: a transport that has not come to its end then never will."""


def send_all(transport: Transport, payload: bytes, endpoints: list[Endpoint]) -> list[Fault]:
    faults: list[Fault] = []
    position = 0
    for _ in range(NO_ROOM):
        if position == len(endpoints):
            break
        position = transport.send(payload, endpoints, position, len(endpoints), faults)
    assert position == len(endpoints)
    return faults


def send_batch(
    transport: Transport, payloads: list[bytes], endpoints: list[Endpoint], stops: list[int] | None = None
) -> list[Fault]:
    """Send a batch, in calls that end at the positions of `stops` and at its end."""
    faults: list[Fault] = []
    batch = Batch(payloads, transport.gso_limit)
    total = len(payloads) * len(endpoints)
    position = 0
    for stop in [*sorted(stops or []), total]:
        for _ in range(NO_ROOM):
            if position >= stop:
                break
            position = transport.send_batch(batch, endpoints, position, stop, faults)
            assert position <= stop
    assert position == total
    return faults
