"""From one port to every pod: the loop that a relay spends its time in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from fanout.model import Endpoint
from fanout.protocol.sending.batch import Segments
from fanout.relay.egress import Egress, SendBudget


class PortFanout:
    """Sends runs to every pod, in order; one pod's failure does not affect the others.

    Copies that the kernel took at once are counted here, once for all pods that are not broken: `fold` adds them to
    each pod's counts.
    `counting` is held while counts move; readers must hold it, too.
    """

    def __init__(
        self,
        budget: SendBudget,
        counting: AbstractContextManager[object] | None = None,
        *,
        make_egress: Callable[[Endpoint, SendBudget], Egress] = Egress,
    ) -> None:
        self._budget = budget
        self._counting = counting or nullcontext()
        self._make_egress = make_egress
        self._egresses: dict[Endpoint, Egress] = {}
        self._senders: list[tuple[Egress, Callable[[memoryview | bytes], int]]] = []
        self.broken: list[Egress] = []
        """The egresses that could not be opened."""
        self._gso_limit = 0
        self._segment = 0  # the segment size set on the sockets
        self.datagrams: int = 0
        self.bytes: int = 0

    def __bool__(self) -> bool:
        """Whether there is a pod."""
        return bool(self._egresses)

    def __iter__(self) -> Iterator[Egress]:
        """Return the egresses."""
        return iter(list(self._egresses.values()))

    def aim(self, endpoints: Iterable[Endpoint], is_here: Callable[[str], bool]) -> list[Egress]:
        """Send to these endpoints from now on; return the egresses that were closed.

        Broken ones are tried again, and so are those whose local address this host no longer has.
        """
        self.fold()
        wanted = dict.fromkeys(endpoints)
        closed = [self._egresses.pop(endpoint) for endpoint in self._egresses.keys() - wanted.keys()]
        for egress in closed:
            egress.close()
        for egress in self._egresses.values():
            if egress.broken or (egress.local is not None and not is_here(egress.local.host)):
                egress.renew()
        for endpoint in wanted:
            if endpoint not in self._egresses:
                self._egresses[endpoint] = self._make_egress(endpoint, self._budget)
        self._senders = [(egress, egress.send_now) for egress in self._egresses.values() if not egress.broken]
        self.broken = [egress for egress in self._egresses.values() if egress.broken]
        self._gso_limit = min((egress.gso_limit for egress, _ in self._senders), default=0)
        self._cut(0)
        return closed

    def send(self, runs: Sequence[Segments], *, may_wait: bool) -> bool:
        """Send runs to every pod; return whether something waits now for a full socket.

        `may_wait` says that earlier runs may still wait: they must not be overtaken.
        """
        for run in runs:
            data, size, datagrams = run
            if may_wait or (datagrams > 1 and size > self._gso_limit):
                for egress, _ in self._senders:
                    egress.send((run,))
                    may_wait = may_wait or egress.is_blocked
            else:
                if datagrams > 1:
                    if size != self._segment:
                        self._cut(size)
                elif size > self._segment > 0:
                    self._cut(0)
                failures = []
                for egress, send in self._senders:
                    try:
                        send(data)
                    except OSError as error:
                        failures.append((egress, error))
                if failures:
                    may_wait = self._failed(failures, run) or may_wait
                else:
                    self.datagrams += datagrams
                    self.bytes += len(data)
                if self._segment > self._gso_limit:
                    self._cut(0)  # a segment size above the path's MTU would stop fragmentation
            for egress in self.broken:
                egress.send((run,))
        return may_wait

    def _cut(self, size: int) -> None:
        self._segment = size
        for egress, _ in self._senders:
            egress.cut(size)

    def _failed(self, failures: Sequence[tuple[Egress, OSError]], run: Segments) -> bool:
        """Try again, keep or drop; return whether something waits now."""
        with self._counting:
            self.datagrams += run.datagrams
            self.bytes += len(run.data)
            for egress, error in failures:
                egress.sent -= run.datagrams
                egress.bytes -= len(run.data)
                egress.failed(run, error)
        self._gso_limit = min(self._gso_limit, *(egress.gso_limit for egress, _ in failures))
        return any(egress.is_blocked for egress, _ in failures)

    def fold(self) -> None:
        """Add to each pod's counts what was counted for all."""
        for egress, _ in self._senders:
            egress.sent += self.datagrams
            egress.bytes += self.bytes
        self.datagrams = self.bytes = 0

    def close(self) -> None:
        """Close the egresses; their counts stay."""
        self.fold()
        self._senders = []
        for egress in self._egresses.values():
            egress.close()
