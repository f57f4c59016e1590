"""Plain sockets that stand where the receivers of pods would."""

from __future__ import annotations

import socket

from fanout.model import Endpoint
from tests.support.waiting import PATIENCE


class Pod:
    """A plain socket that stands where a pod's receiver would."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((host, port))
        self.socket.settimeout(PATIENCE)
        self.endpoint = Endpoint(*self.socket.getsockname()[:2])

    def receive(self) -> bytes:
        return self.socket.recv(65_535)

    def waiting(self) -> list[bytes]:
        """Everything that has arrived by now."""
        payloads = []
        self.socket.setblocking(False)
        try:
            while True:
                payloads.append(self.socket.recv(65_535))
        except BlockingIOError:
            return payloads
        finally:
            self.socket.settimeout(PATIENCE)


def literals(pods: list[Pod]) -> str:
    """Return the pods as a literal list."""
    return ",".join(str(pod.endpoint) for pod in pods)
