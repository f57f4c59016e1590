"""Plain sockets that stand where the receivers of pods would."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence

from fanout.model import Endpoint
from tests.support.waiting import PATIENCE


class Pod:
    """A plain socket that stands where a pod's receiver would."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        try:
            self.socket.bind((host, port))
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(PATIENCE)
        self.endpoint = Endpoint(*self.socket.getsockname()[:2])

    def receive(self) -> bytes:
        return self.socket.recv(65_535)

    def waiting(self, count: int = 0) -> list[bytes]:
        """Return the next `count` payloads, however long they take, and everything else that has arrived by then."""
        payloads = [self.receive() for _ in range(count)]
        self.socket.setblocking(False)
        try:
            while True:
                payloads.append(self.socket.recv(65_535))
        except BlockingIOError:
            return payloads
        finally:
            self.socket.settimeout(PATIENCE)


@contextlib.contextmanager
def at_one_port(hosts: Sequence[str]) -> Iterator[list[Pod]]:
    """Yield a pod at each of these addresses, all on one port that was free on all of them."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            made: list[Pod] = []
            try:
                for host in hosts:
                    made.append(Pod(host, made[0].endpoint.port if made else 0))
                    stack.callback(made[-1].socket.close)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            yield made
            return
    raise AssertionError(f"no port is free on all of {', '.join(hosts)}")


def literals(pods: list[Pod]) -> str:
    """Return the pods as a literal list."""
    return ",".join(str(pod.endpoint) for pod in pods)
