"""What can go wrong, as one tree.

::

    FanoutError
    ├── InvalidInput (also ValueError)   the call itself is wrong; nothing was sent
    │   ├── InvalidService               a name, port or literal that cannot be one
    │   ├── InvalidIngress               what a relay is to listen on, and cannot
    │   └── MessageTooLarge              more than a UDP datagram holds
    ├── NoEndpoints                      DNS says: no such Service, or no ready pod
    ├── ResolverUnavailable              DNS says nothing usable, and no earlier answer is known
    ├── SocketUnavailable                the system refused a socket, a port or an address
    ├── KeyUnavailable                   a key file that cannot be used, or no package that seals
    └── Closed                           used after close()

A failure of one pod is never raised: it is an outcome in the `Report`.
"""

from typing import Any


class FanoutError(Exception):
    """Root of all errors that fanout raises; its text is one sentence for the operator."""

    report: Any = None
    """The `Report` of what a stream had sent before it ended with this error; None for other calls."""


class InvalidInput(FanoutError, ValueError):
    """The call itself is wrong; nothing was sent."""


class InvalidService(InvalidInput):
    """A Service name, a port or a literal list of endpoints that cannot be one."""


class InvalidIngress(InvalidInput):
    """An ingress of a relay that cannot be one, by itself or with the others."""


class MessageTooLarge(InvalidInput):
    """The payload is larger than one UDP datagram can carry; no pod got a copy."""


class NoEndpoints(FanoutError):
    """DNS answers, and names no ready pod."""


class ResolverUnavailable(FanoutError):
    """DNS gives no usable answer, and no earlier one is known."""


class SocketUnavailable(FanoutError):
    """The system refused a socket, a port or an address."""


class KeyUnavailable(FanoutError):
    """A key file cannot be read or holds no usable key, or the package that seals is not installed."""


class Closed(FanoutError):
    """Used after close()."""
