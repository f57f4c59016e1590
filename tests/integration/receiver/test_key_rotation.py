"""Keys are changed while messages flow: nothing is lost, nothing leaves in plain text, and nobody is started anew."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

import fanout
from fanout.net import key_file
from fanout.protocol import frame
from fanout.protocol.seal import Keyring, Opener
from tests.support.pods import Pod
from tests.support.waiting import until

_OLD, _NEW = "11" * 32, "22" * 32
_PART = 100


def _swap(path: Path, text: str) -> None:
    """Replace a file at once, as the volume of a Secret does."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def test_keys_are_changed_while_messages_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file, "LOOK_INTERVAL", 0.0)
    senders, receivers = tmp_path / "sender", tmp_path / "receiver"
    for path in (senders, receivers):
        path.write_text(f"{_OLD}\n")
    payloads = [b"message %06d" % number for number in range(5 * _PART)]
    sent = 0
    got: list[fanout.Message] = []
    watched: list[bytes] = []
    tap = Pod("127.0.1.2", 0)  # a second pod: it opens nothing, and sees what is on the wire
    with (
        contextlib.closing(tap.socket),
        fanout.Receiver(0, host="127.0.1.1", key_file=str(receivers)) as receiver,
        fanout.Sender(f"{receiver.address},{tap.endpoint}", key_file=str(senders)) as sender,
    ):

        def send_some() -> None:
            nonlocal sent
            sender.send_many(payloads[sent : sent + _PART])
            sent += _PART
            until(are_seen)

        def are_seen() -> bool:
            watched.extend(tap.waiting())
            return len(watched) >= sent

        serving = threading.Thread(target=receiver.serve, args=(got.append,))
        serving.start()
        try:
            send_some()
            _swap(receivers, f"{_OLD}\n{_NEW}\n")
            send_some()
            _swap(senders, f"{_NEW}\n{_OLD}\n")
            send_some()
            # One that was sealed with the new one: all that was sealed with the old one, marks as well, came before.
            until(lambda: len(got) > 2 * _PART)
            _swap(receivers, f"{_NEW}\n")
            send_some()
            _swap(senders, f"{_NEW}\n")
            send_some()
            until(lambda: len(got) >= len(payloads))
        finally:
            receiver.stop()
            serving.join()
        stats = receiver.stats
    assert [message.payload for message in got] == payloads
    assert {message.gap for message in got} == {0}
    assert (stats.refused, stats.skipped) == ({}, 0)
    sealed_with = [_key_of(datagram) for datagram in watched]
    assert sealed_with == sorted(sealed_with), "first the old one, then the new one"
    assert set(sealed_with) == {_OLD, _NEW}


def _key_of(datagram: bytes) -> str:
    """Return which key opens what was on the wire: all is sealed."""
    assert b"message" not in datagram
    found = frame.decode(datagram)
    assert isinstance(found, frame.Sealed)
    for key in (_OLD, _NEW):
        try:
            Opener(Keyring((bytes.fromhex(key),)), "").open(found, found.time)
        except frame.InvalidFrame:
            continue
        return key
    raise AssertionError("sealed with neither key")
