"""A run of `fanout bench`: the stream in a thread, the probes beside it, and the result of both."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fanout.discovery.refresher import StaticResolver
from fanout.measure.prober import PATIENCE, Prober
from fanout.measure.result import BenchResult, PodResult
from fanout.model import Endpoint, Service
from fanout.protocol import probe
from fanout.report import Outcome, Report
from fanout.sender.sync import Sender

_LOOK = 0.02
"""Seconds between two checks whether the stream has ended."""
_SETTLE = 0.2
"""Seconds to wait for the last datagrams, pongs and ICMP errors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send."""

    rate: float
    """Messages a second."""
    size: int
    """Bytes of payload in each message."""
    seconds: float
    """Duration, or expected duration where `count` is given."""
    count: int | None = None
    """Number of messages; None for as many as fit into `seconds`."""


class Bench:
    """Sends one numbered stream to `endpoints` and gathers what each of them received.

    `interrupt` ends the stream early; what was measured until then is the result.
    """

    def __init__(self, service: Service, endpoints: tuple[Endpoint, ...], plan: Plan) -> None:
        self.plan = plan
        self.sent: int = 0
        """Messages handed to the sender so far."""
        self.interrupted: bool = False
        self._service = service
        self._endpoints = endpoints
        self._run = secrets.randbits(64)  # known only to the probed pods
        self._stopped = threading.Event()
        self._report: Report | None = None
        self._failure: BaseException | None = None
        self._started = self._ended = 0.0
        self._prober = Prober(endpoints, self._run)

    def greet(self) -> int:
        """Request a report from every pod before the run; return how many answered.

        This begins the run on each of them, so that earlier drops of their sockets do not count.
        """
        self._prober.ask(self._endpoints, PATIENCE[:-3])
        return sum(pod.observed is not None for pod in self._prober.pods.values())

    def run(self, look: Callable[[Bench], None] | None = None) -> BenchResult:
        """Send the stream, ping meanwhile, and request each pod's report; raise what the sender raises.

        `look` is called several times a second, and may call `result` for the figures so far.
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
            # An interim report is not the final one.
            prober.pods[endpoint].observed = None
        return self.result()

    def interrupt(self) -> None:
        """End the stream; the second time, raise `KeyboardInterrupt`."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self._stopped.set()

    def result(self) -> BenchResult:
        """Return the result so far."""
        report = self._report
        messages = self.sent if report is None else report.messages
        outcomes = {} if report is None else {each.endpoint: each for each in report.outcomes}
        pods = []
        for endpoint, heard in self._prober.pods.items():
            outcome = outcomes.get(endpoint) or Outcome(endpoint)
            # During the stream, what is in flight is not lost: count up to the highest number that the pod has seen.
            seen = heard.observed
            pods.append(
                PodResult(
                    endpoint,
                    messages if report is not None or seen is None else min(seen.expected, messages),
                    self.plan.size,
                    dropped=outcome.dropped,
                    refused=outcome.refused,
                    errno=outcome.errno,
                    observed=seen,
                    round_trips=tuple(heard.round_trips),
                    pings=heard.pings,
                    last_answer=None if heard.answered_at is None else max(0.0, heard.answered_at - self._started),
                )
            )
        ended = time.monotonic() if report is None else self._ended
        return BenchResult(
            tuple(pods),
            messages,
            self.plan.size,
            ended - self._started,
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
            # The same pods throughout: one that joins in the middle would count as lossy.
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
    """Return the plan of a run of `count` messages, or of as many as fit into `seconds`."""
    return Plan(rate, size, seconds if count is None else max(count / rate, 0.001), count)


def silent(endpoints: Sequence[Endpoint], size: int) -> BenchResult:
    """Return the result of a run that was not started, because no pod would have counted it."""
    return BenchResult(tuple(PodResult(endpoint, 0, size) for endpoint in endpoints), 0, size, 0.0)
