"""Key files: what they may hold, what is said of those that cannot be used, and that a change is seen."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanout.errors import KeyUnavailable
from fanout.net.key_file import KeyFile
from fanout.protocol.seal import KEYS_MAX, Keyring

OLD, NEW = bytes(range(32)), bytes(range(100, 132))


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "key"
    made.write_bytes(encoded(OLD))
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="fanout")
    return caplog


# What a file holds


def encoded(key: bytes) -> bytes:
    return base64.b64encode(key)


@pytest.mark.parametrize(
    "text",
    [
        encoded(OLD) + b"\n" + encoded(NEW) + b"\n",
        encoded(OLD) + b"\r\n" + encoded(NEW),
        b"\xef\xbb\xbf# the gr\xc3\xb6up\n\n  " + encoded(OLD) + b"  # old\n\n#\n" + encoded(NEW).rstrip(b"="),
        OLD.hex().encode() + b"\n" + NEW.hex().upper().encode(),
        base64.urlsafe_b64encode(OLD) + b"\n" + base64.urlsafe_b64encode(NEW) + b"\n" + encoded(OLD),
    ],
)
def test_keys_are_read_however_they_are_written(text: bytes) -> None:
    assert Keyring.parse(text, "f").keys == (OLD, NEW)


KEY = "must be a key of 32 bytes, as base64 or 64 hexadecimal digits: make one with `fanout keygen`"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "the key file f holds no key: make one with `fanout keygen`"),
        (b"\n # nothing\n", "the key file f holds no key"),
        (b"# x\nmy secret\n", f"line 2 of the key file f {KEY}"),
        (encoded(OLD) + b"\n" + encoded(OLD[:16]), "line 2 of the key file f must be a key of 32 bytes; got 16"),
        (encoded(OLD + b"x"), "line 1 of the key file f must be a key of 32 bytes; got 33"),
        (OLD.hex().encode()[:-1], "line 1 of the key file f must be a key of 32 bytes; got 47"),
        (OLD.hex().encode() + b"0", f"line 1 of the key file f {KEY}"),
        (b"\xff" * 32, f"line 1 of the key file f {KEY}"),
        (b"\0" * 32, "the key file f must be a text file with one key per line: make one"),
        (b"\n".join(encoded(os.urandom(32)) for _ in range(KEYS_MAX + 1)), "the key file f must hold at most 16 keys"),
        (encoded(OLD).replace(b"=", b"*"), f"line 1 of the key file f {KEY}"),
    ],
)
def test_what_is_no_key_is_named_and_never_shown(text: bytes, sentence: str) -> None:
    with pytest.raises(KeyUnavailable) as error:
        Keyring.parse(text, "the key file f")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None
    for line in text.split():
        assert len(line) < 6 or line.decode("latin-1") not in str(error.value)


@given(st.binary(max_size=300) | st.text("AZaz09+/=-_# \n\t", max_size=300).map(str.encode))
@example(b"A" * 43)
@example(b"A" * 42 + b"B")
def test_any_text_is_keys_or_one_sentence(text: bytes) -> None:
    with contextlib.suppress(KeyUnavailable):
        keys = Keyring.parse(text, "f").keys
        assert 1 <= len(keys) <= KEYS_MAX
        assert {len(key) for key in keys} == {32}


def test_no_key_is_printed() -> None:
    ring = Keyring((OLD, NEW))
    assert repr(ring) == str(ring) == f"{ring}" == "Keyring(2 keys)"


# Files that cannot be used


def complaint(path: object) -> str:
    with pytest.raises(KeyUnavailable) as error:
        KeyFile(str(path))
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.removeprefix("cannot read ").startswith("the key file ")
    return sentence.replace("the key file ", "", 1)


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "key"
    missing = f"cannot read {path}: No such file or directory; make one with `fanout keygen`, or mount the Secret"
    assert complaint(path).startswith(missing)
    assert complaint(tmp_path) == f"{tmp_path} is a directory: name the file in it"
    path.write_bytes(b"")
    assert complaint(path) == f"{path} holds no key: make one with `fanout keygen`"
    path.write_bytes(os.urandom(31) + b"\0")
    assert complaint(path) == f"{path} must be a text file with one key per line: make one with `fanout keygen`"
    path.write_bytes(b"\n" * 70_000)
    assert complaint(path) == f"{path} must be at most 65,536 bytes; it is larger"
    assert complaint("/dev/zero") == "/dev/zero must be a regular file: it is read again when it changes"
    assert complaint(path / "below").startswith(f"cannot read {path / 'below'}: Not a directory")
    assert complaint("a\0b") == r"cannot read 'a\x00b': a path must not contain a null character"
    os.mkfifo(tmp_path / "fifo")
    assert "must be a regular file" in complaint(tmp_path / "fifo")


def test_a_file_that_this_user_may_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the kernel's answer is scripted."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fanout.net.key_file.os.open", refuse)
    assert complaint(path) == f"cannot read {path}: Permission denied; let this user read it"


def test_a_file_whose_disk_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("fanout.net.key_file.os.read", fail)
    assert complaint(path) == f"cannot read {path}: Input/output error"


# Changes


def test_a_change_is_seen_at_the_next_look_and_not_before(
    path: Path, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    keys = KeyFile(str(path), clock=clock)
    first = keys.keyring()
    assert first.keys == (OLD,)
    path.write_bytes(encoded(NEW) + b"\n" + encoded(OLD))
    clock.now += 0.9
    assert keys.keyring() is first
    clock.now += 0.2
    assert keys.keyring().keys == (NEW, OLD)
    assert log.messages == [f"key_file_changed: {path} holds 2 key(s) now; the first one seals"]


def test_what_has_not_changed_is_the_same_object(path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    keys = KeyFile(str(path), clock=clock)
    first = keys.keyring()
    clock.now += 5
    assert keys.keyring() is first
    path.write_bytes(b"# a comment\n" + encoded(OLD) + b"\n")
    clock.now += 5
    assert keys.keyring() is first
    assert log.messages == []


def test_a_secrets_volume_swaps_a_symlink(tmp_path: Path, clock: Clock) -> None:
    """As the kubelet does: key -> ..data/key, ..data -> ..a directory by time, swapped by a rename."""
    for name, key in (("..1", OLD), ("..2", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_bytes(encoded(key))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    keys = KeyFile(str(tmp_path / "key"), clock=clock)
    assert keys.keyring().keys == (OLD,)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    clock.now += 2
    assert keys.keyring().keys == (NEW,)


@pytest.mark.parametrize("broken", [None, b"", b"half a ke", b"\0\1\2"])
def test_what_cannot_be_used_leaves_the_keys_and_is_said_once(
    broken: bytes | None, path: Path, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    keys = KeyFile(str(path), clock=clock)
    for _ in range(2):
        path.unlink()
        if broken is not None:
            path.write_bytes(broken)
        for _ in range(3):
            clock.now += 2
            assert keys.keyring().keys == (OLD,)
        [(_, level, line)] = log.record_tuples
        assert level == logging.WARNING
        assert line.startswith("key_file_unusable: ")
        assert str(path) in line
        assert line.endswith("; the keys read before stay in use")
        assert not broken or broken.decode() not in line
        log.clear()
        path.write_bytes(encoded(OLD))
        clock.now += 2
        assert keys.keyring().keys == (OLD,)
        assert log.messages == []
