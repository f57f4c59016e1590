"""The receiver's side of frames: what to hand over, and what to answer. Pure, bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import MAGIC, SEALED, InvalidFrame, Sealed
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.protocol.receiving.receive_state import NUMBERED_START, ReceiveState, Taken
from fanout.protocol.receiving.run import Run
from fanout.protocol.seal import Keyring, Opener, Sealer

_KIND_AT = 7
_NO_KEY = "it is sealed, but this receiver has no key"
_NO_PLAIN = "it is not sealed, but this receiver has keys"


class FrameCounts(NamedTuple):
    """Counts of frames and their messages: see `ReceiverStats`."""

    skipped: int = 0
    reordered: int = 0
    duplicates: int = 0
    refused: Mapping[ReceiveDrop, int] = Counter()
    confirmed: int = 0
    failed: int = 0
    replied: int = 0


class Reception:
    """Takes what arrives at a receiver; for one thread at a time.

    `take` returns the messages to hand over and the answers to send at once. A message to be confirmed is pending: it
    must be settled when its handler has returned, or released where the queue was full (`ReceiveState.settle`, which
    returns what to send, and `release`). Each message is handed over once, however often it arrives. Only questions
    are answered, and no answer is larger than its question, except replies to sealed questions, and all replies with
    `reply_to_anyone`.

    `now` is in seconds on a monotonic clock, `epoch` in seconds since the epoch.
    """

    def __init__(
        self,
        identity: int,
        *,
        keyring: Keyring | None = None,
        cluster: str = "",
        counter: int = 0,
        accept_plaintext: bool = False,
        reply_to_anyone: bool = False,
    ) -> None:
        self.drops: Counter[ReceiveDrop] = Counter()
        self.takes_plaintext: bool = keyring is None or accept_plaintext
        """Whether unsealed datagrams are accepted."""
        self._cluster = cluster
        self._opener = sealer = None
        if keyring is not None:
            self._opener = Opener(keyring, cluster)
            sealer = Sealer(keyring, cluster, identity, counter)
        self.plain: ReceiveState = ReceiveState(identity, reply_to_anyone)
        self.sealed: ReceiveState = ReceiveState(identity, reply_to_anyone, sealer)
        self._states = (self.plain, self.sealed)

    def rename(self, identity: int, counter: int) -> None:
        """Use another identity from now on."""
        for state in self._states:
            state.builder.identity = identity
        if self._opener is not None:
            self.sealed.sealer = Sealer(self._opener.keyring, self._cluster, identity, counter)

    @property
    def counts(self) -> FrameCounts:
        """The counts so far."""
        states = self._states
        plain, sealed = (state.table.totals for state in states)
        return FrameCounts(
            plain.skipped + sealed.skipped,
            plain.reordered + sealed.reordered,
            plain.duplicates + sealed.duplicates,
            self.drops + Counter({ReceiveDrop.INCOMPLETE: sum(state.reassembly.given_up for state in states)}),
            sum(state.confirmations for state in states),
            sum(state.failures for state in states),
            sum(state.builder.replies for state in states),
        )

    @property
    def has_pending(self) -> bool:
        """Whether accepted messages are not settled."""
        return any(state.table.pending for state in self._states)

    def senders(self) -> list[SenderCounts]:
        """Return the counts of each sender of frames."""
        return [known for state in self._states for known in state.table.senders()]

    def use(self, keyring: Keyring) -> None:
        """Use these keys from now on."""
        if self._opener is not None and self.sealed.sealer is not None and self._opener.keyring is not keyring:
            self._opener.use(keyring)
            self.sealed.sealer.use(keyring)

    def give_up(self, now: float) -> None:
        """Drop the messages that will not be completed."""
        for state in self._states:
            if state.reassembly.partial:
                state.reassembly.expire(now)

    def take(self, run: Run, now: float) -> Taken:
        """Take a run of datagrams as it arrived."""
        self.give_up(now)
        taken = Taken(self.drops)
        data, segment, count = run[:3]
        if self.takes_plaintext and data.startswith(NUMBERED_START) and self.plain.take_stream(run, taken):
            return taken
        if self._opener is not None and self._take_sealed_run(self._opener, run, now, taken):
            return taken
        plain: list[bytes] = []
        for index in range(count):
            datagram = data[index * segment : (index + 1) * segment]
            if not datagram.startswith(MAGIC):
                plain.append(datagram)
                continue
            if plain:
                self._take_plain(run, plain, taken)
            if len(datagram) > _KIND_AT and datagram[_KIND_AT] & SEALED:
                self._take_sealed(run, datagram, now, taken)
            elif self.takes_plaintext:
                self.plain.take_frame(run if count == 1 else run.of(datagram), now, taken)
            else:
                taken.refuse(ReceiveDrop.UNSEALED, _NO_PLAIN)
        if plain:
            self._take_plain(run, plain, taken)
        return taken

    def _take_plain(self, run: Run, datagrams: list[bytes], taken: Taken) -> None:
        """Take consecutive plain datagrams."""
        if self.takes_plaintext:
            # Only the last datagram of a run may be shorter than the others: that holds for a part of it, too.
            joined = b"".join(datagrams)
            taken.runs.append(Run(joined, len(datagrams[0]), len(datagrams), run.address, run.received_at))
        else:
            taken.refuse(ReceiveDrop.UNSEALED, _NO_PLAIN, len(datagrams))
        datagrams.clear()

    def _take_sealed(self, run: Run, datagram: bytes, now: float, taken: Taken) -> None:
        """Take one sealed frame."""
        try:
            found = frame.decode(datagram)
            if self._opener is None or not isinstance(found, Sealed):
                raise InvalidFrame(ReceiveDrop.NO_KEY, _NO_KEY)
            inner = self._opener.open(found, run.received_at)
        except InvalidFrame as refused:
            taken.refuse(refused.reason, str(refused))
        else:
            self.sealed.take_frame(run.of(inner), now, taken)

    def _take_sealed_run(self, opener: Opener, run: Run, now: float, taken: Taken) -> bool:
        """Take sealed frames of one sender; return False where not all of them are, or not in order."""
        opened = opener.open_run(run.data, run.segment, run.messages)
        if opened is None:
            return False
        if not (opened.is_stream and self.sealed.take_opened_stream(opened, run, taken)):
            for each in opened.frames():
                self.sealed.take_frame(run.of(each), now, taken)
        return True
