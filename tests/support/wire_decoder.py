"""Reads frames by docs/wire-format.md alone: it uses nothing of fanout."""

from __future__ import annotations

import hmac
import struct
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def decode(data: bytes, key: bytes = b"", cluster: str = "") -> dict[str, Any]:
    """Return the fields of a frame, those of bytes in hexadecimal digits; raise ValueError for what is none."""
    if len(data) < 24 or data[:6] != bytes.fromhex("ff666f7574fe") or data[6] != 1:
        raise ValueError("no frame of version 1")
    kind, sender, number = struct.unpack_from("!BQQ", data, 7)
    if kind & 128:
        counter, time = struct.unpack_from("!QI", data, 24)
        extracted = hmac.digest(data[8:16], key, "sha256")
        own_key = hmac.digest(extracted, b"fanout sealed frame 1\x01", "sha256")
        body = AESGCM(own_key).decrypt(bytes(4) + data[24:32], data[36:], data[:36] + cluster.encode())
        inner = decode(data[:7] + bytes((kind - 128,)) + data[8:24] + body)
        return {"kind": kind, "counter": counter, "time": time, "inner": inner}
    fields: dict[str, Any] = {"kind": kind, "sender": sender, "number": number}
    if kind == 1:
        return fields | {"payload": data[24:].hex()}
    if kind == 2:
        return fields | {"origin": struct.unpack("!Q", data[24:])[0]}
    if kind == 3:
        return fields | fragment(data, 24)
    if kind == 4:
        asker, attempt, status, _, missing = struct.unpack_from("!QBBHI", data, 24)
        answer = {"asker": asker, "attempt": attempt, "status": status, "missing": missing}
        return fields | answer | {"detail": data[40:].hex()}
    if kind == 5:
        return fields | {"asker": struct.unpack_from("!Q", data, 24)[0]} | fragment(data, 32)
    if kind == 6:
        return fields | {"indexes": list(struct.unpack(f"!{len(data[24:]) // 4}I", data[24:]))}
    raise ValueError(f"kind {kind} is not known")


def fragment(data: bytes, start: int) -> dict[str, Any]:
    """Return the fields of a fragment, its payload without the padding."""
    flags, attempt, size, index, total = struct.unpack_from("!BBHII", data, start)
    if size == 0 or index >= max(1, -(-total // size)):
        raise ValueError("the sizes do not agree")
    payload = data[start + 12 :][: min(size, total - index * size)]
    described = {"flags": flags, "attempt": attempt, "size": size, "index": index, "total": total}
    return described | {"payload": payload.hex()}
