"""`fanout receive`: listen, log, handle, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from fanout.daemon.common import events
from fanout.daemon.common.logs import LogStream
from fanout.daemon.common.process import CHECK_INTERVAL, STOP_SIGNALS, Process, ProcessSettings, Program, open_log
from fanout.daemon.core.receiver_table import tables
from fanout.daemon.core.text_table import TextTable
from fanout.daemon.receiver.builtin_queries import counters
from fanout.daemon.receiver.dispatcher import Dispatcher
from fanout.daemon.receiver.handlers import Handler, make_handler
from fanout.daemon.receiver.message_log import LINES_A_TURN, MessageLog
from fanout.metrics import ReceiverCollector
from fanout.model import Message
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.core.stats import ReceiverStats
from fanout.receiver.queue import MessageBatch

_GRACE = 1.0
"""Seconds for handlers after the drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings(ProcessSettings):
    """How to receive and log; the defaults are those of `fanout receive`."""

    host: str | None
    port: int
    receive_buffer: int
    workers: int
    overflow: str
    log_rate: float
    """Lines a second for messages; 0 for all."""
    log_payload: int
    """Bytes of each payload to log."""
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
        stream, log = open_log(settings)
        program = _ReceiverProgram(settings, handler, stream, log)
        process = stack.enter_context(Process(settings, program, stream, log))
        asyncio.run(program.run(process))


class _ReceiverProgram(Program[ReceiverStats], Collector):
    started, draining, stopped = events.RECEIVER_STARTED, events.RECEIVER_DRAINING, events.RECEIVER_STOPPED
    when_stuck = "the event loop has been stuck"
    waiting, silence = None, 0.0

    def __init__(
        self, settings: ReceiverSettings, handler: Handler | None, stream: LogStream, log: FilteringBoundLogger
    ) -> None:
        self.state = self
        self._settings = settings
        self._stream = stream
        self._receiver = receiver = AsyncReceiver(
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
        self._address = ""
        self._has_handler = handler is not None
        self._dispatcher = Dispatcher(receiver, handler)
        self._messages = MessageLog(
            log, receiver.handler_failed, rate=settings.log_rate, payload_limit=settings.log_payload
        )
        self._terminate = asyncio.Event()

    async def run(self, process: Process[ReceiverStats]) -> None:
        """Receive until a signal comes, and through the drain time."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        async with self._receiver as receiver:
            self._address = str(receiver.address)
            with process.running():
                background = [
                    asyncio.create_task(_check_regularly(process)),
                    asyncio.create_task(self._drain_on_signal(process)),
                ]
                if self._has_handler:
                    async for message in receiver:
                        await self._dispatch(message)
                else:
                    async for batch in receiver.batches():
                        await self._take(batch)
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)

    async def _take(self, batch: list[Message]) -> None:
        """Log messages; one by one where their senders may want an answer."""
        if not isinstance(batch, MessageBatch) or not batch.may_ask:
            await self._messages.write_batch(batch)
            return
        for index, message in enumerate(batch):
            await self._dispatch(message)
            if index % LINES_A_TURN == LINES_A_TURN - 1:
                await asyncio.sleep(0)

    async def _dispatch(self, message: Message) -> None:
        self._messages.write(message, await self._dispatcher.dispatch(message))

    def _on_signal(self) -> None:
        if self._terminate.is_set():
            self._receiver.stop()  # the second signal: do not wait for the drain
            self._dispatcher.give_up()
        self._terminate.set()

    async def _drain_on_signal(self, process: Process[ReceiverStats]) -> None:
        await self._terminate.wait()
        process.drain()
        await asyncio.sleep(self._settings.drain)
        self._receiver.stop()
        await asyncio.sleep(_GRACE)
        self._dispatcher.give_up()

    @property
    def stats(self) -> ReceiverStats:
        return self._receiver.stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the log."""
        yield CounterMetricFamily(
            "fanout_receiver_log_lines_suppressed",
            "Message lines left out by the rate limit.",
            self._messages.suppressed,
        )
        yield CounterMetricFamily(
            "fanout_receiver_log_lines_lost", "Lines that could not be written.", self._stream.lost_lines
        )

    def introduction(self, admin: str | None) -> dict[str, object]:
        return {"address": self._address, "admin": admin, "receive_buffer": self._receiver.stats.receive_buffer}

    def collectors(self) -> Iterable[Collector]:
        return ReceiverCollector(lambda: self._receiver.stats), self

    def tables(self, before: ReceiverStats, after: ReceiverStats, seconds: float, room: int) -> list[TextTable]:
        return tables(self._address, before, after, seconds, self._receiver.senders, room)

    def log_changes(self, log: FilteringBoundLogger, before: ReceiverStats, after: ReceiverStats) -> None:
        """Log how many lines were left out, and how many datagrams were dropped."""
        self._messages.log_suppressed()
        for event, count in (
            (events.KERNEL_DROPPED, after.kernel_drops - before.kernel_drops),
            (events.QUEUE_DROPPED, after.queue_drops - before.queue_drops),
        ):
            if count > 0:
                log.warning(event, count=count)

    def totals(self, stats: ReceiverStats) -> dict[str, object]:
        return {
            **counters(stats),
            "unhandled": self._dispatcher.unhandled,
            "suppressed_lines": self._messages.suppressed,
        }


async def _check_regularly(process: Process[ReceiverStats]) -> None:
    while True:
        await asyncio.sleep(CHECK_INTERVAL)
        process.check()
