"""What a receiver keeps for strangers, under all floods at once: the sum that docs/receiver.md prints holds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import count, islice

import pytest
import yaml

from fanout.protocol.frame import ASK, QUERY
from fanout.protocol.receiving import dedup, receive_state
from fanout.protocol.receiving.dedup import REPLIES_MAX, RESULTS_MAX, SENDERS_MAX, DedupTable
from fanout.protocol.receiving.reassembly import BYTES_MAX, SENDER_BYTES_MAX, Reassembly
from fanout.protocol.receiving.receive_state import PENDING_MAX, PendingReply
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Run
from fanout.receiver.engine import CAPACITY
from fanout.receiver.queue import BYTES_MAX as BYTES_QUEUED
from tests.support.frame_client import fragments
from tests.support.reception import ME, claim, failed, numbered, replied, take, take_run
from tests.support.tree import ROOT

MIB = 1024 * 1024
SHARE = 16
"""The part of each limit that is tried, a power of two: dictionaries are then as full as they are with all of it."""


def bound(row: str) -> int:
    """Return the MiB that docs/receiver.md states for something that is kept."""
    (line,) = [line for line in (ROOT / "docs/receiver.md").read_text().splitlines() if line.startswith(f"| {row}")]
    return int(line.rstrip(" |").rpartition("| ")[2].strip("*"))


class Flood:
    """Strangers who send whatever makes a receiver remember."""

    def __init__(self) -> None:
        self.reception = Reception(ME, reply_to_anyone=True)
        self.reception.plain.table = DedupTable(False, SENDERS_MAX // SHARE)
        self.reception.plain.reassembly = Reassembly(BYTES_MAX // SHARE, SENDER_BYTES_MAX // SHARE)
        self.senders = count(2**63)
        self.pending: list[PendingReply] = []

    def claims(self, each: int) -> None:
        """Begin large messages, and go on with none of them; they ask, so that each is kept for a while."""
        for sender in islice(self.senders, each):
            take(self.reception, claim(sender, position=60_000, size=256))

    def streams(self, each: int) -> None:
        for sender in islice(self.senders, each):
            take_run(self.reception, [numbered(1, sender=sender)])
            take_run(self.reception, [numbered(2**40, sender=sender)])
            take_run(self.reception, fragments(2**40 + 9, b"", flags=0, sender=sender))

    def failures(self, each: int) -> None:
        for pending in self.asked(each):
            failed(pending, "x" * 5000)

    def replies(self, each: int) -> None:
        for pending in self.asked(each, QUERY):
            replied(pending, bytes(2000))

    def asked(self, each: int, flags: int = 0) -> Iterator[PendingReply]:
        """Ask, and let each message be handled."""
        sender = next(self.senders)
        for number in range(2**40, 2**40 + each):
            yield from take_run(self.reception, fragments(number, b"", flags=ASK | flags, sender=sender)).pending

    def waiting(self, each: int) -> None:
        """Ask, and let no message be handled."""
        self.pending += self.asked(each)


@pytest.mark.parametrize(
    ("kind", "each", "row"),
    [
        ("claims", BYTES_MAX // 1500, "large messages"),
        ("streams", SENDERS_MAX * 2, "senders"),
        ("failures", RESULTS_MAX * 5 // 4, "results"),
        ("replies", REPLIES_MAX // 2000, "replies"),
        ("waiting", PENDING_MAX * 5 // 4, "messages that may"),
    ],
)
def test_a_flood_costs_no_more_than_is_said(kind: str, each: int, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, limit in ((receive_state, "PENDING_MAX"), (dedup, "REPLIES_MAX"), (dedup, "RESULTS_MAX")):
        monkeypatch.setattr(module, limit, getattr(module, limit) // SHARE)
    flood = Flood()
    tracemalloc.start()
    try:
        getattr(flood, kind)(each // SHARE)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used * SHARE < bound(row) * MIB
    assert used * SHARE > bound(row) * MIB / 2, "the flood is one"


def test_the_queue_costs_no_more_than_is_said() -> None:
    reception = Reception(ME)
    runs: list[Run] = []
    tracemalloc.start()
    try:
        for number in range(1, CAPACITY // SHARE + 1):
            (run,) = take_run(reception, [numbered(number, b"x")]).runs
            runs.append(run._replace(address=(f"10.1.{number}", number), received_at=float(number)))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(runs) == CAPACITY // SHARE
    assert BYTES_QUEUED + used * SHARE < bound("the queue") * MIB


def test_the_template_gives_a_receiver_what_all_floods_together_can_cost() -> None:
    text = (ROOT / "docs/receiver.md").read_text()
    table = text[text.index("| of | at most | what makes room | MiB |") :].split("\n\n", 1)[0].splitlines()[2:]
    *rows, total = [int(line.rstrip(" |").rpartition("| ")[2].strip("*")) for line in table]
    assert sum(rows) == total == bound("**the sum**")
    (memory,) = [
        parameter["value"]
        for parameter in yaml.safe_load((ROOT / "deployments/Deploy.yaml").read_text())["parameters"]
        if parameter["name"] == "RECEIVER_MEMORY"
    ]
    assert memory.endswith("Mi")
    assert total < int(memory.removesuffix("Mi")) * 0.8
