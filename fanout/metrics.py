"""Prometheus collectors for senders, receivers and relays; register them with a `CollectorRegistry` of your own.

No label comes from a payload, or from an address that the operator did not configure: strangers' datagrams, and pods
that come and go, must not create time series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.receiver.core.stats import ReceiverStats
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.stats import RelayStats
from fanout.report import DropReason
from fanout.sender.engine import SenderStats
from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop

if TYPE_CHECKING:
    from fanout.ssdp.core.stats import SsdpStats

_ANNOUNCED = ("alive", "update", "byebye")
_AGE = "Time since DNS last answered."
_Reason = TypeVar("_Reason", bound=str)


def _by(label: str, name: str, text: str, counts: Iterable[tuple[str, float]]) -> Counter:
    """Return a counter with a series for each value of a label."""
    family = Counter(name, text, labels=[label])
    for value, count in counts:
        family.add_metric([value], count)
    return family


def _by_reason(name: str, text: str, reasons: Iterable[_Reason], counts: Mapping[_Reason, int]) -> Counter:
    """Return a counter with a series for each of `reasons`: those that have not occurred, too."""
    return _by("reason", name, text, ((str(reason), counts.get(reason, 0)) for reason in reasons))


def _of_dns(prefix: str, age: float | None, failures: int, age_text: str) -> Iterator[Metric]:
    """Yield the age of the answer of DNS, if there is one, and the number of failures."""
    if age is not None:
        yield Gauge(f"{prefix}_answer_age_seconds", age_text, age)
    yield Counter(f"{prefix}_resolver_failures", "DNS queries without a usable answer.", failures)


class SenderCollector(Collector):
    """Exposes `Sender.stats` or `AsyncSender.stats`, read at each scrape: `SenderCollector(lambda: sender.stats)`."""

    def __init__(self, stats: Callable[[], SenderStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        yield Counter("fanout_messages", "Messages sent, each counted once.", stats.messages)
        yield Counter("fanout_copies_sent", "Copies that the kernel took.", stats.sent)
        yield Counter("fanout_copies_refused", "ICMP errors received.", stats.refused)
        yield _by_reason("fanout_copies_dropped", "Copies that the kernel did not take.", DropReason, stats.dropped)
        yield Counter(
            "fanout_confirmed", "Pods that confirmed a message or replied, counted each time.", stats.confirmed
        )
        yield Counter("fanout_unconfirmed", "Pods that did not confirm or reply, counted each time.", stats.unconfirmed)
        yield _by_reason(
            "fanout_answers_refused",
            "Datagrams that came back but answered no pending message.",
            sorted(stats.unexpected),
            stats.unexpected,
        )
        yield Gauge("fanout_endpoints", "Pods known now.", stats.endpoints)
        yield from _of_dns("fanout", stats.answer_age, stats.resolver_failures, _AGE)


class ReceiverCollector(Collector):
    """Exposes `Receiver.stats` or `AsyncReceiver.stats`, read at each scrape."""

    def __init__(self, stats: Callable[[], ReceiverStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        yield Counter("fanout_receiver_datagrams", "Datagrams received.", stats.datagrams)
        yield Counter("fanout_receiver_bytes", "Bytes of payload received.", stats.bytes)
        yield _by_reason(
            "fanout_receiver_dropped",
            "Datagrams, or messages in several datagrams, that were not handed over.",
            ReceiveDrop,
            {**stats.refused, ReceiveDrop.KERNEL_BUFFER: stats.kernel_drops, ReceiveDrop.QUEUE_FULL: stats.queue_drops},
        )
        for name, text, count in (
            ("skipped", "Messages of numbered streams missing when a later one arrived.", stats.skipped),
            ("reordered", "Skipped messages that arrived late.", stats.reordered),
            ("duplicates", "Messages of numbered streams that arrived again.", stats.duplicates),
            ("confirmed", "Messages whose handler returned, confirmed to their senders.", stats.confirmed),
            ("failed", "Messages in frames whose handler failed, or whose reply could not be sent.", stats.failed),
            ("replied", "Queries that were answered with a reply.", stats.replied),
            ("handler_errors", "Messages whose handler raised.", stats.handler_errors),
            ("bench_probes", "Datagrams of `fanout bench`.", stats.bench_probes),
        ):
            yield Counter(f"fanout_receiver_{name}", text, count)
        yield Gauge("fanout_receiver_queue_depth", "Messages received but not handled yet.", stats.queue_depth)
        yield Gauge("fanout_receiver_buffer_bytes", "Receive buffer that the kernel granted.", stats.receive_buffer)


class RelayCollector(Collector):
    """Exposes `Relay.stats`, read at each scrape: `RelayCollector(lambda: relay.stats)`."""

    def __init__(self, stats: Callable[[], RelayStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        labels = ["ingress", "service"]
        datagrams = Counter("fanout_relay_datagrams", "Datagrams that arrived.", labels=labels)
        payload = Counter("fanout_relay_bytes", "Bytes of payload that arrived.", labels=labels)
        forwarded = Counter("fanout_relay_forwarded", "Datagrams copied to every pod known at the time.", labels=labels)
        dropped = Counter("fanout_relay_dropped", "Datagrams that were not forwarded.", labels=[*labels, "reason"])
        waiting = Gauge("fanout_relay_waiting", "1 while an ingress does not listen.", labels=labels)
        pods = dict.fromkeys((each.service for each in stats.ingresses), 0)
        for each in stats.ingresses:
            values = [each.ingress, each.service]
            datagrams.add_metric(values, each.datagrams)
            payload.add_metric(values, each.bytes)
            forwarded.add_metric(values, each.forwarded)
            for reason in RelayDrop:
                dropped.add_metric([*values, reason.value], each.dropped.get(reason, 0))
            waiting.add_metric(values, each.waiting is not None)
        for pod in stats.pods:
            pods[pod.service] = pods.get(pod.service, 0) + 1
        yield from (datagrams, payload, forwarded, dropped, waiting)
        yield Counter("fanout_relay_copies_sent", "Copies that the kernel took.", stats.sent)
        yield Counter("fanout_relay_copies_refused", "ICMP errors received.", stats.refused)
        yield _by_reason(
            "fanout_relay_copies_dropped", "Copies that the kernel did not take.", DropReason, stats.dropped
        )
        endpoints = Gauge("fanout_relay_endpoints", "Pods known now.", labels=["service"])
        for service, count in pods.items():
            endpoints.add_metric([service], count)
        yield endpoints
        longest = "Longest time since DNS last answered, over all Services."
        yield from _of_dns("fanout_relay", stats.answer_age, stats.resolver_failures, longest)


class SsdpCollector(Collector):
    """Exposes `SsdpRelay.stats`, read at each scrape: `SsdpCollector(lambda: relay.stats)`."""

    def __init__(self, stats: Callable[[], SsdpStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        http = stats.http
        yield Counter("fanout_ssdp_searches", "Datagrams from the LAN other than announcements.", stats.searches)
        yield Counter("fanout_ssdp_answers", "Answers sent to clients.", stats.answers)
        yield Gauge("fanout_ssdp_sessions", "Searches under way now.", stats.sessions)
        announced = ((kind, stats.announcements.get(f"ssdp:{kind}", 0)) for kind in _ANNOUNCED)
        yield _by("kind", "fanout_ssdp_announcements", "Announcements sent on the LAN.", announced)
        yield Gauge("fanout_ssdp_devices", "Devices announced now.", len(stats.devices))
        yield _by_reason("fanout_ssdp_dropped", "What was received and dropped.", SsdpDrop, stats.dropped)
        yield Counter(
            "fanout_ssdp_foreign_locations",
            "LOCATIONs that name another host than the pod, left unchanged.",
            stats.foreign,
        )
        yield _by(
            "status",
            "fanout_ssdp_http_requests",
            "HTTP requests answered, by the first digit of the status.",
            ((f"{digit}xx", http.statuses.get(digit, 0)) for digit in sorted({1, 2, 3, 4, 5, *http.statuses})),
        )
        yield _by_reason(
            "fanout_ssdp_http_failures", "HTTP requests and connections refused or broken.", HttpFailure, http.failures
        )
        yield Counter("fanout_ssdp_http_bytes", "Bytes of bodies carried to clients.", sum(http.bytes.values()))
        yield Gauge("fanout_ssdp_http_connections", "HTTP connections of clients now.", http.connections)
        yield Gauge("fanout_ssdp_subscriptions", "Subscriptions to events now.", http.subscriptions)
        for name, text, count in (
            ("events", "Events that subscribers took.", http.events),
            ("urls_rewritten", "URLs of pods replaced by the relay's.", http.rewritten),
            ("urls_left", "URLs of pods passed on unchanged for want of a port.", http.left),
        ):
            yield Counter(f"fanout_ssdp_{name}", text, count)
        yield Gauge("fanout_ssdp_endpoints", "Pods known now.", stats.endpoints)
        yield from _of_dns("fanout_ssdp", stats.answer_age, stats.resolver_failures, _AGE)
