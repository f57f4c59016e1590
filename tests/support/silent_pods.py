"""Questions that some pods do not answer: their time is up when all others have, and not when a clock says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from fanout.protocol.sending.exchange import Exchange
from fanout.protocol.sending.peer_exchange import PeerExchange


@contextmanager
def without_answers_of(*silent: object, tries: int = 1, says: str = "") -> Iterator[None]:
    """Let the time of each question of this process be up once only these endpoints have not answered it.

    Each of them was asked so many times by then, and it is known of it what `says` has. A pod that refuses was heard
    to.
    """
    names = {str(endpoint) for endpoint in silent}
    is_over = Exchange.is_over

    def is_decided(pod: PeerExchange) -> bool:
        if pod.status is not None or (pod._failures is not None and pod._failures.refusals):
            return True
        return str(pod.endpoint) in names and pod.tries >= tries and says in pod.reason

    def is_over_or_decided(exchange: Exchange, now: float) -> bool:
        if all(map(is_decided, exchange._pods.values())):
            now = max(now, exchange.deadline)
        return is_over(exchange, now)

    with mock.patch.object(Exchange, "is_over", is_over_or_decided):
        yield
