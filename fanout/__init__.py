"""UDP broadcast for clusters: unicast each datagram to every pod of a headless Service.

::

    with fanout.Sender("headless-udp", port=12000) as sender:
        report = sender.send(b"reload")

    async with fanout.AsyncReceiver(port=12000) as receiver:
        async for message in receiver:
            print(message.source, message.payload)

Names are imported when first used, so that `import fanout` costs next to nothing. The library logs to the
standard logger `fanout`.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from fanout.version import __version__ as __version__

if TYPE_CHECKING:
    from fanout.errors import (
        Closed,
        FanoutError,
        InvalidIngress,
        InvalidInput,
        InvalidService,
        KeyUnavailable,
        MessageTooLarge,
        NoEndpoints,
        ResolverUnavailable,
        SocketUnavailable,
    )
    from fanout.model import Endpoint, Family, Message, Service
    from fanout.protocol.drop_reasons import ReceiveDrop
    from fanout.protocol.receiving.dedup import SenderCounts
    from fanout.protocol.sending.receipt import Confirmation, Receipt, ReceiptStatus, Reply
    from fanout.receiver.aio import AsyncReceiver
    from fanout.receiver.core.stats import ReceiverStats
    from fanout.receiver.queue import Overflow
    from fanout.receiver.sync import Receiver
    from fanout.relay.core.drop_reasons import RelayDrop
    from fanout.relay.core.ingress import Ingress
    from fanout.relay.core.stats import IngressStats, PodStats, RelayStats
    from fanout.relay.relay import Relay
    from fanout.report import DropReason, Outcome, Report, Status
    from fanout.sender.aio import AsyncQuery, AsyncSender
    from fanout.sender.engine import SenderStats
    from fanout.sender.sync import Query, Sender


__all__ = [
    "AsyncQuery",
    "AsyncReceiver",
    "AsyncSender",
    "Closed",
    "Confirmation",
    "DropReason",
    "Endpoint",
    "Family",
    "FanoutError",
    "Ingress",
    "IngressStats",
    "InvalidIngress",
    "InvalidInput",
    "InvalidService",
    "KeyUnavailable",
    "Message",
    "MessageTooLarge",
    "NoEndpoints",
    "Outcome",
    "Overflow",
    "PodStats",
    "Query",
    "Receipt",
    "ReceiptStatus",
    "ReceiveDrop",
    "Receiver",
    "ReceiverStats",
    "Relay",
    "RelayDrop",
    "RelayStats",
    "Reply",
    "Report",
    "ResolverUnavailable",
    "Sender",
    "SenderCounts",
    "SenderStats",
    "Service",
    "SocketUnavailable",
    "Status",
]

_MODULES = (
    "fanout.errors",
    "fanout.model",
    "fanout.report",
    "fanout.protocol.drop_reasons",
    "fanout.protocol.sending.receipt",
    "fanout.protocol.receiving.dedup",
    "fanout.sender.engine",
    "fanout.sender.sync",
    "fanout.receiver.core.stats",
    "fanout.receiver.queue",
    "fanout.receiver.sync",
    "fanout.sender.aio",
    "fanout.receiver.aio",
    "fanout.relay.core.drop_reasons",
    "fanout.relay.core.stats",
    "fanout.relay.core.ingress",
    "fanout.relay.relay",
)

logging.getLogger("fanout").addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # a type checker sees the imports above, and no other name

    def __getattr__(name: str) -> object:
        if name in __all__:
            for path in _MODULES:
                module = import_module(path)
                if hasattr(module, name):
                    globals()[name] = value = getattr(module, name)
                    return value
        raise AttributeError(f"module 'fanout' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
