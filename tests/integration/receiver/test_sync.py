from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest

import fanout
import fanout.receiver.engine
from fanout.model import Message
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.engine import BATCH, CAPACITY
from fanout.receiver.sync import Receiver
from tests.support.datagrams import FLOOD, send_to
from tests.support.needs import require_address
from tests.support.waiting import PATIENCE, until, until_async

SIZES = [0, 1, 1200, 65_507]
NUMBERED = [b"%d" % number for number in range(FLOOD)]


def receive_sync(
    act: Callable[[int], None], capacity: int = CAPACITY, *, workers: int = 1, batches: bool = False
) -> list[Message]:
    """Open, let `act` send to the port, stop at the first message, and return what was handed over."""
    got: list[Message] = []
    with Receiver(0, capacity=capacity, workers=workers) as receiver:
        act(receiver.address.port)
        for some in checked(receiver.batches()) if batches else ([message] for message in receiver):
            got += some
            receiver.stop()
    return got


def receive_async(
    act: Callable[[int], None], capacity: int = CAPACITY, *, workers: int = 1, batches: bool = False
) -> list[Message]:
    async def run() -> list[Message]:
        got: list[Message] = []
        async with AsyncReceiver(0, capacity=capacity, workers=workers) as receiver:
            act(receiver.address.port)
            if batches:
                async for batch in receiver.batches():
                    got += [message for some in checked([batch]) for message in some]
                    receiver.stop()
            else:
                async for message in receiver:
                    got.append(message)
                    receiver.stop()
        return got

    return asyncio.run(run())


def checked(batches: Iterable[list[Message]]) -> Iterator[list[Message]]:
    for batch in batches:
        assert 1 <= len(batch) <= BATCH
        yield batch


def every_way(receive: Callable[..., list[Message]]) -> list[object]:
    name = {receive_sync: "Receiver", receive_async: "AsyncReceiver"}[receive]
    return [
        pytest.param(partial(receive, workers=workers, batches=batches), id=f"{name}-{workers}-{form}")
        for workers in (1, 3)
        for batches, form in ((False, "messages"), (True, "batches"))
    ]


BOTH = pytest.mark.parametrize("receive", [*every_way(receive_sync), *every_way(receive_async)])


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_arrive_whole_from_both_families(
    receive: Callable[..., list[Message]], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_address(host)
    payloads = [bytes(size) for size in SIZES]
    now = time.time() + 1000
    monkeypatch.setattr(time, "time", lambda: now)
    messages = receive(lambda port: send_to(port, payloads, host))
    assert [message.payload for message in messages] == payloads
    assert {message.source.host for message in messages} == {host}
    assert {message.received_at for message in messages} == {now}


@BOTH
def test_what_was_received_before_stop_is_handed_over(receive: Callable[..., list[Message]]) -> None:
    assert [message.payload for message in receive(lambda port: send_to(port, NUMBERED))] == NUMBERED


@BOTH
def test_what_a_small_queue_leaves_to_the_kernel_is_handed_over_at_the_end(
    receive: Callable[..., list[Message]],
) -> None:
    messages = receive(lambda port: send_to(port, NUMBERED), capacity=7)
    assert [message.payload for message in messages] == NUMBERED


def test_kernel_drops_are_counted() -> None:
    handed_over = 0
    with Receiver(0, receive_buffer=4096) as receiver:
        send_to(receiver.address.port, [bytes(1000)] * 500)
        drops = receiver.stats.kernel_drops
        for _ in receiver:
            handed_over += 1
            receiver.stop()
    assert drops > 0
    assert handed_over + drops == 500
    assert receiver.stats.kernel_drops == drops


def test_a_clamped_buffer_is_warned_of_with_the_sysctl(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fanout")
    with Receiver(0, receive_buffer=1 << 30) as receiver:
        granted = receiver.stats.receive_buffer
    assert 0 < granted < 1 << 30
    assert "net.core.rmem_max" in caplog.text


@pytest.mark.parametrize("size", [-1, 0, "x", 1.5, None, True])
def test_bad_receive_buffers(size: object) -> None:
    for kind in (Receiver, AsyncReceiver):
        with pytest.raises(fanout.InvalidInput, match="receive_buffer must be a number of bytes") as caught:
            kind(0, receive_buffer=size)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_busy_port_is_one_sentence() -> None:
    with Receiver(0) as first, pytest.raises(fanout.SocketUnavailable, match="in use") as caught:
        Receiver(first.address.port).open()
    assert "\n" not in str(caught.value)
    with Receiver(0, host="127.0.0.1") as local, pytest.raises(fanout.SocketUnavailable):
        Receiver(local.address.port).open()


@pytest.mark.parametrize(
    ("host", "port"), [("pod", 0), ("", 0), (5, 0), (bytes(4), 0), ("127.0.0.1", 70_000), ("127.0.0.1", -1)]
)
def test_bad_addresses(host: object, port: int) -> None:
    with pytest.raises(fanout.InvalidService):
        Receiver(port, host=host).open()  # type: ignore[arg-type]


def test_an_address_of_another_machine() -> None:
    with pytest.raises(fanout.SocketUnavailable, match="no interface"):
        Receiver(0, host="192.0.2.1").open()


def test_serve_counts_what_handlers_raise(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bytes] = []

    def handler(message: Message) -> None:
        seen.append(message.payload)
        if message.payload == b"bad":
            raise ValueError("bad payload")
        if message.payload == b"2":
            receiver.stop()

    with Receiver(0) as receiver:
        send_to(receiver.address.port, [b"1", b"bad", b"2"])
        receiver.serve(handler)
        assert receiver.stats.handler_errors == 1
    assert seen == [b"1", b"bad", b"2"]
    assert "ValueError: bad payload" in caplog.text


def test_a_flood_of_handler_errors_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 5.0
    monkeypatch.setattr(fanout.receiver.engine, "time", SimpleNamespace(monotonic=lambda: now))

    def handler(message: Message) -> None:
        nonlocal now
        if message.payload == b"last":
            now += 1.0
            receiver.stop()
        raise ValueError("always")

    with Receiver(0) as receiver:
        send_to(receiver.address.port, [*NUMBERED, b"last"])
        receiver.serve(handler)
        assert receiver.stats.handler_errors == FLOOD + 1
    lines = [line for line in caplog.messages if line.startswith("handler_failed")]
    assert len(lines) == 11
    assert lines[9].endswith(": ValueError: always (0 such lines left out before)")
    assert lines[10].endswith(f": ValueError: always ({FLOOD - 10} such lines left out before)")


async def all_taken(receiver: AsyncReceiver, sent: int) -> None:
    await until_async(lambda: receiver.stats.datagrams == sent)


def test_a_slow_consumer_does_not_keep_the_kernel_buffer_full() -> None:
    """While a handler awaits, datagrams are taken from the kernel: ten times what its buffer holds."""

    async def run() -> tuple[int, int]:
        async with AsyncReceiver(0, receive_buffer=30_000) as receiver:
            go_on = asyncio.Event()

            async def handler(message: Message) -> None:
                await go_on.wait()

            serving = asyncio.create_task(receiver.serve(handler))
            for sent in range(40, 801, 40):
                send_to(receiver.address.port, [bytes(100)] * 40)
                await all_taken(receiver, sent)
            depth = receiver.stats.queue_depth
            receiver.stop()
            go_on.set()
            await serving
            assert receiver.stats.datagrams == 800
            return depth, receiver.stats.kernel_drops

    assert asyncio.run(run()) == (799, 0)


def test_life_cycle_and_repr() -> None:
    receiver = Receiver(0, host="127.0.0.1")
    assert repr(receiver) == "<Receiver not opened>"
    assert receiver.stats.datagrams == 0
    with pytest.raises(fanout.Closed):
        _ = receiver.address
    with receiver:
        assert repr(receiver) == f"<Receiver on 127.0.0.1:{receiver.address.port}>"
    receiver.stop()
    receiver.close()
    assert repr(receiver) == "<Receiver stopped>"
    with pytest.raises(fanout.Closed):
        receiver.open()


def test_breaking_out_and_going_on() -> None:
    with Receiver(0) as receiver:
        send_to(receiver.address.port, [b"%d" % number for number in range(100)])
        first = next(iter(receiver))
        second = next(iter(receiver))
    assert (first.payload, second.payload) == (b"0", b"1")


def test_an_iteration_inside_another_loses_nothing() -> None:
    payloads = [b"%d" % number for number in range(100)]
    got: list[bytes] = []
    with Receiver(0) as receiver:
        send_to(receiver.address.port, payloads)
        for outer in receiver:
            got.append(outer.payload)
            for inner in receiver:
                got.append(inner.payload)
                break
            if len(got) == len(payloads):
                break
    assert got == payloads


def test_close_forgets_what_was_not_handed_over() -> None:
    with Receiver(0) as receiver:
        send_to(receiver.address.port, [b"x"] * 10)
        messages = iter(receiver)
        next(messages)
    assert list(messages) == []
    assert receiver.stats.datagrams == 10


@pytest.mark.parametrize("end", [Receiver.stop, Receiver.close], ids=["stop", "close"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batches", [False, True], ids=["messages", "batches"])
def test_another_thread_ends_a_waiting_iteration(end: Callable[[Receiver], None], workers: int, batches: bool) -> None:
    got: list[object] = []
    with Receiver(0, workers=workers) as receiver:
        iteration = receiver.batches() if batches else receiver
        waiting = threading.Thread(target=lambda: got.extend(iteration))
        waiting.start()
        send_to(receiver.address.port, [b"x"])
        until(lambda: got)  # and it goes on waiting
        end(receiver)
        waiting.join()
    assert len(got) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_are_opened_once_it_is_closed_are_not_waited_for(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get the numbers of what was closed."""
    make = select.poll
    with contextlib.ExitStack() as stack, Receiver(0, workers=workers) as receiver:

        class Late:
            """Waits once another thread has closed the receiver and has opened files."""

            def __init__(self) -> None:
                self._poll = make()
                self.register = self._poll.register

            def poll(self) -> None:
                closing = threading.Thread(target=receiver.close)
                closing.start()
                closing.join()
                for _ in range(10):
                    for opened in socket.socketpair():
                        stack.enter_context(opened)
                assert self._poll.poll(1000 * PATIENCE), "it was woken up"

        monkeypatch.setattr(select, "poll", Late)
        assert list(receiver) == []


def test_batches_go_on_where_messages_were_broken_out_of() -> None:
    payloads = [b"%d" % number for number in range(100)]
    with Receiver(0) as receiver:
        send_to(receiver.address.port, payloads)
        got = [next(iter(receiver)).payload]
        assert receiver.stats.queue_depth == 99
        batches = receiver.batches()
        while len(got) < 50:
            got += [message.payload for message in next(batches)]
        while len(got) < 100:
            got.append(next(iter(receiver)).payload)
    assert got == payloads
