"""What is fuzzed: functions that take any bytes, and must neither raise what they do not document nor grow."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

from fanout.errors import KeyUnavailable
from fanout.model import Endpoint
from fanout.protocol import frame, probe
from fanout.protocol.frame import Answer, InvalidFrame, ReplyFragment
from fanout.protocol.probe_log import ProbeLog
from fanout.protocol.receiving.dedup import CONFIRMED, HandlingResult
from fanout.protocol.receiving.receive_state import PendingReply
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Run
from fanout.protocol.seal import Keyring, Opener, Sealer
from fanout.protocol.sending.exchange import Exchange
from fanout.protocol.sending.rtt import RttEstimator
from fanout.ssdp.core import description, message, urls

Target = Callable[[bytes], object]
KEYRING = Keyring((bytes(range(32)),))
POD = Endpoint("10.0.0.1", 12000)
EPOCH = 1_700_000_000.0
_SEALED = (
    frame.MAGIC + bytes((frame.VERSION, frame.FrameKind.NUMBERED | frame.SEALED)) + (1).to_bytes(8) + (1).to_bytes(8)
)


def decode() -> Target:
    """Frames."""

    def take(data: bytes) -> None:
        for datagram in (data, frame.MAGIC + b"\1" + data):
            with contextlib.suppress(InvalidFrame):
                frame.decode(datagram)

    return take


def reception() -> Target:
    """Whatever reaches a receiver, in runs as the kernel merges them; each message is handled."""
    return _reception(Reception(2))


def generous_reception() -> Target:
    """The same, with a receiver that replies to anyone."""
    return _reception(Reception(2, reply_to_anyone=True))


def sealed_reception() -> Target:
    """The same, sealed with the right key: what the members of the group may do to each other."""
    sealers = {sender: Sealer(KEYRING, "", sender, 1) for sender in range(4)}
    take = _reception(Reception(2, keyring=KEYRING, counter=1))

    def sealed(data: bytes) -> None:
        if len(data) >= frame.HEADER.size - frame.SENDER_AT:
            inner = frame.MAGIC + b"\1" + data[:1] + (data[1] % 4).to_bytes(8) + data[2:]
            if len(inner) >= frame.HEADER.size:
                take(*sealers[data[1] % 4].seal_many([inner], EPOCH))
        take(data)

    return sealed


def _reception(receiver: Reception) -> Target:
    clock = itertools.count()

    def take(data: bytes) -> None:
        now = next(clock) / 1000
        # The first bytes say how the kernel merged the rest.
        segment = max(1, data[0] * 8) if data else 1
        for run in (data[1:], frame.MAGIC + b"\1" + data[1:]):
            if not run:
                continue
            parts = -(-len(run) // segment)
            taken = receiver.take(Run(run, min(segment, len(run)), parts, ("10.0.0.7", 1), EPOCH + now), now)
            for each in taken.runs:
                pending = each.question
                if not isinstance(pending, PendingReply):
                    continue
                if pending.wants_reply:
                    result = HandlingResult.replied(each.data * 3)
                else:
                    result = CONFIRMED if len(each.data) % 2 else HandlingResult.failed("no")
                pending.state.settle(pending, result, EPOCH + now)

    return take


def asker() -> Target:
    """Whatever comes back to who asked."""
    clock = itertools.count()
    state = {"exchange": _exchange(0.0)}

    def take(data: bytes) -> None:
        now = next(clock) / 1000
        kind = 4 + (data[0] & 1) if data else 4
        header = frame.header(frame.FrameKind(kind), 2, 1)
        with contextlib.suppress(InvalidFrame):
            found = frame.decode(header + data[1:])
            assert isinstance(found, (Answer, ReplyFragment))
            exchange = state["exchange"]
            exchange.take(found, POD, now)
            if exchange.advance((POD,), now).is_over:
                state["exchange"] = _exchange(now)

    return take


def _exchange(now: float) -> Exchange:
    exchange = Exchange(
        bytes(2000),
        (POD,),
        now,
        sender=1,
        number=1,
        fragment_size=256,
        timeout=1.0,
        retries=None,
        is_query=True,
        round_trip=RttEstimator(lambda: 0.0),
    )
    exchange.due(now)
    return exchange


def opener() -> Target:
    """Sealed frames that nobody sealed."""
    made = Opener(KEYRING, "blue")

    def take(data: bytes) -> None:
        with contextlib.suppress(InvalidFrame):
            found = frame.decode(_SEALED + data)
            assert isinstance(found, frame.Sealed)
            made.open(found, EPOCH)
            raise AssertionError("a frame that nobody sealed was opened")

    return take


def keyring() -> Target:
    """Key files."""

    def take(data: bytes) -> None:
        with contextlib.suppress(KeyUnavailable):
            Keyring.parse(data, "the file")

    return take


def probes() -> Target:
    """Probes of `fanout bench`, and what comes back to it."""
    log = ProbeLog("1", lambda: (0, 0))

    def take(data: bytes) -> None:
        for datagram in (data, probe.MAGIC + data):
            log.take(datagram, 0.0)
            probe.parse(datagram)
            probe.parse_report(datagram)

    return take


def ssdp_message() -> Target:
    """SSDP datagrams: what is read is written so that it is read as the same again."""
    starts = (
        b"",
        b'M-SEARCH * HTTP/1.1\r\nMAN: "ssdp:discover"\r\nST: a\r\n',
        b"HTTP/1.1 200 OK\r\nST: a\r\nUSN: uuid:1::a\r\nLOCATION: http://10.0.0.1/\r\n",
        b"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nNT: a\r\nUSN: uuid:1::a\r\nLOCATION: http://10.0.0.1/\r\n",
    )

    def take(data: bytes) -> None:
        for start in starts:
            try:
                found = message.parse(start + data)
            except message.InvalidSsdp:
                continue
            if isinstance(found, message.Search):
                written = message.search(found.target, found.mx or 0, found.headers)
                again = message.parse(written)
                assert isinstance(again, message.Search)
                assert (again.target, again.mx) == (found.target, found.mx or 0)
            else:
                advert = found.advert if isinstance(found, message.Notify) else found
                kind = found.kind if isinstance(found, message.Notify) else message.NotifyKind.ALIVE
                for written in (message.notify(kind, advert), message.answer(advert, "a") if advert.location else b""):
                    if written:
                        said = message.parse(written)
                        assert not isinstance(said, message.Search)
                        udn = said.advert.udn if isinstance(said, message.Notify) else said.udn
                        assert (udn, len(written) <= message.DATAGRAM_MAX) == (advert.udn, True)
                message.matches(advert.usn, advert.nt, advert.usn)

    return take


def ssdp_rewrite() -> Target:
    """Documents: where no URL has another place nothing changes, and what was changed is not changed again."""

    def edge(host: str, port: int) -> str | None:
        return "10.50.0.20:28200" if host == "10.0.0.1" else "" if port == 80 else None

    def take(data: bytes) -> None:
        for body in (data, b"<http://10.0.0.1:8200/>" + data, b"http://10.0.0.1" + data, b"http://[" + data):
            for content_type in ("text/xml", "text/xml; charset=utf-16"):
                assert urls.in_text(body, content_type, lambda _host, _port: None).body == body
                done = urls.in_text(body, content_type, edge)
                again = urls.in_text(done.body, content_type, edge)
                assert (again.body, again.changed, again.left) == (done.body, 0, done.left)
            urls.split(body.decode("latin-1"))

    return take


def ssdp_description() -> Target:
    """Descriptions of devices: what they announce fits into a header."""

    def take(data: bytes) -> None:
        for body in (data, b"<root><device><UDN>uuid:1</UDN><friendlyName>" + data):
            with contextlib.suppress(description.InvalidDescription):
                for nt, usn in description.parse(body).adverts:
                    message.notify(message.NotifyKind.ALIVE, message.Advert(nt, usn, "http://10.0.0.1/"))

    return take


TARGETS: dict[str, tuple[Callable[[], Target], int]] = {
    "decode": (decode, 10_000_000),
    "reception": (reception, 10_000_000),
    "generous-reception": (generous_reception, 2_000_000),
    "sealed-reception": (sealed_reception, 2_000_000),
    "asker": (asker, 10_000_000),
    "opener": (opener, 2_000_000),
    "keyring": (keyring, 2_000_000),
    "probes": (probes, 10_000_000),
    "ssdp-message": (ssdp_message, 500_000),
    "ssdp-rewrite": (ssdp_rewrite, 200_000),
    "ssdp-description": (ssdp_description, 500_000),
}
"""Each target and how many inputs a whole run gives it."""
