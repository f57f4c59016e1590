"""A message as the values of a log line."""

from __future__ import annotations

import base64
from typing import Any

from fanout.model import Message


def payload_field(payload: bytes, limit: int) -> dict[str, Any]:
    """Return the payload as a value of a log line: text where it is UTF-8, base64 where it is not.

    Of a payload over `limit` bytes only the beginning is shown, which `payload_cut` says.
    """
    shown = payload[:limit]
    cut = {"payload_cut": True} if len(shown) < len(payload) else {}
    try:
        return {"payload": shown.decode("utf-8"), **cut}
    except UnicodeDecodeError as error:
        if cut and error.start >= len(shown) - 3 and error.reason == "unexpected end of data":
            return {"payload": shown[: error.start].decode("utf-8"), **cut}
        return {"payload_base64": base64.b64encode(shown).decode("ascii"), **cut}


def message_fields(message: Message, limit: int) -> dict[str, Any]:
    """Return the values of a `message_received` line."""
    return {
        "source": str(message.source),
        "size": len(message.payload),
        **payload_field(message.payload, limit),
        **({"gap": message.gap} if message.gap else {}),
    }
