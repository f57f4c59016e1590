"""Both sockets' side of the system calls that send, by a script: for the contract of the transports."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fanout.model import MAX_PAYLOAD, Endpoint

_MSGHDR = struct.Struct("@PIPNPNi0PI0P")
_IOVEC = struct.Struct("@PN")
_NO_GSO = {errno.EINVAL, errno.EMSGSIZE}
OK, FULL, ICMP, ICMP_WITHIN, SHORT, MISSING, ONCE, ONCE_WITHIN, ONCE_AND_ICMP = range(9)


@dataclass
class Kernel:
    """Both sockets' side of the system calls: does what the script says, and keeps what it was given.

    Each call takes an entry of the script. `FULL`: EAGAIN. `ICMP`: an error of an earlier copy fails this call.
    `ICMP_WITHIN`: it comes while `sendmmsg` runs, which ends early and forgets it. `SHORT`: `sendmmsg` ends early.
    `MISSING`: there is no `sendmmsg`. `ONCE`: the call's first copy is refused, though it would be taken another
    time; `ONCE_AND_ICMP`: while there is an ICMP error to tell of; `ONCE_WITHIN`: one in the middle of a `sendmmsg`,
    which ends before it and does not tell why.

    `ended` has the copies in the order in which it was decided what became of each, with its errno or 0. `attempts`
    counts how often the kernel was given one.
    """

    bad: dict[Endpoint, int] = field(default_factory=dict)
    script: deque[int] = field(default_factory=deque)
    gso_limit: int = MAX_PAYLOAD
    no_gso: int = errno.EIO
    ended: list[tuple[Endpoint, bytes, int]] = field(default_factory=list)
    attempts: int = 0
    untold: int = 0
    refusals: int = 0
    calls: int = 0
    _queue: deque[Endpoint] = field(default_factory=deque)

    def socket(self, family: int, kind: int) -> Any:
        assert kind == socket.SOCK_DGRAM
        return KernelSocket(self, family)

    def sendmmsg(self, fileno: int, address: int, count: int) -> int:
        event = self.begin()
        assert 0 < count <= 1024
        if event == MISSING:
            raise OSError(errno.ENOSYS, "missing")
        end = count if event not in (SHORT, ICMP_WITHIN, ONCE_WITHIN) else (count + 1) // 2
        for index in range(end):
            name, length, vector, vectors, *_ = _MSGHDR.unpack(ctypes.string_at(address + index * 64, 64))
            base, size = _IOVEC.unpack(ctypes.string_at(vector, 16))
            assert vectors == 1
            endpoint = _parse(ctypes.string_at(name, length))
            assert (length == 28) is endpoint.is_ipv6 is (fileno == 6)
            if index > 0 and endpoint in self.bad:
                self.attempts += 1
                self.untold += 1
                return index
            self.end(endpoint, [ctypes.string_at(base, size)], event if index == 0 else OK)
        if event == ICMP_WITHIN:
            self.queue()
        if event == ONCE_WITHIN and end < count:
            self.attempts += 1
            self.untold += 1
        return end

    def end(self, endpoint: Endpoint, payloads: list[bytes], event: int) -> None:
        """Take the copies of one send, or refuse them."""
        number = self.bad.get(endpoint, errno.EPERM if event in (ONCE, ONCE_AND_ICMP) else 0)
        if event == ONCE_AND_ICMP:
            self.queue()
        self.attempts += len(payloads)
        self.ended.extend((endpoint, payload, number) for payload in payloads)
        if number:
            raise OSError(number, "refused")

    @property
    def taken(self) -> list[tuple[Endpoint, bytes]]:
        return [(endpoint, payload) for endpoint, payload, number in self.ended if not number]

    def begin(self) -> int:
        self.calls += 1
        event = self.script.popleft() if self.script else OK
        if event == FULL:
            raise BlockingIOError(errno.EAGAIN, "full")
        if event == ICMP:
            self.queue()
            raise ConnectionRefusedError(errno.ECONNREFUSED, "an earlier one")
        return event

    def queue(self) -> None:
        self.refusals += 1
        self._queue.append(Endpoint("10.0.0.99", self.refusals))

    def dequeue(self) -> Endpoint:
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "empty")
        return self._queue.popleft()


class KernelSocket:
    def __init__(self, kernel: Kernel, family: int) -> None:
        self.kernel, self.is_ipv6 = kernel, family == socket.AF_INET6

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def setsockopt(self, *option: int) -> None:
        pass

    def fileno(self) -> int:
        return 6 if self.is_ipv6 else 4

    def close(self) -> None:
        pass

    def recvmsg(self, *_: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        culprit = self.kernel.dequeue()
        error = struct.pack("=IBBBBII", errno.ECONNREFUSED, 2, 3, 3, 0, 0, 0)
        return b"", [(socket.IPPROTO_IP, 11, error)], 0, culprit

    def sendto(self, payload: bytes, endpoint: Endpoint) -> int:
        assert endpoint.is_ipv6 is self.is_ipv6
        self.kernel.end(endpoint, [payload], self.kernel.begin())
        return len(payload)

    def sendmsg(
        self, buffers: list[bytes], option: list[tuple[int, int, bytes]], flags: int, endpoint: Endpoint
    ) -> int:
        ((level, kind, data),) = option
        (size,) = struct.unpack("=H", data)
        run = b"".join(buffers)
        segments = [run[at : at + size] for at in range(0, len(run), size)]
        assert (level, kind, flags) == (17, 103, 0)
        assert 1 < len(segments) <= 64
        assert len(run) <= MAX_PAYLOAD
        if size > self.kernel.gso_limit:
            raise OSError(self.kernel.no_gso, "no GSO")
        assert endpoint.is_ipv6 is self.is_ipv6
        event = self.kernel.begin()
        if self.kernel.bad.get(endpoint) in _NO_GSO:
            # It might be the run that is refused, and not the address: nothing has left.
            raise OSError(self.kernel.bad[endpoint], "refused")
        self.kernel.end(endpoint, segments, event)
        return len(run)


def _parse(address: bytes) -> Endpoint:
    (family,) = struct.unpack_from("@H", address)
    port = int.from_bytes(address[2:4], "big")
    host = address[4:8] if family == socket.AF_INET else address[8:24]
    return Endpoint(socket.inet_ntop(family, host), port)
