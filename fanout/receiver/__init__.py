"""Receivers: `Receiver` blocks, `AsyncReceiver` awaits; sockets, threads and the queue below them."""
