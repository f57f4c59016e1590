"""Prometheus collectors for senders and receivers; register them with a `CollectorRegistry` of your own.

No label is made of an address or a payload: what strangers send must not make new time series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fanout.fan_out import SenderStats
from fanout.receiver import ReceiverStats
from fanout.report import DropReason
from fanout.wire.reasons import ReceiveDrop


class SenderCollector(Collector):
    """Exposes `Sender.stats` or `AsyncSender.stats`, read at each scrape: `SenderCollector(lambda: sender.stats)`."""

    def __init__(self, stats: Callable[[], SenderStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        yield CounterMetricFamily("fanout_messages", "Messages sent, each counted once.", stats.messages)
        yield CounterMetricFamily("fanout_copies_sent", "Copies that the kernel took.", stats.sent)
        yield CounterMetricFamily("fanout_copies_refused", "ICMP errors heard.", stats.refused)
        dropped = CounterMetricFamily(
            "fanout_copies_dropped", "Copies that the kernel did not take.", labels=["reason"]
        )
        for reason in DropReason:
            dropped.add_metric([reason.value], stats.dropped.get(reason, 0))
        yield dropped
        yield CounterMetricFamily(
            "fanout_confirmed", "Pods that confirmed a message or replied, each time counted.", stats.confirmed
        )
        yield CounterMetricFamily(
            "fanout_unconfirmed", "Pods that were asked to and did not, each time counted.", stats.unconfirmed
        )
        unexpected = CounterMetricFamily(
            "fanout_answers_refused", "Datagrams that came back and answered nothing that was asked.", labels=["reason"]
        )
        for why, count in sorted(stats.unexpected.items()):
            unexpected.add_metric([why.value], count)
        yield unexpected
        yield GaugeMetricFamily("fanout_endpoints", "Pods known now.", stats.endpoints)
        if stats.answer_age is not None:
            yield GaugeMetricFamily("fanout_answer_age_seconds", "Time since DNS last answered.", stats.answer_age)
        yield CounterMetricFamily(
            "fanout_resolver_failures", "Questions that DNS did not answer usably.", stats.resolver_failures
        )


class ReceiverCollector(Collector):
    """Exposes `Receiver.stats` or `AsyncReceiver.stats`, read at each scrape."""

    def __init__(self, stats: Callable[[], ReceiverStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        yield CounterMetricFamily("fanout_receiver_datagrams", "Datagrams received.", stats.datagrams)
        yield CounterMetricFamily("fanout_receiver_bytes", "Bytes of payload received.", stats.bytes)
        dropped = CounterMetricFamily(
            "fanout_receiver_dropped",
            "Datagrams, or messages in several, that were not handed over.",
            labels=["reason"],
        )
        drops = {
            **stats.refused,
            ReceiveDrop.KERNEL_BUFFER: stats.kernel_drops,
            ReceiveDrop.QUEUE_FULL: stats.queue_drops,
        }
        for reason in ReceiveDrop:
            dropped.add_metric([reason.value], drops.get(reason, 0))
        yield dropped
        for name, help_text, count in (
            ("skipped", "Messages of numbered streams that had not come when a later one did.", stats.skipped),
            ("reordered", "Those of the skipped that came all the same, late.", stats.reordered),
            ("duplicates", "Messages of numbered streams that came again.", stats.duplicates),
            ("confirmed", "Messages whose senders asked, and whose handler has returned.", stats.confirmed),
            ("failed", "Messages in frames whose handler failed, or whose reply could not be sent.", stats.failed),
            ("replied", "Queries that were answered with a reply.", stats.replied),
        ):
            yield CounterMetricFamily(f"fanout_receiver_{name}", help_text, count)
        yield CounterMetricFamily(
            "fanout_receiver_handler_errors", "Messages whose handler raised.", stats.handler_errors
        )
        yield CounterMetricFamily("fanout_receiver_bench_probes", "Datagrams of `fanout bench`.", stats.bench_probes)
        yield GaugeMetricFamily(
            "fanout_receiver_queue_depth", "Messages received and not handled yet.", stats.queue_depth
        )
        yield GaugeMetricFamily(
            "fanout_receiver_buffer_bytes", "Receive buffer that the kernel granted.", stats.receive_buffer
        )
