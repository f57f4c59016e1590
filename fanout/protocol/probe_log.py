"""Counts the probes that reach a receiver, and answers them. Pure."""

from __future__ import annotations

from collections.abc import Callable

from fanout.protocol.probe import HEADER, MAGIC, NUMBER_LIMIT, REPORT_SIZE, VERSION, Observed, ProbeKind, pong, report
from fanout.protocol.sequence import Arrival, Sequence

RUNS = 32
"""Runs that a receiver remembers; a new one replaces the one idle for longest."""
WINDOW = 65_536
"""Sequence numbers below the highest seen for which a run remembers whether they arrived: a byte for each."""


class ProbeLog:
    """Counts the data of each run and answers pings and requests: `take` each datagram that begins with `MAGIC`.

    `drops` returns how many datagrams the kernel and the receiver itself have dropped so far; a run reports the
    difference since it began, with its first datagram, data or request. Memory is bounded by `runs` times `window`
    bytes. `now` is in seconds on any monotonic clock.
    """

    def __init__(
        self, version: str, drops: Callable[[], tuple[int, int]], *, runs: int = RUNS, window: int = WINDOW
    ) -> None:
        self.taken: int = 0
        """Datagrams taken, of all kinds."""
        self.unknown: int = 0
        """Those that are not a frame of this version, or not meant for a receiver."""
        self._version = version[:16]
        self._drops = drops
        self._limit = runs
        self._window = window
        self._runs: dict[int, _Run] = {}
        self._latest: tuple[int, _Run] | None = None

    def take(self, datagram: bytes, now: float) -> bytes | None:
        """Count one datagram; return the answer, never larger than the datagram, or None."""
        self.taken += 1
        if len(datagram) >= HEADER.size:
            magic, version, kind, _, number_of_run, number = HEADER.unpack_from(datagram)
            if magic == MAGIC and version == VERSION:
                if kind == ProbeKind.DATA and number < NUMBER_LIMIT:
                    self._run(number_of_run).arrived(number, len(datagram), now)
                    return None
                if kind == ProbeKind.PING:
                    return pong(datagram)
                if kind == ProbeKind.REQUEST and len(datagram) >= REPORT_SIZE:
                    return report(number_of_run, number, self._observed(self._run(number_of_run)))
        self.unknown += 1
        return None

    def _run(self, number: int) -> _Run:
        if self._latest is not None and self._latest[0] == number:
            return self._latest[1]
        run = self._runs.pop(number, None)
        if run is None:
            if len(self._runs) >= self._limit:
                del self._runs[next(iter(self._runs))]
            run = _Run(self._window, self._drops())
        # At the end of the dictionary: it is replaced last.
        self._runs[number] = run
        self._latest = (number, run)
        return run

    def _observed(self, run: _Run) -> Observed:
        kernel_drops, queue_drops = self._drops()
        return Observed(
            run.received,
            run.unique,
            run.sequence.expected,
            run.duplicates,
            run.reordered,
            run.received - run.unique - run.duplicates,
            run.bytes,
            max(0, round((run.last - run.first) * 1e9)),
            max(0, kernel_drops - run.drops[0]),
            max(0, queue_drops - run.drops[1]),
            self._version,
        )


class _Run:
    """The data of one run."""

    __slots__ = ("bytes", "drops", "duplicates", "first", "last", "received", "reordered", "sequence", "unique")

    def __init__(self, window: int, drops: tuple[int, int]) -> None:
        self.received = self.unique = self.duplicates = self.reordered = self.bytes = 0
        self.first = self.last = 0.0
        self.sequence = Sequence(window)
        self.drops = drops

    def arrived(self, number: int, size: int, now: float) -> None:
        if not self.received:
            self.first = now
        self.last = now
        self.received += 1
        self.bytes += size
        arrival = self.sequence.arrived(number)
        if arrival is Arrival.DUPLICATE:
            self.duplicates += 1
        elif arrival is not Arrival.STALE:
            self.unique += 1
            self.reordered += arrival is Arrival.LATE
