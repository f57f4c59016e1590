"""`fanout healthcheck`: what it prints where nobody answers, or a stranger. Of receivers and relays: tests of those."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.support.cli import invoke


@pytest.mark.parametrize("host", ["a b", "a..b", "\u00fc" * 70, "::1", "nosuch.invalid"])
def test_nobody_answers(host: str) -> None:
    sentence = invoke("healthcheck", "--host", host, "--admin-port", "1").assert_one_sentence(1)
    assert "cannot reach a receiver or relay at http://" in sentence
    assert ("[::1]:1" in sentence) == (host == "::1")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\n\x1b[31mfine\nsecond", b"\x1b[31m\ngarbage\n", b"", b"HTTP/1.0 \xff\r\n\r\n"]
)
def test_a_stranger_s_answer_is_printed_as_one_clean_line(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def lie() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        lying = threading.Thread(target=lie)
        lying.start()
        port = str(server.getsockname()[1])
        run = invoke("healthcheck", "--host", "127.0.0.1", "--admin-port", port, "--timeout", "60")
        lying.join()
    assert len((run.out + run.err).splitlines()) == 1
    assert "\x1b" not in run.out + run.err
    assert run.code == (0 if b"200" in answer else 1)
