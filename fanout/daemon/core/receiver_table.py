"""The receiver's live table."""

from __future__ import annotations

from fanout.daemon.core.text_table import TextTable, alarming, bits_per_second, drops, more, per_second, size
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.receiver.core.stats import ReceiverStats

_SENDERS = 10
_DISPENSABLE = ("BYTES", "RATE", "QUEUED")


def tables(
    address: str, before: ReceiverStats, after: ReceiverStats, seconds: float, senders: list[SenderCounts], room: int
) -> list[TextTable]:
    """Return what came to the port, and the senders of frames with the most trouble or the most messages."""
    dropped = {
        **after.refused,
        ReceiveDrop.KERNEL_BUFFER: after.kernel_drops,
        ReceiveDrop.QUEUE_FULL: after.queue_drops,
    }
    row = (
        address,
        per_second(before.datagrams, after.datagrams, seconds),
        bits_per_second(before.bytes, after.bytes, seconds),
        f"{after.datagrams:,}",
        size(after.bytes),
        f"{after.queue_depth:,}",
        drops(dropped),
    )
    port = TextTable(
        ("PORT",), ("MESSAGES/S", "RATE", "MESSAGES", "BYTES", "QUEUED", "DROPPED"), [row], dispensable=_DISPENSABLE
    )
    if not senders:
        return [port]
    senders = sorted(senders, key=lambda one: (-(one.skipped - one.reordered) - one.duplicates, -one.received))
    shown = senders[: min(_SENDERS, max(room - 2, 1))]
    rows: list[tuple[str, ...]] = [
        (
            one.sender,
            "yes" if one.sealed else "no",
            f"{one.received:,}",
            alarming(one.skipped),
            f"{one.reordered:,}",
            alarming(one.duplicates),
        )
        for one in shown
    ]
    names = ("MESSAGES", "SKIPPED", "REORDERED", "DUPLICATES")
    said = more(len(senders) - len(shown), "sender", "senders")
    return [port, TextTable(("SENDER", "SEALED"), names, rows, said)]
