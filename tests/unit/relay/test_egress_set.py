"""All ways out of a relay, on a kernel that is scripted: tried again, watched while they are full, counted."""

from __future__ import annotations

import errno
import select
import threading
from collections import deque
from typing import Any

import pytest

from fanout.model import Endpoint
from fanout.protocol.sending.batch import Segments
from fanout.relay import egress_set as module
from fanout.relay.core.ingress import Ingress
from fanout.relay.egress import Egress, SendBudget
from fanout.relay.egress_set import EgressSet
from fanout.relay.port_fanout import PortFanout
from fanout.relay.self_filter import SelfFilter
from tests.support import kernel
from tests.support.egress import POD, on
from tests.support.kernel import Kernel


class ScriptedPods:
    """The pods of a Service, which change when a test says so."""

    def __init__(self) -> None:
        self.has_changed = False

    def follow(self) -> bool:
        changed, self.has_changed = self.has_changed, False
        return changed


class ScriptedSource:
    """An ingress with one port, whose datagrams go to the pods that a test sets."""

    def __init__(self, scripted: Kernel) -> None:
        self.ingress = Ingress.parse("udp://:5000", service="pods")
        self.pods = [POD]
        self.aimed = 0
        self.port_fanout = PortFanout(
            SendBudget(), make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(scripted))
        )
        self.port_fanouts = {5000: self.port_fanout}

    def aim(self) -> list[Any]:
        self.aimed += 1
        return [*self.port_fanout.aim(self.pods, lambda host: True)]


class ScriptedPoll:
    """Keeps which descriptors are waited for."""

    def __init__(self) -> None:
        self.waited: set[int] = set()

    def register(self, descriptor: int, events: int) -> None:
        assert events == select.EPOLLOUT
        assert descriptor not in self.waited
        self.waited.add(descriptor)

    def unregister(self, descriptor: int) -> None:
        self.waited.remove(descriptor)


class World:
    def __init__(self, scripted: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr("fanout.net.interfaces.is_local", lambda host: True)
        self.pods, self.source, self.poll = ScriptedPods(), ScriptedSource(scripted), ScriptedPoll()
        of: Any = {"pods": self.pods}
        sources: Any = [self.source]
        self.egress_set = EgressSet(of, sources, SelfFilter([]), threading.RLock())
        self.egress_set.aim()

    def send(self, *payloads: bytes) -> None:
        poll: Any = self.poll
        runs = [Segments(payload, len(payload), 1) for payload in payloads]
        self.egress_set.send(self.source.port_fanout, runs, poll)

    def flush(self, descriptor: int) -> bool:
        poll: Any = self.poll
        return self.egress_set.flush(descriptor, poll)


def test_what_a_full_socket_did_not_take_leaves_when_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Kernel(script=deque([kernel.FULL, kernel.FULL]))
    world = World(scripted, monkeypatch)
    world.send(b"first", b"second")
    (descriptor,) = world.poll.waited
    assert world.egress_set.is_full
    world.send(b"third")
    assert scripted.taken == [], "nothing overtakes what waits"
    assert not world.flush(descriptor + 1)
    assert world.flush(descriptor)
    while world.egress_set.is_full:
        assert world.flush(descriptor)
    assert [payload for _, payload in scripted.taken] == [b"first", b"second", b"third"]
    assert not world.poll.waited
    assert not world.flush(descriptor)


def test_who_is_gone_is_waited_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Kernel(script=deque([kernel.FULL])), monkeypatch)
    world.send(b"first")
    (descriptor,) = world.poll.waited
    world.source.pods = []
    world.pods.has_changed = True
    world.egress_set.follow(may_have_moved=False)
    assert not world.egress_set.is_full
    assert not world.flush(descriptor)
    assert world.egress_set.pod_stats == []
    assert world.egress_set.left.dropped == {"no_buffer": 1}, "what was lost of it stays counted"


def test_a_pod_without_a_way_is_said_once_and_tried_again_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Kernel(bad={POD: errno.ENETUNREACH})
    world = World(scripted, monkeypatch)
    tried = []
    for _ in range(400):
        before = world.source.aimed
        world.egress_set.follow(may_have_moved=True)
        if world.source.aimed > before:
            tried.append(world.now - 100.0)
        world.now += 0.5
    assert tried == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0, 121.0, 151.0, 181.0]
    assert [record.getMessage() for record in caplog.records] == [
        f"pod_left_out: all copies for {POD.host} are dropped: "
        "no route to that network: does this machine have that address family?"
    ]
    scripted.bad.clear()
    world.now += 30.0
    world.egress_set.follow(may_have_moved=False)
    before = world.source.aimed
    world.now += 30.0
    world.egress_set.follow(may_have_moved=False)
    assert world.source.aimed == before, "there is a way"
    world.send(b"x")
    assert [endpoint for endpoint, _ in scripted.taken] == [POD]


def test_what_went_to_each_pod_is_counted_with_those_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Endpoint("10.0.0.8", 12_000)
    world = World(Kernel(), monkeypatch)
    world.source.pods = [POD, other]
    world.pods.has_changed = True
    world.egress_set.follow(may_have_moved=False)
    world.send(b"abc", b"d")
    assert [(pod.host, pod.sent, pod.bytes) for pod in world.egress_set.pod_stats] == [
        (POD.host, 2, 4), (other.host, 2, 4),
    ]  # fmt: skip
    world.source.pods = [other]
    world.pods.has_changed = True
    world.egress_set.follow(may_have_moved=False)
    (pod,) = world.egress_set.pod_stats
    assert (pod.host, pod.sent) == (other.host, 2)
    assert world.egress_set.left.sent + pod.sent == 4
    world.egress_set.close()
    (pod,) = world.egress_set.pod_stats
    assert world.egress_set.left.sent + pod.sent == 4
