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
    from fanout.async_receiver import AsyncReceiver
    from fanout.async_sender import AsyncQuery, AsyncSender
    from fanout.delivery.ledger import SenderCounts
    from fanout.delivery.receipt import Confirmation, Receipt, ReceiptStatus, Reply
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
    from fanout.fan_out import SenderStats
    from fanout.model import Endpoint, Family, Message, Service
    from fanout.net.backlog import Overflow
    from fanout.receiver import Receiver, ReceiverStats
    from fanout.relay.ingress import Ingress
    from fanout.relay.reasons import RelayDrop
    from fanout.relay.relay import Relay
    from fanout.relay.stats import IngressStats, PodStats, RelayStats
    from fanout.report import DropReason, Outcome, Report, Status
    from fanout.sender import Query, Sender
    from fanout.wire.reasons import ReceiveDrop


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

_ROOMS = (
    "fanout.errors",
    "fanout.model",
    "fanout.report",
    "fanout.wire.reasons",
    "fanout.delivery.receipt",
    "fanout.delivery.ledger",
    "fanout.fan_out",
    "fanout.sender",
    "fanout.receiver",
    "fanout.async_sender",
    "fanout.async_receiver",
    "fanout.relay.reasons",
    "fanout.relay.stats",
    "fanout.relay.ingress",
    "fanout.relay.relay",
)

logging.getLogger("fanout").addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # a type checker sees the imports above, and no other name

    def __getattr__(name: str) -> object:
        if name in __all__:
            for room in _ROOMS:
                module = import_module(room)
                if hasattr(module, name):
                    globals()[name] = value = getattr(module, name)
                    return value
        raise AttributeError(f"module 'fanout' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
