"""The live table of `fanout relay`."""

from __future__ import annotations

from fanout.daemon.core import relay_table
from fanout.daemon.core.text_table import Alarm
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.stats import IngressStats, PodStats, RelayStats
from fanout.report import DropReason

URL = "mcast://224.0.67.67:5001@eth1"


def relayed(datagrams: int, pods: int, sent: int, **changes: int) -> RelayStats:
    return RelayStats(
        [
            IngressStats(URL, "headless-udp", None, datagrams, 200 * datagrams, datagrams, {RelayDrop.OWN: 0}),
            IngressStats("udp://:5004", "cameras", "interface eth2 is not there", dropped={RelayDrop.LOOP: 4}),
        ],
        [PodStats(f"10.0.0.{number}", "headless-udp", sent, 200 * sent) for number in range(1, pods + 1)],
    )


def test_the_relays_table_says_what_came_and_what_went_to_each_pod() -> None:
    before, after = relayed(1000, 2, 1000), relayed(3000, 3, 2500)
    after.pods[1].dropped[DropReason.NO_BUFFER] = 7
    after.pods[2].refused = 12
    ingresses, pods = relay_table.tables(before, after, 2.0, 20)
    assert ingresses.texts + ingresses.numbers == (
        "INGRESS", "TO", "STATE", "DATAGRAMS/S", "RATE", "BYTES", "DROPPED",
    )  # fmt: skip
    assert ingresses.rows == [
        (URL, "headless-udp", "listening", "1,000", "1.6 Mbit/s", "600 kB", "0"),
        ("udp://:5004", "cameras", "waiting", "0", "0 bit/s", "0 B", "4 loop"),
    ]
    assert isinstance(ingresses.rows[1][2], Alarm)
    assert pods.texts + pods.numbers == ("POD", "OF", "COPIES/S", "RATE", "BYTES", "REFUSED", "DROPPED")
    assert pods.rows == [
        ("10.0.0.1", "headless-udp", "750", "1.2 Mbit/s", "500 kB", "0", "0"),
        ("10.0.0.2", "headless-udp", "750", "1.2 Mbit/s", "500 kB", "0", "7 no_buffer"),
        ("10.0.0.3", "headless-udp", "1,250", "2.0 Mbit/s", "500 kB", "12", "0"),
    ]
    assert (ingresses.more, pods.more) == ("interface eth2 is not there", "")


def test_the_relays_table_has_as_many_rows_as_there_is_room_for() -> None:
    after = relayed(0, 4000, 0)
    after.pods[3999].refused = 1
    for room in (2, 3, 10, 30):
        ingresses, pods = relay_table.tables(after, after, 0.0, room)
        assert len(ingresses.rows) + len(pods.rows) == room
        assert pods.rows[0][0] == "10.0.0.4000"
        assert pods.more == f"and {4000 - len(pods.rows):,} more pods"
    many = RelayStats([IngressStats(f"udp://:{port}", "x") for port in range(1, 101)], [PodStats("10.0.0.1", "x")])
    ingresses, pods = relay_table.tables(many, many, 0.0, 20)
    assert (len(ingresses.rows), ingresses.more, len(pods.rows)) == (19, "and 81 more ingresses", 1)


def test_a_long_list_of_endpoints_takes_no_more_room_than_a_name() -> None:
    service = ",".join(f"10.0.0.{number}" for number in range(200))
    one = RelayStats([IngressStats(URL, service)], [PodStats("10.0.0.1", service)])
    for table in relay_table.tables(one, one, 0.0, 20):
        assert "10.0.0.0,10.0.0.1,10.0.0.2,10.0.0.3,10.…" in table.rows[0]
