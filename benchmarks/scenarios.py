"""Ways of a message through fanout, each to be gone again and again in the same steps: see `benchmarks.calls`.

A scenario sets its parts up and yields a function that goes the way once, and returns False where something came in
between that is not always there: that time does not count. What a scenario knows of fanout beside its
public names is in the functions and classes whose docstrings begin with "Inside": they are what to adapt when modules
or their insides change.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any
from unittest import mock

from fanout import Endpoint, ReceiptStatus, Receiver, Sender
from fanout.net import interfaces
from fanout.protocol.receiving.dedup import CONFIRMED
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Run
from fanout.relay.relay import Relay
from fanout.ssdp import relay as ssdp_relay
from fanout.ssdp.core import message
from fanout.ssdp.core.message import Advert
from fanout.ssdp.lan import Lan
from fanout.ssdp.relay import SsdpRelay
from fanout.testing import MemoryTransport

Note = Callable[[FrameType, str, Any], None]
"""What `sys.setprofile` calls."""
Once = Callable[[], bool]
Scenario = Callable[[Note], AbstractContextManager[Once]]
"""Is given what notes calls, for threads of its own: that of the caller has it already."""

PAYLOAD = bytes(200)
_PATIENCE = 30.0  # seconds; ends what would never end
_DATAGRAM = 65_535


@contextlib.contextmanager
def plain_send(note: Note) -> Iterator[Once]:
    """Send one plain payload to two pods, over the transport in memory."""
    with Sender("10.0.0.1,10.0.0.2", transport=MemoryTransport()) as sender:
        yield lambda: sender.send(PAYLOAD).messages == 1


@contextlib.contextmanager
def confirmed_message(note: Note) -> Iterator[Once]:
    """Send one message to one pod and wait until it is confirmed: both ends.

    The sender's copies go through the transport in memory to a real socket, which a `Receiver` serves in a thread.
    The two threads take turns: the sender's side waits until the receiver has handled what it was given, has answered,
    and waits again. So the calls are in one order, as if there was one thread.
    """
    with _serving(note) as (address, idle), _socket() as pod:
        pod.connect(address)

        def copy(datagram: bytes, endpoint: Endpoint) -> list[bytes]:
            idle.clear()
            pod.send(datagram)
            _await(idle)
            return [pod.recv(_DATAGRAM)]

        with Sender("10.0.0.1", transport=MemoryTransport(pods=copy)) as sender:

            def once() -> bool:
                confirmation = sender.send(PAYLOAD, confirm=True, timeout=_PATIENCE)
                # What is looked at are fields: a property would count.
                (receipt,) = confirmation.receipts
                if receipt.status is not ReceiptStatus.CONFIRMED:
                    raise AssertionError(f"the message was not confirmed: {receipt}")
                return receipt.tries == 1  # on a machine that stood still, the pod is asked again

            yield once


@contextlib.contextmanager
def confirmed_in_memory(note: Note) -> Iterator[Once]:
    """Inside: the same without the receiver's socket, queue and loop: its state of frames is asked directly."""
    reception = Reception(1)

    def pod(datagram: bytes, endpoint: Endpoint) -> list[bytes]:
        taken = reception.take(Run(datagram, len(datagram), 1, endpoint, 0.0), 0.0)
        (pending,) = taken.pending
        return pending.state.settle(pending, CONFIRMED, 0.0)

    with Sender("10.0.0.1", transport=MemoryTransport(pods=pod)) as sender:

        def once() -> bool:
            (receipt,) = sender.send(PAYLOAD, confirm=True, timeout=_PATIENCE).receipts
            return receipt.status is ReceiptStatus.CONFIRMED and receipt.tries == 1

        yield once


@contextlib.contextmanager
def _serving(note: Note) -> Iterator[tuple[Endpoint, threading.Event]]:
    """Inside: serve a receiver in a thread; yield its address, and what is set whenever the thread begins to wait.

    A receiver waits in `poll`, of which the profiler tells before it is entered; no call follows it until something
    comes.
    """
    idle = threading.Event()
    receiver = Receiver(0, host="127.0.0.1")

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and argument.__name__ == "poll":
            idle.set()
        note(frame, event, argument)

    def serve() -> None:
        sys.setprofile(look)
        receiver.serve(lambda received: None)

    with receiver:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            _await(idle)
            yield receiver.address, idle
        finally:
            receiver.stop()
            thread.join()


def _await(event: threading.Event) -> None:
    if not event.wait(_PATIENCE):
        raise AssertionError("the receiver does not come back to its wait")


@contextlib.contextmanager
def datagram_to_handler(note: Note) -> Iterator[Once]:
    """Take one plain datagram from a receiver's socket to who iterates over the receiver."""
    with Receiver(0, host="127.0.0.1") as receiver, _socket() as source:
        source.connect(receiver.address)
        messages = iter(receiver)

        def once() -> bool:
            source.send(PAYLOAD)
            next(messages)
            return True

        yield once


@contextlib.contextmanager
def relayed_datagram(note: Note) -> Iterator[Once]:
    """Forward one datagram that came to a port of a relay to two pods: sockets on loopback."""
    with _socket("127.0.0.11") as first, _socket("127.0.0.12") as second, _socket() as source:
        pods = ",".join(f"{host}:{port}" for host, port in (first.getsockname(), second.getsockname()))
        with _socket("127.0.0.77") as free:
            place = free.getsockname()
        with Relay(pods, [f"udp://{place[0]}:{place[1]}"]) as relay:
            turn = _turn_of(relay)

            def once() -> bool:
                source.sendto(PAYLOAD, place)
                turn()
                for pod in (first, second):
                    pod.recv(_DATAGRAM)
                return True

            yield once


def _turn_of(relay: Relay) -> Callable[[], None]:
    """Inside: return what gives a relay's one port its turn, as `serve` does, which looks after its pods as well."""
    deadline = time.monotonic() + _PATIENCE
    while not relay._ports:  # until its pods are known
        if time.monotonic() > deadline:
            raise AssertionError("the relay does not begin to read")
        relay._check(time.monotonic())
        time.sleep(0.001)
    ((source, port),) = relay._ports.values()
    return lambda: relay._turn(source, port)


def _socket(host: str = "127.0.0.1") -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(_PATIENCE)
    opened.bind((host, 0))
    return opened


# A search of the LAN.

RELAY, CLIENT = "192.168.1.2", ("192.168.1.5", 40_000)
TARGET = "urn:schemas-upnp-org:device:MediaServer:1"
_UDN = "uuid:00000001-aaaa-bbbb-cccc-000000000000"


@contextlib.contextmanager
def search_and_answer(note: Note) -> Iterator[Once]:
    """Ask a pod what a client of the LAN searches, and answer the client.

    Everything is known by then: the pod and its device, which has a port of the relay, and was announced. The pod and
    the client are sockets on loopback; the client's has another address as the relay sees it. The clock of the event
    loop stands still, so that nothing is done but what the datagrams bring about: the search is not ended, and nothing
    is answered in the pod's place.
    """
    with contextlib.ExitStack() as stack:
        pod, client = (stack.enter_context(_socket(host)) for host in ("127.0.0.11", "127.0.0.30"))
        for each in (pod, client):
            each.setblocking(False)
        lan = stack.enter_context(_lan(client))
        relay = stack.enter_context(_media_relay(*pod.getsockname()))
        runner = stack.enter_context(asyncio.Runner(loop_factory=StillLoop))
        location = f"http://{pod.getsockname()[0]}:{pod.getsockname()[1]}/rootDesc.xml"

        # Made before, since that would count.
        question = message.search(TARGET, 1)
        root, answer = (
            message.answer(Advert(target, f"{_UDN}::{target}", location), target)
            for target in (message.ROOT_DEVICE, TARGET)
        )

        async def asked() -> Any:
            _, place = await asyncio.get_running_loop().sock_recvfrom(pod, _DATAGRAM)
            return place

        async def begin() -> None:
            relaying = _serve(relay)
            place = await asked()
            tasks = len(asyncio.all_tasks())
            pod.sendto(root, place)
            pod.sendto(answer, place)
            # The relay tries to read what the device is called, in a task of its own, and finds that nobody serves it.
            deadline = time.monotonic() + _PATIENCE
            while not relay.stats.devices or len(asyncio.all_tasks()) > tasks:
                if relaying.done() or time.monotonic() > deadline:
                    raise AssertionError("the relay does not settle")
                _tend(relay)
                await asyncio.sleep(0)

        async def search() -> bool:
            client.sendto(question, lan[0].getsockname())
            pod.sendto(answer, await asked())
            await asyncio.get_running_loop().sock_recv(client, _DATAGRAM)
            return True

        runner.run(begin())
        yield lambda: runner.run(search())


class StillLoop(asyncio.SelectorEventLoop):
    """Its time does not pass: nothing happens by itself, and what comes to sockets is taken."""

    def time(self) -> float:
        return 0.0


class LanSocket(socket.socket):
    """A socket on loopback that reports the address of a client on the LAN, and sends to nobody else."""

    client: socket.socket

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receive what the client sent."""
        return super().recvfrom(size, flags)[0], CLIENT

    def sendto(self, data: bytes, address: Any) -> int:  # type: ignore[override]
        """Send to the client; what is for the group, announcements, is let go."""
        return super().sendto(data, self.client.getsockname()) if address == CLIENT else len(data)


@contextlib.contextmanager
def _lan(client: socket.socket) -> Iterator[list[LanSocket]]:
    """Inside: replace a relay's LAN by one of the real class that is opened otherwise; yield its sockets.

    The kernel is asked for the way to a client, as always, and not believed.
    """
    sockets = [LanSocket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ("group", "unicast")]
    source = interfaces.source
    for each in sockets:
        each.client = client
        each.setblocking(False)
        each.bind(("127.0.0.20", 0))

    class LanOnLoopback(Lan):
        is_stale = False

        def open(self) -> None:
            self.address, self._addresses = RELAY, frozenset({RELAY})
            self._networks = [ipaddress.IPv4Interface(f"{RELAY}/24")]
            self.sockets = list(sockets)

    with (
        mock.patch.object(ssdp_relay, "Lan", LanOnLoopback),
        mock.patch.object(interfaces, "source", lambda address, scope="": (source(address, scope), RELAY)[1]),
    ):
        yield sockets
    for each in sockets:
        each.close()


@contextlib.contextmanager
def _media_relay(host: str, port: int) -> Iterator[SsdpRelay]:
    """Open a relay for one pod, and wait until it knows that pod's address."""
    with SsdpRelay(f"{host}:{port}", "lan0", descriptions=()) as relay:
        deadline = time.monotonic() + _PATIENCE
        while not relay.stats.endpoints:
            if time.monotonic() > deadline:
                raise AssertionError("the relay's pod does not become known")
            time.sleep(0.001)
        yield relay


def _serve(relay: SsdpRelay) -> asyncio.Task[None]:
    """Inside: begin to serve, as `serve` does with an event loop of its own."""
    return asyncio.get_running_loop().create_task(relay._serve())


def _tend(relay: SsdpRelay) -> None:
    """Inside: do what a relay does ten times a second, unless its clock stands still."""
    relay._tend(time.monotonic())


SCENARIOS: dict[str, Scenario] = {
    "plain send": plain_send,
    "confirmed message": confirmed_message,
    "confirmed in memory": confirmed_in_memory,
    "datagram to handler": datagram_to_handler,
    "relay datagram": relayed_datagram,
    "M-SEARCH and answer": search_and_answer,
}
