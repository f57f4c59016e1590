"""What comes to one port goes to each pod: the loop that a relay spends its time in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fanout.model import Endpoint
from fanout.net import gso
from fanout.net.egress import Egress, Segments


class Spread:
    """Sends runs to every pod, in order; a pod's failure is its own.

    Copies that the kernel took at once are counted here, once for all pods: `fold` gives each pod its own.
    """

    def __init__(self, targets: Sequence[tuple[Egress, Endpoint]] = ()) -> None:
        self._targets = targets
        self._ways = [(egress, endpoint, egress.sendto, egress.sendmsg) for egress, endpoint in targets]
        self._gso_limit = min((egress.gso_limit for egress, _ in targets), default=gso.LIMIT)
        self.datagrams = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        """Whether there is a pod."""
        return bool(self._targets)

    def __iter__(self) -> Iterator[Egress]:
        """Return the ways out."""
        return (egress for egress, _ in self._targets)

    def send(self, runs: Sequence[Segments], *, may_wait: bool) -> bool:
        """Send runs to every pod; return whether something waits now for a socket that is full.

        `may_wait` says that something may wait from before: it must not be overtaken.
        """
        for run in runs:
            data, size, datagrams, option = run
            if may_wait or (datagrams > 1 and size > self._gso_limit):
                for egress, endpoint in self._targets:
                    egress.send((run,), endpoint)
                    may_wait = may_wait or egress.is_blocked
                continue
            self.datagrams += datagrams
            self.bytes += len(data)
            if datagrams == 1:
                for egress, endpoint, sendto, _ in self._ways:
                    try:
                        sendto(data, endpoint)
                    except OSError as error:
                        may_wait = self._failed(egress, run, endpoint, error) or may_wait
            else:
                buffers = (data,)
                for egress, endpoint, _, sendmsg in self._ways:
                    try:
                        sendmsg(buffers, option, 0, endpoint)
                    except OSError as error:
                        may_wait = self._failed(egress, run, endpoint, error) or may_wait
        return may_wait

    def _failed(self, egress: Egress, run: Segments, endpoint: Endpoint, error: OSError) -> bool:
        egress.sent -= run.datagrams
        egress.bytes -= len(run.data)
        egress.failed(run, endpoint, error)
        self._gso_limit = min(self._gso_limit, egress.gso_limit)
        return egress.is_blocked

    def fold(self) -> None:
        """Give each pod its counts."""
        for egress, _ in self._targets:
            egress.sent += self.datagrams
            egress.bytes += self.bytes
        self.datagrams = self.bytes = 0
