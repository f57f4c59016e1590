"""Senders: `Sender` blocks, `AsyncSender` awaits."""
