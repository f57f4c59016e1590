"""Metrics: every reason is a label from the start, and nothing of a stranger is one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from fanout.metrics import RelayCollector, SsdpCollector
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.stats import IngressStats, PodStats, RelayStats
from fanout.report import DropReason
from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop
from fanout.ssdp.core.message import NotifyKind
from fanout.ssdp.core.stats import DeviceStats, HttpCounts, SsdpStats


def test_those_of_a_relay_have_all_reasons_and_no_address_of_a_pod() -> None:
    stats = RelayStats(
        [
            IngressStats("mcast://224.0.67.67:5001@eth1", "headless-udp", None, 7, 700, 5, {RelayDrop.OVER_LIMIT: 2}),
            IngressStats("udp://:5004", "cameras", "interface eth2 is not there"),
        ],
        [PodStats(f"10.128.0.{number}", "headless-udp", 5) for number in range(3)],
        sent=15,
        refused=1,
        dropped={DropReason.NO_BUFFER: 4},
        answer_age=2.5,
        resolver_failures=6,
    )
    registry = CollectorRegistry()
    registry.register(RelayCollector(lambda: stats))
    text = generate_latest(registry).decode()
    first = 'ingress="mcast://224.0.67.67:5001@eth1"'
    for line in (
        f'fanout_relay_datagrams_total{{{first},service="headless-udp"}} 7.0',
        f'fanout_relay_bytes_total{{{first},service="headless-udp"}} 700.0',
        f'fanout_relay_forwarded_total{{{first},service="headless-udp"}} 5.0',
        f'fanout_relay_dropped_total{{{first},reason="over_limit",service="headless-udp"}} 2.0',
        f'fanout_relay_waiting{{{first},service="headless-udp"}} 0.0',
        'fanout_relay_waiting{ingress="udp://:5004",service="cameras"} 1.0',
        "fanout_relay_copies_sent_total 15.0",
        "fanout_relay_copies_refused_total 1.0",
        'fanout_relay_copies_dropped_total{reason="no_buffer"} 4.0',
        'fanout_relay_endpoints{service="headless-udp"} 3.0',
        'fanout_relay_endpoints{service="cameras"} 0.0',
        "fanout_relay_answer_age_seconds 2.5",
        "fanout_relay_resolver_failures_total 6.0",
    ):
        assert f"{line}\n" in text
    for reason in RelayDrop:
        assert text.count(f'reason="{reason}",service=') == 2
    for why in DropReason:
        assert text.count(f'fanout_relay_copies_dropped_total{{reason="{why}"}}') == 1
    assert "10.128" not in text
    stats.answer_age = None
    assert "answer_age" not in generate_latest(registry).decode()


UDN = "uuid:4d696e69-444c-164e-9d41-{:012x}"


def devices(count: int, **changes: int) -> list[DeviceStats]:
    return [
        DeviceStats(
            UDN.format(number),
            f"10.60.0.{number}",
            f"http://10.50.0.20:{28_200 + number}/rootDesc.xml",
            f"Films {number}",
            **changes,
        )
        for number in range(1, count + 1)
    ]


def test_those_of_a_relay_for_media_servers_have_all_reasons_and_no_label_of_a_stranger() -> None:
    http_counts = HttpCounts(
        requests={28_201: 9},
        bytes={28_201: 5_000, 28_202: 500},
        statuses={2: 7, 9: 1},
        failures={HttpFailure.WRONG_HOST: 3},
        rewritten=21,
        left=22,
        events=23,
        connections=24,
        subscriptions=25,
    )
    stats = SsdpStats(
        devices(3), 11, 12, 13, {"ssdp:alive": 14, "ssdp:byebye": 15}, 16, {SsdpDrop.NOT_SSDP: 17}, http_counts, 18,
        2.5, 19,
    )  # fmt: skip
    registry = CollectorRegistry()
    registry.register(SsdpCollector(lambda: stats))
    text = generate_latest(registry).decode()
    for line in (
        "searches_total 11.0",
        "answers_total 12.0",
        "sessions 13.0",
        'announcements_total{kind="alive"} 14.0',
        'announcements_total{kind="update"} 0.0',
        'announcements_total{kind="byebye"} 15.0',
        "devices 3.0",
        "foreign_locations_total 16.0",
        'dropped_total{reason="not_ssdp"} 17.0',
        'http_requests_total{status="2xx"} 7.0',
        'http_requests_total{status="5xx"} 0.0',
        'http_requests_total{status="9xx"} 1.0',
        'http_failures_total{reason="wrong_host"} 3.0',
        "http_bytes_total 5500.0",
        "http_connections 24.0",
        "subscriptions 25.0",
        "events_total 23.0",
        "urls_rewritten_total 21.0",
        "urls_left_total 22.0",
        "endpoints 18.0",
        "answer_age_seconds 2.5",
        "resolver_failures_total 19.0",
    ):
        assert f"\nfanout_ssdp_{line}\n" in text, line
    for reason in SsdpDrop:
        assert text.count(f'fanout_ssdp_dropped_total{{reason="{reason}"}}') == 1
    for why in HttpFailure:
        assert text.count(f'fanout_ssdp_http_failures_total{{reason="{why}"}}') == 1
    for kind in NotifyKind:
        assert f'kind="{kind.removeprefix("ssdp:")}"' in text
    assert not any(strange in text for strange in ("uuid", "10.60", "10.50", "Films", "2820"))
    stats.answer_age = None
    assert "answer_age" not in generate_latest(registry).decode()
