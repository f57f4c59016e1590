"""A nameserver that does as a script says: lies, garbage, silence, and TCP that does not work."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.knot import Knot
from tests.support.ports import bind_both
from tests.support.waiting import PATIENCE, until

Over = Literal["UDP", "TCP"]
Tcp = Literal["open", "refused", "silent"]


class Reply(NamedTuple):
    """A response that is sent otherwise than usual."""

    wire: bytes
    from_elsewhere: bool = False
    """From another port than the one that was asked (UDP)."""
    unframed: bool = False
    """Without the two bytes of length in front (TCP)."""


Script = Callable[[bytes, Over], Iterable[bytes | Reply]]
"""Returns the responses to a question on the wire; none for silence."""


def response(question: bytes, *answer: str, rcode: int = dns.rcode.NOERROR, flags: int = 0) -> dns.message.Message:
    """Return a response with records as `name ttl class type data`."""
    made = dns.message.make_response(dns.message.from_wire(question))
    made.set_rcode(dns.rcode.Rcode(rcode))
    made.flags |= flags
    made.answer = [record(text) for text in answer]
    return made


def record(text: str) -> dns.rrset.RRset:
    name, dns_ttl, rdclass, rdtype, data = text.split(maxsplit=4)
    return dns.rrset.from_text(name, int(dns_ttl), rdclass, rdtype, *data.split("|"))


def answering(*answer: str, rcode: int = dns.rcode.NOERROR, flags: int = 0) -> Script:
    return lambda question, over: [response(question, *answer, rcode=rcode, flags=flags).to_wire()]


def srv(*records: str, additional: Iterable[str] = ()) -> Script:
    """Answer a question for SRV with these records, and any other with none."""

    def script(question: bytes, over: Over) -> Iterable[bytes]:
        asked = dns.message.from_wire(question).question[0]
        made = response(question)
        if asked.rdtype == dns.rdatatype.SRV:
            made.answer = [dns.rrset.from_text(asked.name, 5, "IN", "SRV", *records)]
            made.additional = [record(text) for text in additional]
        yield made.to_wire()

    return script


def truncated(over_tcp: Script) -> Script:
    """Answer over TCP only."""
    over_udp = answering(flags=dns.flags.TC)
    return lambda question, over: (over_udp if over == "UDP" else over_tcp)(question, over)


def mutated(wire: bytes, changes: list[tuple[int, int]], kept: int) -> bytes:
    """Return a message with some of its bytes changed, and perhaps cut off; its id stays."""
    changed = bytearray(wire)
    for position, value in changes:
        changed[2 + position % (len(changed) - 2)] = value
    return bytes(changed[: max(kept, 2)])


class ScriptedServer:
    """Listens on one port of 127.0.0.1, UDP and TCP; both are bound before its thread starts.

    With TCP "refused" a connection is reset, with "silent" its SYN is never answered, as behind a firewall.
    """

    def __init__(self, script: Script, *, tcp: Tcp = "open") -> None:
        self.script = script
        self.questions: list[bytes] = []
        self._failure: Exception | None = None
        with contextlib.ExitStack() as stack:
            self._udp, self._tcp = map(stack.enter_context, bind_both())
            self.port: int = self._udp.getsockname()[1]
            self._elsewhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._elsewhere.bind(("127.0.0.1", 0))
            if tcp == "silent":
                self._fill_backlog(stack)
            elif tcp == "open":
                self._tcp.listen(16)
            self._wake, self._woken = socket.socketpair()
            stack.enter_context(self._wake)
            stack.enter_context(self._woken)
            self._thread = threading.Thread(
                target=self._run, args=(tcp == "open",), name="scripted-nameserver", daemon=True
            )
            self._thread.start()
            self._stack = stack.pop_all()

    @property
    def nameserver(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._stack.close()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fill_backlog(self, stack: contextlib.ExitStack) -> None:
        """Linux drops the SYNs for a socket whose queue of connections is full."""
        self._tcp.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        waiting.connect(("127.0.0.1", self.port))

        def is_full() -> bool:
            # Of a socket that listens, `tcpi_unacked` is the length of its queue (net/ipv4/tcp.c): with one, 0 is full.
            information = self._tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
            return struct.unpack_from("I", information, 24) > (0,)

        until(is_full, "the queue is full")

    def _run(self, with_tcp: bool) -> None:
        try:
            self._serve(with_tcp)
        except Exception as error:  # a fault of the script, told by `close`
            self._failure = error

    def _serve(self, with_tcp: bool) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._udp, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            if with_tcp:
                selector.register(self._tcp, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    return
                # A client that has gone away is no trouble of the nameserver's.
                with contextlib.suppress(OSError):
                    if self._udp in ready:
                        self._answer_datagram()
                    if self._tcp in ready:
                        self._answer_connection()

    def _answer_datagram(self) -> None:
        question, client = self._udp.recvfrom(65_535)
        self.questions.append(question)
        for reply in map(_reply, self.script(question, "UDP")):
            (self._elsewhere if reply.from_elsewhere else self._udp).sendto(reply.wire, client)

    def _answer_connection(self) -> None:
        connection, _ = self._tcp.accept()
        with connection:
            connection.settimeout(PATIENCE)
            stream = connection.makefile("rb")
            with stream:
                question = stream.read(int.from_bytes(stream.read(2)))
                if not question:
                    return  # a client that has gone before it asked
                self.questions.append(question)
                for reply in map(_reply, self.script(question, "TCP")):
                    length = b"" if reply.unframed else struct.pack("!H", len(reply.wire))
                    connection.sendall(length + reply.wire)


def _reply(reply: bytes | Reply) -> Reply:
    return reply if isinstance(reply, Reply) else Reply(reply)


Lie = Callable[[bytes, bytes], Iterable[bytes | Reply]]
"""Returns what is sent instead, from a question and from the true answer to it."""


class Front:
    """Stands before a real nameserver and passes on what it says, or a lie instead."""

    def __init__(self, knot: Knot, *, lie: Lie | None = None, over: Over = "UDP", tcp: Tcp = "open") -> None:
        self.lie = lie
        self._over = over
        self._knot = knot
        self._server = ScriptedServer(self._answer, tcp=tcp)
        self.nameserver = self._server.nameserver
        self.close = self._server.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer(self, question: bytes, over: Over) -> Iterable[bytes | Reply]:
        truth = self._ask(question, over)
        return [truth] if self.lie is None or over != self._over else self.lie(question, truth)

    def _ask(self, question: bytes, over: Over) -> bytes:
        where = ("127.0.0.1", self._knot.port)
        if over == "UDP":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.settimeout(PATIENCE)
                udp.sendto(question, where)
                return udp.recv(65_535)
        with socket.create_connection(where, timeout=PATIENCE) as tcp, tcp.makefile("rb") as stream:
            tcp.sendall(struct.pack("!H", len(question)) + question)
            (length,) = struct.unpack("!H", stream.read(2))
            return stream.read(length)
