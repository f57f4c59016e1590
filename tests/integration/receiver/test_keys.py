"""Receivers with keys, and what may be answered without one, over loopback sockets."""

from __future__ import annotations

import os
import re
import signal
import time
import warnings
from pathlib import Path

import pytest

import fanout
from fanout.protocol import frame, probe
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import ASK, QUERY, AnswerStatus, Frame, ReplyFragment, Sealed
from fanout.protocol.seal import Keyring, Opener, Sealer
from fanout.receiver.aio import AsyncReceiver
from fanout.receiver.sync import Receiver
from tests.support.frame_client import asking, fragments
from tests.support.handler_pods import serving_sync
from tests.support.waiting import until


def test_a_receiver_with_keys_hears_only_who_has_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("00" * 32)
    ring = Keyring((bytes(32),))
    with (
        serving_sync(lambda message: message.payload * 100, key_file=str(key_file), cluster="east") as receiver,
        asking(receiver.address) as asker,
    ):
        sealer, opener = Sealer(ring, "east", asker.sender, 1), Opener(ring, "east")

        def ask(number: int) -> None:
            """Ask with the key; the first answer that comes is the one to this."""
            question = fragments(number, b"reply", flags=ASK | QUERY, size=300)
            asker.send(*sealer.seal_many(question, time.time()))
            for position in range(2):
                sealed = asker.hear()
                assert isinstance(sealed, Sealed)
                reply = frame.decode(opener.open(sealed, time.time()))
                assert isinstance(reply, ReplyFragment)
                assert (reply.number, reply.position, reply.total) == (number, position, 500)
                assert frame.fragment_count(reply.total, reply.size) == 2

        asker.send(b"plain", probe.ping(1, 1), *fragments(1, b"x"))
        until(lambda: receiver.stats.refused == {ReceiveDrop.UNSEALED: 3})
        ask(1)
        asker.send(*Sealer(ring, "east", 7, 1).seal_many(fragments(1, b"x"), time.time() - 3600))
        until(lambda: receiver.stats.refused == {ReceiveDrop.UNSEALED: 3, ReceiveDrop.STALE: 1})
        ask(2)
    (stale,) = (line for line in caplog.messages if "stale" in line)
    age = re.search(r"\+([\d,]+)", stale)
    assert age is not None
    assert int(age[1].replace(",", "")) >= 3600


def test_settings_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in (Receiver, AsyncReceiver):
        with pytest.raises(fanout.FanoutError, match="key file"):
            kind(0, key_file=str(tmp_path / "none"))
        with pytest.raises(fanout.InvalidInput, match="cluster"):
            kind(0, cluster=b"east")  # type: ignore[arg-type]
    assert not caplog.records
    Receiver(0, reply_to_anyone=True)
    assert "reply_to_anyone" in caplog.text


def test_a_reply_that_is_too_large_is_told_to_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    with serving_sync(lambda message: bytes(5000)) as receiver, asking(receiver.address) as asker:
        asker.query(1, b"x")
        answer = asker.answer()
        assert answer.status is AnswerStatus.FAILED
        assert b"larger than the question" in answer.detail
        assert (receiver.stats.failed, receiver.stats.replied) == (1, 0)
    assert "reply_not_sent" in caplog.text
    with serving_sync(lambda message: bytes(5000), reply_to_anyone=True) as receiver, asking(receiver.address) as asker:
        asker.query(1, b"x")
        assert [getattr(asker.hear(), "position", None) for _ in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"key_file": 5}, "key_file must be the path of the file that holds the keys; got 5"),
        ({"key_file": b"key"}, "key_file must be the path of the file that holds the keys; got b'key'"),
        ({"cluster": 5}, "cluster must be a string, the same as that of the senders; got 5"),
        ({"cluster": "\ud800"}, "cluster must be a string, the same as that of the senders; got '\\ud800'"),
        ({"cluster": "east"}, "cluster needs key_file: give both; got cluster 'east' alone"),
        ({"accept_plaintext": True}, "accept_plaintext needs key_file: give both"),
    ],
)
@pytest.mark.parametrize("kind", [Receiver, AsyncReceiver])
def test_wrong_settings_are_one_sentence(
    kind: type[Receiver | AsyncReceiver], settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(fanout.InvalidInput) as raised:
        kind(0, **settings)  # type: ignore[arg-type]
    assert str(raised.value) == sentence


def test_a_label_that_came_in_as_bytes_of_no_utf8_is_the_same_at_both_ends(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("00" * 32)
    label = b"e\xffst".decode("utf-8", "surrogateescape")
    with (
        Receiver(0, host="127.0.0.1", key_file=str(key_file), cluster=label) as receiver,
        fanout.Sender(f"{receiver.address},", key_file=str(key_file), cluster=label) as sender,
    ):
        sender.send(b"reload")
        assert next(iter(receiver)).payload == b"reload"


def test_a_key_file_may_be_a_path(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("00" * 32)
    assert Receiver(0, key_file=key_file, cluster="æøå")._engine.framing.keys is not None  # type: ignore[arg-type]


def test_a_forked_child_answers_under_an_identity_of_its_own(tmp_path: Path) -> None:
    """Two that seal with one identity would use the same nonces."""
    key_file = tmp_path / "key"
    key_file.write_text("00" * 32)
    with Receiver(0, host="127.0.0.1", key_file=str(key_file)) as receiver, asking(receiver.address) as asker:
        sealer = Sealer(Keyring((bytes(32),)), "", asker.sender, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: pytest-xdist has a thread
            child = os.fork()
        if child == 0:
            try:  # until it is killed: the socket is the parent's, too
                receiver.serve(lambda message: None)
            finally:
                os._exit(1)
        answered_by = set()
        try:
            asker.send(*sealer.seal_many(fragments(1, b"x"), time.time()))
            answered_by.add(sender_of(asker.hear()))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        asker.send(*sealer.seal_many(fragments(2, b"x"), time.time()))
        receiver.serve(lambda message: receiver.stop())
        answered_by.add(sender_of(asker.hear()))
    assert len(answered_by) == 2


def sender_of(heard: Frame) -> int:
    assert isinstance(heard, Sealed)
    return heard.sender
