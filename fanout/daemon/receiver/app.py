"""The receiver's life: listen, log, be ready, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from fanout.daemon.common import live, logs
from fanout.daemon.common.admin import AdminServer
from fanout.daemon.common.rates import TextTable, Window
from fanout.daemon.receiver import events, messages
from fanout.daemon.receiver.handlers import Handler, make_handler
from fanout.daemon.receiver.handling import Handling
from fanout.daemon.receiver.questions import counters
from fanout.daemon.receiver.table import tables
from fanout.limiter import LineLimiter
from fanout.metrics import ReceiverCollector
from fanout.model import Message
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.engine import ReceiverStats
from fanout.receiver.queue import MessageBatch

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEARTBEAT = 1.0
_HEARTBEAT_OVERDUE = 10.0
_LINES_A_TURN = 32  # of the event loop: some milliseconds
_GRACE = 1.0  # seconds for handlers after the drain


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """How to receive and log; the defaults are those of `fanout receive`."""

    host: str | None
    port: int
    admin_port: int
    """0 for none."""
    receive_buffer: int
    workers: int
    overflow: str
    log_level: str
    log_format: str
    log_file: str | None
    log_rate: float
    """Lines a second for messages; 0 for all."""
    log_payload: int
    """Bytes of each payload to log."""
    drain: float
    """Seconds to go on receiving after SIGTERM: as long as senders may still have this pod's address."""
    exec_: str | None
    """A command that is run for each message."""
    exec_timeout: float
    """Seconds after which it is killed."""
    handler: str | None
    """A function that is called for each message, as `module:function`."""
    reply_to_anyone: bool
    accept_plaintext: bool
    key_file: str | None
    cluster: str


def run(settings: ReceiverSettings) -> None:
    """Receive, handle and log until SIGTERM or SIGINT; raise `FanoutError` where it cannot start."""
    with contextlib.ExitStack() as stack:
        handler = make_handler(settings.exec_, settings.handler, settings.exec_timeout)
        if handler is not None:
            stack.callback(handler.close)
        stream = logs.LogStream(settings.log_file)
        asyncio.run(_ReceiverApp(settings, stream, handler, stack).run())


class _ReceiverApp(Collector):
    def __init__(
        self, settings: ReceiverSettings, stream: logs.LogStream, handler: Handler | None, stack: contextlib.ExitStack
    ) -> None:
        self._settings = settings
        self._stream = stream
        self._stack = stack
        self._log = logs.configure(stream, settings.log_format, settings.log_level)
        self._receiver = AsyncReceiver(
            settings.port,
            host=settings.host,
            receive_buffer=settings.receive_buffer,
            workers=settings.workers,
            overflow=settings.overflow,
            key_file=settings.key_file,
            cluster=settings.cluster,
            accept_plaintext=settings.accept_plaintext,
            reply_to_anyone=settings.reply_to_anyone,
        )
        self._has_handler = handler is not None
        self._handling = Handling(self._receiver, handler)
        self._limiter = LineLimiter(settings.log_rate)
        self._suppressed = 0
        self._unasked = 0  # messages since the last look that the limiter need not be asked about
        self._kernel_drops = 0
        self._queue_drops = 0
        self._is_ready = False
        self._beat = time.monotonic()
        self._terminate = asyncio.Event()

    async def run(self) -> None:
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        async with self._receiver as receiver:
            admin = self._open_admin()
            try:
                self._is_ready = True
                self._log.info(
                    events.RECEIVER_STARTED,
                    address=str(receiver.address),
                    admin=None if admin is None else str(admin.address),
                    receive_buffer=receiver.stats.receive_buffer,
                )
                self._stream.started()
                if live.is_wanted(settings.log_format):
                    self._stack.enter_context(live.LiveTables(self._stream, self._look(str(receiver.address))))
                background = [
                    asyncio.create_task(self._keep_house()),
                    asyncio.create_task(self._drain_when_told(settings.drain)),
                ]
                if self._has_handler:
                    async for message in receiver:
                        await self._settle(message)
                else:
                    async for batch in receiver.batches():
                        await self._take(batch)
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
            finally:
                if admin is not None:
                    admin.close()
            self._tidy()
            self._log.info(
                events.RECEIVER_STOPPED,
                **counters(receiver.stats),
                unhandled=self._handling.unhandled,
                suppressed_lines=self._suppressed,
                lost_lines=self._stream.lost_lines,
            )

    def collect(self) -> Iterator[Metric]:
        """Yield the app's own metrics."""
        yield CounterMetricFamily(
            "fanout_receiver_log_lines_suppressed",
            "Message lines left out by the rate limit.",
            self._suppressed,
        )
        yield CounterMetricFamily(
            "fanout_receiver_log_lines_lost", "Lines that could not be written.", self._stream.lost_lines
        )

    def _open_admin(self) -> AdminServer | None:
        if self._settings.admin_port == 0:
            return None
        registry = CollectorRegistry()
        registry.register(ReceiverCollector(lambda: self._receiver.stats))
        registry.register(self)
        return AdminServer(
            self._settings.host,
            self._settings.admin_port,
            registry,
            alive=self._why_dead,
            ready=self._why_unready,
        )

    async def _take(self, batch: list[Message]) -> None:
        """Log messages; settle one by one where their senders may ask."""
        if isinstance(batch, MessageBatch) and batch.may_ask:
            for index, message in enumerate(batch):
                await self._settle(message)
                if index % _LINES_A_TURN == _LINES_A_TURN - 1:
                    await asyncio.sleep(0)
            return
        now = time.monotonic()
        for index, message in enumerate(batch):
            if not self._limiter.allow(now):
                # Nor are the others, at the same time: under a flood a message must not cost more than its count.
                self._unasked += len(batch) - index - 1
                return
            self._log_message(message, {})
            if index % _LINES_A_TURN == _LINES_A_TURN - 1:
                await asyncio.sleep(0)

    async def _settle(self, message: Message) -> None:
        said = await self._handling.settle(message)
        if self._limiter.allow(time.monotonic()):
            self._log_message(message, said)

    def _log_message(self, message: Message, said: dict[str, Any]) -> None:
        try:
            fields = messages.message_fields(message, self._settings.log_payload)
            self._log.info(events.MESSAGE_RECEIVED, **fields, **said)
        except Exception as error:
            self._receiver.handler_failed(message, error)  # one message is no reason to receive no more

    def _look(self, address: str) -> Callable[[int], list[TextTable]]:
        window: Window[ReceiverStats] = Window()

        def look(room: int) -> list[TextTable]:
            stats = self._receiver.stats
            before, seconds = window.add(time.monotonic(), stats)
            return tables(address, before, stats, seconds, self._receiver.senders, room)

        return look

    def _why_dead(self) -> str | None:
        silence = time.monotonic() - self._beat
        return f"the event loop has been stuck for {silence:.0f} s" if silence > _HEARTBEAT_OVERDUE else None

    def _why_unready(self) -> str | None:
        return None if self._is_ready else "draining"

    def _on_signal(self) -> None:
        if self._terminate.is_set():
            self._receiver.stop()  # told twice: do not wait for the drain
            self._handling.give_up()
        self._terminate.set()

    async def _drain_when_told(self, seconds: float) -> None:
        await self._terminate.wait()
        self._is_ready = False
        self._log.info(events.RECEIVER_DRAINING, seconds=seconds)
        await asyncio.sleep(seconds)
        self._receiver.stop()
        await asyncio.sleep(_GRACE)
        self._handling.give_up()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT)
            self._beat = time.monotonic()
            self._tidy()

    def _tidy(self) -> None:
        """Log how many lines were left out, and how many datagrams were dropped, since the last time."""
        suppressed = self._limiter.take_suppressed() + self._unasked
        self._unasked = 0
        if suppressed:
            self._suppressed += suppressed
            self._log.warning(events.MESSAGES_SUPPRESSED, count=suppressed)
        stats = self._receiver.stats
        if stats.kernel_drops > self._kernel_drops:
            self._log.warning(events.KERNEL_DROPPED, count=stats.kernel_drops - self._kernel_drops)
            self._kernel_drops = stats.kernel_drops
        if stats.queue_drops > self._queue_drops:
            self._log.warning(events.QUEUE_DROPPED, count=stats.queue_drops - self._queue_drops)
            self._queue_drops = stats.queue_drops
