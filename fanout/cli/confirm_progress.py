"""A live view of the pods' confirmations on standard error; it is erased at the end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from fanout.cli.output import console, milliseconds, plural
from fanout.cli.target import Target
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus

if TYPE_CHECKING:
    from rich.text import Text

_DELAY = 0.2
"""Seconds before it is shown: most messages are confirmed earlier."""
_REFRESH = 0.1
_ROWS = 20
"""Pods up to which each has its line."""
_OTHER_LINES = 3
"""Of the screen: what is not rows."""


class MessageInProgress:
    """Keeps the state of the message that is under way, for the view."""

    def __init__(self) -> None:
        self.message: int = 0
        self.is_cut: bool = False
        """Whether it left in several fragments."""
        self.started: float = time.monotonic()
        self.receipts: dict[Endpoint, Receipt] = {}

    def begin(self, *, is_cut: bool = False) -> None:
        """Start with another message."""
        self.message += 1
        self.is_cut = is_cut
        self.started = time.monotonic()
        self.receipts = {}

    def note(self, receipt: Receipt) -> None:
        """Take a receipt that has changed."""
        self.receipts[receipt.endpoint] = receipt


class ConfirmProgress:
    """Shows a `MessageInProgress` while it is entered, by a thread of its own, so that nothing waits for a terminal.

    A line a pod; where they are many, those that have not confirmed, as many as fit the screen.
    """

    def __init__(self, watch: MessageInProgress, target: Target, timeout: float, messages: int | None) -> None:
        self._watch = watch
        self._target = target
        self._timeout = timeout
        self._messages = messages
        """The number of messages, if known."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fanout-display", daemon=True)

    def _run(self) -> None:
        if self._done.wait(_DELAY):
            return
        from rich.live import Live as RichLive

        terminal = console(err=True)
        if terminal.is_dumb_terminal:
            return
        with RichLive(console=terminal, auto_refresh=False, transient=True) as live:
            while not self._done.wait(_REFRESH):
                live.update(self.picture(terminal.width, terminal.height), refresh=True)

    def picture(self, width: int, height: int) -> Text:
        """Return what there is to see now."""
        from rich.text import Text

        receipts = list(self._watch.receipts.values())
        elapsed = time.monotonic() - self._watch.started
        confirmed = sum(receipt.status is ReceiptStatus.CONFIRMED for receipt in receipts)
        head = f"{confirmed} of {self._target.pods(len(receipts))} confirmed, {elapsed:.1f} s of {self._timeout:g} s"
        if self._messages != 1:
            of = "" if self._messages is None else f" of {self._messages}"
            head = f"message {self._watch.message}{of}: {head}"
        text = Text(head, style="bold", no_wrap=True, overflow="ellipsis")
        room = max(1, min(_ROWS, height - _OTHER_LINES))
        if len(receipts) > room:
            receipts = [receipt for receipt in receipts if receipt.status is not ReceiptStatus.CONFIRMED]
        column = max((len(str(receipt.endpoint)) for receipt in receipts), default=0)
        for receipt in receipts[:room]:
            said, style = _state(receipt, is_cut=self._watch.is_cut)
            text.append(f"\n  {receipt.endpoint!s:<{column}}  {said}"[:width], style=style)
        if len(receipts) > room:
            text.append(f"\n  and {plural(len(receipts) - room, 'more pod')} not confirmed", style="yellow")
        return text

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()


def _state(receipt: Receipt, *, is_cut: bool) -> tuple[str, str]:
    tries = f", {receipt.tries} tries" if receipt.tries > 1 else ""
    joined = ", joined meanwhile" if receipt.joined else ""
    match receipt.status:
        case ReceiptStatus.CONFIRMED:
            took = "" if is_cut else f" in {milliseconds(receipt.rtt)} ms"
            return f"confirmed{took}{tries}{joined}", "not bold green"
        case ReceiptStatus.SILENT:
            reason = f": {receipt.reason}" if receipt.reason else ""
            return f"waiting{tries}{joined}{reason}", "not bold yellow"
        case status:
            return f"{status}: {receipt.reason}", "not bold red"
