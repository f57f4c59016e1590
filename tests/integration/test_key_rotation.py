"""Keys are changed under load: nothing is lost, nothing leaves in plain text, and nobody is started anew."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import fanout
from fanout.wire import frame
from fanout.wire.seal import Keyring, Opener
from tests.support.pods import Pod

RATE = 1000
_OLD, _NEW = "11" * 32, "22" * 32
_STEPS = (
    ("the receiver opens both", "receiver", f"{_OLD}\n{_NEW}\n"),
    ("the sender seals with the new one", "sender", f"{_NEW}\n{_OLD}\n"),
    ("the receiver forgets the old one", "receiver", f"{_NEW}\n"),
    ("the sender forgets the old one", "sender", f"{_NEW}\n"),
)
_STEP = 1.3
"""Seconds: key files are looked at once a second."""


def _swap(path: Path, text: str) -> None:
    """Replace a file at once, as the volume of a Secret does."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def test_keys_are_changed_at_a_thousand_messages_a_second(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("sender", "receiver")}
    for path in files.values():
        path.write_text(f"{_OLD}\n")
    got: list[fanout.Message] = []
    stop = threading.Event()
    watched: list[bytes] = []
    with (
        fanout.Receiver(0, host="127.0.1.1", key_file=str(files["receiver"])) as receiver,
        fanout.Sender(f"{receiver.address},127.0.1.2:{receiver.address.port}", key_file=str(files["sender"])) as sender,
    ):
        # A second pod that opens nothing sees what is on the wire.
        tap = Pod("127.0.1.2", receiver.address.port)

        def watch() -> None:
            while not stop.is_set() or len(watched) < len(got):
                watched.extend(tap.waiting())
                time.sleep(0.001)

        payloads = [b"message %06d" % number for number in range(int(RATE * _STEP * (len(_STEPS) + 1)))]
        threads = [
            threading.Thread(target=lambda: receiver.serve(got.append)),
            threading.Thread(target=lambda: sender.send_many(payloads, rate=RATE)),
            threading.Thread(target=watch),
        ]
        for thread in threads:
            thread.start()
        for _, side, keys in _STEPS:
            time.sleep(_STEP)
            _swap(files[side], keys)
        threads[1].join()
        deadline = time.monotonic() + 5
        while len(got) < len(payloads) and time.monotonic() < deadline:
            time.sleep(0.01)
        receiver.stop()
        stop.set()
        for thread in threads:
            thread.join()
        tap.socket.close()
        stats = receiver.stats
    assert [message.payload for message in got] == payloads
    assert {message.gap for message in got} == {0}
    assert sum(stats.refused.values()) == 0
    assert stats.skipped == 0
    assert len(watched) >= len(payloads)
    sealed_with = {_key_of(datagram) for datagram in watched}
    assert sealed_with == {_OLD, _NEW}


def _key_of(datagram: bytes) -> str:
    """Return which key opens what was on the wire: all is sealed."""
    assert b"message" not in datagram
    found = frame.decode(datagram)
    assert isinstance(found, frame.Sealed)
    for key in (_OLD, _NEW):
        try:
            Opener(Keyring((bytes.fromhex(key),)), "").open(found, found.time)
        except frame.Refused:
            continue
        return key
    raise AssertionError("sealed with neither key")
