"""What can go wrong, as one tree.

::

    FanoutError
    ├── InvalidInput (also ValueError)   the call itself is wrong; nothing was sent
    │   ├── InvalidService               an invalid name, port or literal
    │   ├── InvalidIngress               an ingress that a relay cannot listen on
    │   └── MessageTooLarge              more than a UDP datagram holds
    ├── NoEndpoints                      DNS answers: no such Service, or no ready pod
    ├── ResolverUnavailable              DNS gives no usable answer, and no earlier one is known
    ├── SocketUnavailable                the system refused a socket, a port or an address
    ├── KeyUnavailable                   a key file cannot be used, or the sealing package is missing
    └── Closed                           used after close()

A failure of one pod is never raised: it is an outcome in the `Report`.
"""

from typing import Any


class FanoutError(Exception):
    """Root of all errors that fanout raises; its text is one sentence for the operator."""

    report: Any = None
    """The `Report` of what a stream sent before this error; None for other calls."""


class InvalidInput(FanoutError, ValueError):
    """The call itself is wrong; nothing was sent."""


class InvalidService(InvalidInput):
    """An invalid Service name, port or literal list of endpoints."""


class InvalidIngress(InvalidInput):
    """An ingress of a relay that is invalid, by itself or together with the others."""


class MessageTooLarge(InvalidInput):
    """The payload is larger than one UDP datagram can carry; no pod got a copy."""


class NoEndpoints(FanoutError):
    """DNS answers, but names no ready pod."""


class ResolverUnavailable(FanoutError):
    """DNS gives no usable answer, and no earlier one is known."""


class SocketUnavailable(FanoutError):
    """The system refused a socket, a port or an address."""


class KeyUnavailable(FanoutError):
    """A key file cannot be read or holds no usable key, or the sealing package is not installed."""


class Closed(FanoutError):
    """Used after close()."""
