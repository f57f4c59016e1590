"""What a receiver has done, for tables, logs and metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fanout.protocol.drop_reasons import ReceiveDrop


@dataclass(frozen=True, slots=True)
class ReceiverStats:
    """What a receiver has done since it was opened: counts that only grow, and the current queue."""

    datagrams: int = 0
    """Read from the kernel: handed over, queued, or dropped by the queue. A message in fragments counts once."""
    bytes: int = 0
    """Bytes of their payloads."""
    kernel_drops: int = 0
    """Datagrams that the kernel dropped because the receive buffer was full.

    Exact for datagrams that are not merged. A run that the kernel keeps merged (UDP_GRO: from a sender on this host
    that coalesces, or merged by the network card) counts as one, so the count is a lower bound. While the queue is
    full (`Overflow.WAIT`) and until the kernel's buffer was read empty, nothing is merged and each datagram counts.
    """
    queue_drops: int = 0
    """Messages dropped because the queue was full (`Overflow`), or still queued at `close`."""
    handler_errors: int = 0
    queue_depth: int = 0
    """Messages read from the kernel but not handed over yet."""
    receive_buffer: int = 0
    """Bytes of receive buffer that the kernel granted, for all sockets together."""
    bench_probes: int = 0
    """Datagrams of `fanout bench`, answered by the receiver itself and not counted in `datagrams`."""
    skipped: int = 0
    """Messages of numbered streams missing when a later one arrived."""
    reordered: int = 0
    """Skipped messages that arrived late."""
    duplicates: int = 0
    """Messages of numbered streams that arrived again, and were not handed over again."""
    refused: Mapping[ReceiveDrop, int] = field(default_factory=dict)
    """Frames, and messages in several frames, that were not handed over, by reason; only reasons that occurred."""
    confirmed: int = 0
    """Messages whose handler returned, confirmed to their senders."""
    failed: int = 0
    """Messages reported as failed to senders that asked."""
    replied: int = 0
    """Queries answered with a reply."""

    @property
    def lost(self) -> int:
        """Messages of numbered streams that have not arrived."""
        return self.skipped - self.reordered
