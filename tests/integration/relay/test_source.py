"""A running ingress: all its ports or none, its counts, and its own relay among its pods."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from fanout.discovery.core.endpoints import Known
from fanout.errors import InvalidIngress, SocketUnavailable
from fanout.model import Endpoint, Service
from fanout.net import interfaces
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress
from fanout.relay.egress import SendBudget
from fanout.relay.self_filter import SelfFilter
from fanout.relay.service_pods import ServicePods
from fanout.relay.source import Source
from fanout.testing import ScriptedResolver
from tests.support.open_files import open_files
from tests.support.pods import Pod
from tests.support.ports import free_ports


def source_of(url: str, service: str = "10.0.0.1", interface_timeout: float = 60.0) -> Source:
    ingress = Ingress.parse(url, service=service)
    pods = ServicePods(Service(service, ingress.first_port), ScriptedResolver("10.0.0.1"))
    return Source(
        ingress, pods, None, SelfFilter([ingress]), SendBudget(), threading.RLock(),
        receive_buffer=4096, interface_timeout=interface_timeout,
    )  # fmt: skip


@pytest.fixture
def opened() -> Iterator[Callable[[str], Source]]:
    with contextlib.ExitStack() as stack:

        def make(url: str, service: str = "10.0.0.1") -> Source:
            source = source_of(url, service)
            stack.callback(source.close)
            source.open()
            return source

        yield make


def test_it_listens_on_each_port_and_says_so(opened: Callable[[str], Source], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fanout")
    first = free_ports(3)[0]
    source = opened(f"udp://127.0.0.1:{first}-{first + 2}")
    assert [port.socket.getsockname()[1] for port in source.ports] == [first, first + 1, first + 2]
    assert source.state.waiting is None
    assert not source.is_stale
    assert f"ingress_listening: udp://127.0.0.1:{first}-{first + 2} listens on 127.0.0.1" in caplog.messages


def test_a_range_is_opened_whole_or_not_at_all(pods: Callable[..., list[Pod]]) -> None:
    (taken,) = pods(1)
    host, port = taken.endpoint
    before = open_files()
    source = source_of(f"udp://{host}:{port - 2}-{port + 2}")
    with pytest.raises(SocketUnavailable, match="the port is in use"):
        source.open()
    assert source.ports == []
    assert open_files() == before


def test_it_waits_for_its_interface_as_long_as_it_may(caplog: pytest.LogCaptureFixture) -> None:
    source = source_of("mcast://239.1.1.1:5001@nowhere0", interface_timeout=10.0)
    for now in (100.0, 105.0):
        source.try_to_open(now)
    assert [record.getMessage() for record in caplog.records] == [f"ingress_waiting: {source.state.waiting}"]
    with pytest.raises(SocketUnavailable, match=r"there is no interface nowhere0 .* \(waited 10 s\)"):
        source.try_to_open(110.5)


def test_its_interface_going_down_and_coming_up_again_is_said_once(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fanout")
    source = opened(f"udp://127.0.0.1:{free_ports(1)[0]}@lo")
    caplog.clear()
    monkeypatch.setattr(interfaces, "is_up", lambda name: False)
    source.look_at_interface()
    source.look_at_interface()
    assert source.stats.waiting is not None
    assert "lo is down: run `ip link set lo up` (of a macvlan, for its parent)" in source.stats.waiting
    monkeypatch.setattr(interfaces, "is_up", lambda name: True)
    source.look_at_interface()
    assert source.stats.waiting is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "ingress_waiting", "ingress_listening",
    ]  # fmt: skip


def test_an_interface_that_was_replaced_makes_it_stale(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(f"udp://127.0.0.1:{free_ports(1)[0]}@lo")
    assert not source.is_stale
    monkeypatch.setattr(interfaces, "index", lambda name: 4711)
    assert source.is_stale
    source.close()
    assert not source.is_stale


def test_a_list_of_pods_with_the_relay_itself_is_refused() -> None:
    source = source_of("udp://0.0.0.0:5000", "127.0.0.1")
    with pytest.raises(InvalidIngress, match=r"ingress udp://0.0.0.0:5000: 127.0.0.1:5000 is this relay itself: name"):
        source.check_literals()
    source_of("udp://0.0.0.0:5000", "127.0.0.1:6000").check_literals()


def test_a_pod_that_is_the_relay_itself_gets_no_copy(caplog: pytest.LogCaptureFixture) -> None:
    source = source_of("udp://127.0.0.1:5000-5001", "pods")
    source.pods.refresher.known = Known((Endpoint("127.0.0.1", 5000), Endpoint("127.0.0.11", 5000)))
    assert source.pods.follow()
    assert source.aim() == []
    for port, port_fanout in source.port_fanouts.items():
        assert [egress.endpoint for egress in port_fanout] == [Endpoint("127.0.0.11", port)]
    assert [record.getMessage().partition(" of ")[0] for record in caplog.records] == [
        "endpoint_is_ingress: 127.0.0.1:5000"
    ]
    source.pods.refresher.known = Known()
    assert source.pods.follow()
    assert {egress.endpoint.port for egress in source.aim()} == {5000, 5001}


def test_its_counts_have_the_drops_of_closed_sockets_too(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(f"udp://127.0.0.1:{free_ports(1)[0]}")
    source.counts.dropped[RelayDrop.LOOP] += 2
    monkeypatch.setattr("fanout.net.bind.drops", lambda listening: 3)
    assert source.stats.dropped == {RelayDrop.LOOP: 2, RelayDrop.KERNEL_BUFFER: 3}
    source.close()
    assert source.stats.dropped == {RelayDrop.LOOP: 2, RelayDrop.KERNEL_BUFFER: 3}
    assert source.counts.dropped == {RelayDrop.LOOP: 2}, "what is read is a copy"
