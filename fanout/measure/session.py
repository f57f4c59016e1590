"""A run of `fanout bench`: the stream in a thread, the probes beside it, and what both came to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fanout.discovery.static import StaticResolver
from fanout.measure.probe import PATIENCE, Prober, draw_run
from fanout.measure.result import BenchResult, PodResult
from fanout.model import Endpoint, Service
from fanout.protocol import probe
from fanout.report import Report
from fanout.sender.sync import Sender

_LOOK = 0.02
"""Seconds between two looks at whether the stream has ended."""
_SETTLE = 0.2
"""Seconds for the last datagrams and pongs to arrive, and for ICMP errors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send."""

    rate: float
    """Messages a second."""
    size: int
    """Bytes of payload in each."""
    seconds: float
    """How long it takes, or may take where `count` is given."""
    count: int | None = None
    """Messages; None for as many as `seconds` hold."""


class Bench:
    """Sends one numbered stream to `endpoints` and gathers what each of them saw of it.

    `interrupt` ends the stream early; what was measured until then is the result.
    """

    def __init__(self, service: Service, endpoints: tuple[Endpoint, ...], plan: Plan) -> None:
        self.plan = plan
        self.sent = 0
        """Messages handed to the sender so far."""
        self.interrupted = False
        self._service = service
        self._endpoints = endpoints
        self._run = draw_run()
        self._stopped = threading.Event()
        self._report: Report | None = None
        self._failure: BaseException | None = None
        self._started = self._ended = 0.0
        self._prober = Prober(endpoints, self._run)

    def greet(self) -> int:
        """Ask every pod for a report before the run; return how many answered.

        It begins the run on each of them, so that what their sockets dropped before does not count.
        """
        self._prober.ask(self._endpoints, PATIENCE[:-3])
        return sum(pod.observed is not None for pod in self._prober.pods.values())

    def run(self, look: Callable[[Bench], None] | None = None) -> BenchResult:
        """Send the stream, ping meanwhile, and ask each pod what it saw; raise what the sender raises.

        `look` is called some times a second, and may ask for the `result` so far.
        """
        prober = self._prober
        stream = threading.Thread(target=self._stream, name="fanout-bench", daemon=True)
        self._started = self._ended = time.monotonic()
        prober.ping_for(self.plan.seconds)
        stream.start()
        while stream.is_alive():
            prober.step(_LOOK, interim=look is not None)
            if look is not None:
                look(self)
        stream.join()
        if self._failure is not None:
            raise self._failure
        prober.stop_pings()
        prober.step(_SETTLE)
        for endpoint in prober.ask(self._endpoints):
            # What it said in between is not what it came to.
            prober.pods[endpoint].observed = None
        return self.result()

    def interrupt(self) -> None:
        """End the stream; the second time, end without a result."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self._stopped.set()

    def result(self) -> BenchResult:
        """Return what is known by now."""
        done = self._report is not None
        messages = self._report.messages if self._report is not None else self.sent
        outcomes = {} if self._report is None else {each.endpoint: each for each in self._report.outcomes}
        pods = []
        for endpoint, heard in self._prober.pods.items():
            outcome = outcomes.get(endpoint)
            # While the stream goes on, what is under way is not lost: the pod knows what it should have by now.
            seen = heard.observed
            pods.append(
                PodResult(
                    endpoint,
                    messages if done or seen is None else min(seen.expected, messages),
                    self.plan.size,
                    dropped=0 if outcome is None else outcome.dropped,
                    refused=0 if outcome is None else outcome.refused,
                    errno=0 if outcome is None else outcome.errno,
                    observed=seen,
                    round_trips=tuple(heard.round_trips),
                    pings=heard.pings,
                    last_answer=None if heard.answered_at is None else max(0.0, heard.answered_at - self._started),
                )
            )
        elapsed = (self._ended if done else time.monotonic()) - self._started
        return BenchResult(
            tuple(pods),
            messages,
            self.plan.size,
            elapsed,
            interrupted=self.interrupted,
            ignored=self._prober.ignored,
            stranger=self._prober.stranger,
        )

    def close(self) -> None:
        """Close the sockets."""
        self._stopped.set()
        self._prober.close()

    def _stream(self) -> None:
        try:
            # The pods of the beginning to the end: one that joins in the middle would count as lossy.
            with Sender(self._service, resolver=StaticResolver(self._endpoints)) as sender:
                self._report = sender.send_many(
                    self._payloads(), rate=self.plan.rate, stop=self._stopped, settle=_SETTLE
                )
        except BaseException as error:
            self._failure = error

    def _payloads(self) -> Iterator[bytes]:
        prefix = probe.data_prefix(self._run)
        padding = bytes(self.plan.size - probe.HEADER.size)
        deadline = self._started + self.plan.seconds
        count = self.plan.count
        number = 0
        while number < count if count is not None else time.monotonic() < deadline:
            yield b"".join((prefix, number.to_bytes(8), padding))
            number += 1
            self.sent = number
            self._ended = time.monotonic()


def planned(rate: float, size: int, seconds: float, count: int | None) -> Plan:
    """Return the plan of a run of `count` messages, or of as many as come in `seconds`."""
    return Plan(rate, size, seconds if count is None else max(count / rate, 0.001), count)


def silent(endpoints: Sequence[Endpoint], size: int) -> BenchResult:
    """Return the result of a run that was not begun: nobody would have counted it."""
    return BenchResult(tuple(PodResult(endpoint, 0, size) for endpoint in endpoints), 0, size, 0.0)
