"""Has each message handled, confirms it to its sender, and returns what to log."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fanout import errno_text
from fanout.daemon.receiver.builtin_queries import BuiltinQueries
from fanout.daemon.receiver.handlers import Handler, HandlerFailed
from fanout.model import Message
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.engine import conclude

HANDLED, REPLIED, FAILED = "handled", "replied", "failed"
_STOPPED = "the receiver was stopped before its handler had returned"
_ONLY_PING_AND_INFO = "without a handler (--exec, --handler) this receiver answers the queries ping and info alone"
_KILLED_WITHIN = 1.0


class Dispatcher:
    """Has messages handled one by one: by the handler, if there is one, and built-in queries by itself."""

    def __init__(self, receiver: AsyncReceiver, handler: Handler | None) -> None:
        self.unhandled: int = 0
        """Messages that the handler did not get, or had not returned from, when the receiver was stopped."""
        self._receiver = receiver
        self._handler = handler
        self._builtin_queries = BuiltinQueries()
        self._given_up = asyncio.Event()
        self._giving_up: asyncio.Task[Literal[True]] | None = None

    def give_up(self) -> None:
        """Stop waiting for the handler: what is not handled by now fails."""
        self._given_up.set()

    async def dispatch(self, message: Message) -> dict[str, Any]:
        """Handle a message, and answer its sender; return the values for its log line."""
        is_query = message.wants_reply
        try:
            if is_query and (reply := self._builtin_queries.answer(message.payload, self._receiver.stats)) is not None:
                message.reply(reply)
            elif is_query and self._handler is None:
                _fail(message, _ONLY_PING_AND_INFO)
                return {"outcome": FAILED, "reason": _ONLY_PING_AND_INFO}
            elif self._handler is not None:
                result = await self._call(self._handler, message)
                if problem := conclude(message, result):
                    raise HandlerFailed(problem)
            return self._done(message, is_query=is_query)
        except Exception as error:
            is_known = isinstance(error, HandlerFailed)
            reason = str(error) if is_known else errno_text.exception(error)
            _fail(message, reason)  # first: only the first answer reaches the sender
            self._receiver.handler_failed(message, error.with_traceback(None) if is_known else error)
            return {"outcome": FAILED, "reason": reason}

    async def _call(self, handler: Handler, message: Message) -> object:
        """Call the handler; give up with the receiver, even where the handler does not."""
        if self._given_up.is_set():
            self.unhandled += 1
            raise HandlerFailed(_STOPPED)
        calling = asyncio.ensure_future(handler.handle(message))
        if self._giving_up is None:
            self._giving_up = asyncio.create_task(self._given_up.wait())
        await asyncio.wait((calling, self._giving_up), return_when=asyncio.FIRST_COMPLETED)
        if calling.done():
            return calling.result()
        calling.cancel()
        await asyncio.wait((calling,), timeout=_KILLED_WITHIN)
        self.unhandled += 1
        raise HandlerFailed(_STOPPED)

    def _done(self, message: Message, *, is_query: bool) -> dict[str, Any]:
        question = message.question
        if question is not None:
            question.confirm()
            if question.problem:
                return {"outcome": FAILED, "reason": question.problem}
        if is_query:
            return {"outcome": REPLIED}
        return {} if question is None and self._handler is None else {"outcome": HANDLED}


def _fail(message: Message, reason: str) -> None:
    if message.question is not None:
        message.question.fail(reason)
