"""Commands to the supervisor by its socket, and peers that make no sense."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path

import pytest

from fanout.errors import SocketUnavailable
from fanout.local import control, state
from fanout.local.state import LocalService, LocalServiceError, NotRunning
from tests.support.local import SERVICE
from tests.support.waiting import PATIENCE


def converse(path: Path, *messages: bytes) -> list[bytes]:
    """Send each message to a control server that echoes, and return the answers."""

    async def echo(command: control.Values) -> control.Values:
        if command.get("command") == "fail":
            raise SocketUnavailable("no port")
        return {"echo": command}

    async def run() -> list[bytes]:
        server = await control.ControlServer.start(str(path), echo)
        answers = []
        for message in messages:
            reader, writer = await asyncio.open_unix_connection(state.control_path(str(path)))
            writer.write(message)
            writer.write_eof()
            answers.append(await reader.read())
            writer.close()
        await server.close()
        return answers

    return asyncio.run(run())


def test_control_answers_each_line_and_survives_the_rest(path: Path) -> None:
    path.mkdir(mode=0o700)
    answers = converse(path, b'{"command": "x"}\n', b"", b"{\n", b"[]\n", b"x" * 100_000, b'{"command": "fail"}\n')
    assert json.loads(answers[0]) == {"echo": {"command": "x"}}
    assert answers[1] == b""
    assert [json.loads(answer)["error"] for answer in answers[2:]] == [
        "the command is not a line of JSON",
        "the command is not a JSON object",
        "the command is not a line of JSON",
        "no port",
    ]


def serve_once(listener: socket.socket, answer: bytes) -> threading.Thread:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(("answer", "sentence"), [(b'{"error": "too many"}\n', "too many"), (b"", "ended during")])
def test_a_request_raises_the_sentence_of_the_supervisor(path: Path, answer: bytes, sentence: str) -> None:
    path.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(state.control_path(str(path)))
        listener.listen()
        thread = serve_once(listener, answer)
        with pytest.raises(LocalServiceError, match=sentence):
            control.request(SERVICE._replace(directory=str(path)), "scale", timeout=PATIENCE, replicas=3)
        thread.join()


def test_a_request_says_where_nobody_answers(published: LocalService) -> None:
    with pytest.raises(LocalServiceError, match=rf"did not answer .* `kill {published.pid}`"):
        control.request(published, "status", timeout=0.05)
    with pytest.raises(NotRunning):
        control.request(published._replace(directory="/nonexistent"), "status", timeout=PATIENCE)
