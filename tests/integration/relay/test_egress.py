"""One pod's way out: what its socket does not take waits, within bounds, or is counted."""

from __future__ import annotations

import errno
import resource
import socket
import subprocess
import sys
from collections import deque

from fanout.model import Endpoint
from fanout.net import bind
from fanout.protocol.sending.batch import Segments
from fanout.relay.egress import WAITING_MAX, Egress, SendBudget
from fanout.report import DropReason
from tests.support import kernel
from tests.support.egress import egress_on, run_of
from tests.support.kernel import Kernel
from tests.support.namespace import cabled_hosts


def test_a_run_that_a_device_cannot_cut_leaves_one_by_one_from_then_on() -> None:
    scripted = Kernel(gso_limit=1000)
    egress = egress_on(scripted)
    for _ in range(3):
        egress.send([run_of(1400, 4, 1400, 1)])
        egress.send([run_of(900, 4, 900, 2)])
    assert egress.sent == 24
    assert scripted.calls == 3 * 4 + 3, "the smaller ones leave as runs all the same"


def test_what_a_pod_does_not_take_waits_and_beyond_that_is_counted() -> None:
    scripted = Kernel(script=deque([kernel.FULL]))
    egress = egress_on(scripted)
    size = 65_000
    egress.send([run_of(size, 1, size, number) for number in range(20)])
    kept = WAITING_MAX // size
    assert egress.is_blocked
    assert (egress.sent, egress.dropped) == (0, {DropReason.NO_BUFFER: 20 - kept})
    egress.flush()
    assert not egress.is_blocked
    assert [payload[0] for _, payload in scripted.taken] == list(range(kept))


def test_all_pods_together_may_not_hold_more_than_there_is_room() -> None:
    budget = SendBudget(1000)
    egresses = [egress_on(Kernel(script=deque([kernel.FULL])), budget) for _ in range(3)]
    for egress in egresses:
        egress.send([run_of(400, 1, 400, 1)])
    assert [egress.is_blocked for egress in egresses] == [True, True, False]
    assert egresses[2].dropped == {DropReason.NO_BUFFER: 1}
    for egress in egresses:
        egress.close()
    assert budget.left == 1000
    assert [egress.dropped for egress in egresses] == [{DropReason.NO_BUFFER: 1}] * 3


def test_some_open_files_are_left_to_others() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 65, hard))
        try:
            egresses = [Egress(Endpoint("127.0.0.1", 9), SendBudget()) for _ in range(3)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [egress.broken for egress in egresses] == [errno.EMFILE] * 3
    egresses[0].renew()
    assert not egresses[0].broken
    egresses[0].close()


def test_what_pods_answer_takes_no_memory() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.bind(("127.0.0.1", 0))
        egress = Egress(Endpoint(*pod.getsockname()), SendBudget())
        egress.send([Segments(b"x", 1, 1)])
        _, source = pod.recvfrom(10)
        for _ in range(10):
            pod.sendto(bytes(1000), source)
        opened = egress._socket
        assert opened is not None
        assert bind.held(opened) == 0
        egress.close()


WITHOUT_NEIGHBOUR = """
import select
from fanout.protocol.sending.batch import Segments
from fanout.model import Endpoint
from fanout.relay import egress
egress.SEND_BUFFER = 0
pod = egress.Egress(Endpoint("10.9.0.77", 12000), egress.SendBudget())
for number in range(100):
    pod.send([Segments(bytes(1000), 1000, 1)])
assert pod.is_blocked
assert 0 < pod.sent < 100 and not pod.dropped
while pod.is_blocked:
    select.select([], [pod.fileno()], [])
    pod.flush()
assert pod.sent + sum(pod.dropped.values()) == 100
assert pod.refused
"""


def test_a_real_socket_is_full_while_nobody_answers_for_the_address() -> None:
    with cabled_hosts("10.9.0.1", "10.9.0.2") as (here, _):
        # Give up at once on whom nobody knows: each round takes a second otherwise.
        for name in ("mcast_solicit", "retrans_time_ms"):
            here.run("sysctl", "-qw", f"net.ipv4.neigh.eth0.{name}={20 if 'time' in name else 1}")
        done = subprocess.run(
            [*here.command, sys.executable, "-c", WITHOUT_NEIGHBOUR], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
