"""The admin port: /livez and /readyz for the kubelet, /metrics for Prometheus."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from fanout.errno_text import binding
from fanout.errors import SocketUnavailable
from fanout.model import Endpoint

_PEER_TIMEOUT = 5.0
_CONNECTIONS_MAX = 32
_POLL = 0.1  # seconds that `close` may take


class AdminServer:
    """Serves in a thread of its own until `close`.

    `alive` and `ready` return why not, or None. A peer is cut off after 5 s, whatever it says, and at most 32 are
    served at a time. Raises `SocketUnavailable`.
    """

    def __init__(
        self,
        host: str | None,
        port: int,
        registry: CollectorRegistry,
        *,
        alive: Callable[[], str | None],
        ready: Callable[[], str | None],
    ) -> None:
        probes = {"/livez": alive, "/readyz": ready}
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                exposition: Iterable[bytes] = metrics(environ, start_response)
                return exposition
            problem = probes[path]() if path in probes else "there are /livez, /readyz and /metrics"
            status = "200 OK" if problem is None else "503 Service Unavailable" if path in probes else "404 Not Found"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
            return [f"{problem or 'ok'}\n".encode()]

        self._server = _listen(host, port)
        self._server.set_app(app)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL,), name="fanout-admin", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> Endpoint:
        """Return where it listens."""
        return Endpoint(*self._server.socket.getsockname()[:2])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        self._connections = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: it looks the host's name up in DNS, which may take seconds in a pod.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # Not the handler's timeout: that is for each read, and a peer that drips bytes would never meet it.
        deadline = threading.Timer(_PEER_TIMEOUT, _cut_off, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a peer that hangs up or sends garbage is its own problem."""


def _cut_off(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        """Log nothing: probes come every few seconds."""


def _listen(host: str | None, port: int) -> _Server:
    candidates = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]
    if host is not None:
        candidates = [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]
    for family, address in candidates:
        try:
            return _Server(family, (address, port))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) or (family, address) == candidates[-1]:
                sentence = binding(Endpoint(address, port), error.errno or 0, protocol="TCP")
                raise SocketUnavailable(f"admin port: {sentence}") from error
    raise AssertionError("unreachable: the last candidate returns or raises")
