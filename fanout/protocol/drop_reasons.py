"""Why a receiver did not hand a datagram over: the only source of such labels in counts, logs and metrics. Pure."""

from __future__ import annotations

from enum import StrEnum


class ReceiveDrop(StrEnum):
    """Why a datagram, or a message in several of them, was not handed over."""

    KERNEL_BUFFER = "kernel_buffer"
    """The kernel's receive buffer was full."""
    QUEUE_FULL = "queue_full"
    """The receiver's queue was full (`Overflow`)."""
    UNKNOWN_VERSION = "unknown_version"
    """A frame of a version that this fanout does not know."""
    UNKNOWN_KIND = "unknown_kind"
    """A frame of a kind that this version does not know."""
    UNKNOWN_FLAGS = "unknown_flags"
    """A frame with flags that this version does not know."""
    MALFORMED = "malformed"
    """A frame that is cut off, or whose sizes do not agree."""
    UNEXPECTED = "unexpected"
    """A frame not meant for this end: an answer to nothing asked, or a pull of a reply that is not kept."""
    DUPLICATE = "duplicate"
    """A message that was accepted before."""
    TOO_OLD = "too_old"
    """A message too late to tell whether it was accepted before."""
    INCOMPLETE = "incomplete"
    """A message whose missing fragments did not come in time, or that was evicted."""
    NO_ROOM = "no_room"
    """A fragment, or a message to be confirmed, beyond the number that is kept."""
    UNSEALED = "unsealed"
    """Not sealed, where a key is set."""
    NO_KEY = "no_key"
    """Sealed, where no key is set."""
    WRONG_KEY = "wrong_key"
    """No key opens it: sealed with another key, for another cluster, or forged."""
    REPLAYED = "replayed"
    """Sealed, and opened before."""
    STALE = "stale"
    """Sealed by a sender not seen before, too long ago or too far in the future: old, or the clocks differ."""
    SENDERS_FULL = "senders_full"
    """Sealed by a sender not seen before, while the table of known ones is full."""
