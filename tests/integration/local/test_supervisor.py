"""The supervisor's parts, in this process: the state directory, finding the Service, control, and pods that fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fanout.errors import SocketUnavailable
from fanout.local import control, demo, launch, logs, pods, state
from fanout.local.directory import StateDirectory
from fanout.local.settings import LocalSettings
from fanout.local.state import LocalService, LocalServiceError, NotRunning
from fanout.local.supervisor import Supervisor
from tests.support.limits import PATIENT, variables
from tests.support.local import short_folder
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

SERVICE = LocalService(
    pid=os.getpid(),
    nameserver="127.0.0.1:4711",
    search=("local.svc.cluster.local", "svc.cluster.local", "cluster.local"),
    ndots=5,
    service="headless-udp",
    port=12000,
    directory="",
)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with short_folder() as folder:
        path = folder / "state"
        monkeypatch.setenv("FANOUT_LOCAL_DIR", str(path))
        yield path


@pytest.fixture
def published(path: Path) -> Iterator[LocalService]:
    """A Service that seems to run: its directory is held, and something listens on its control socket."""
    service = SERVICE._replace(directory=str(path))
    directory = StateDirectory.take(str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(state.control_path(str(path)))
        listener.listen()
        directory.publish(service)
        yield service
    directory.release()


def test_find_returns_what_was_published(published: LocalService) -> None:
    assert state.find() == published
    assert state.running().name == "headless-udp.local.svc.cluster.local"


def test_find_imports_next_to_nothing() -> None:
    script = (
        "from __future__ import annotations; import sys, typing, fanout.errors; before = set(sys.modules);"
        "from fanout.local.state import find; assert find() is None;"
        "print(*sorted(set(sys.modules) - before))"
    )
    environment = {"FANOUT_LOCAL_DIR": "/nonexistent", "PATH": os.environ["PATH"]}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["fanout.local", "fanout.local.state"]


def test_find_believes_no_directory_that_others_could_have_written(published: LocalService) -> None:
    os.chmod(published.directory, 0o750)  # noqa: PTH101
    assert state.find() is None
    os.chmod(published.directory, 0o700)  # noqa: PTH101
    assert state.find() == published


def test_find_follows_no_link_of_somebody_else(published: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path(published.directory).with_name("link")
    link.symlink_to(published.directory)
    monkeypatch.setenv("FANOUT_LOCAL_DIR", str(link))
    assert state.find() is None


@pytest.mark.parametrize("content", ["", "pid", "pid x\n", "\udcff", "pid 1\nnameserver 127.0.0.1:1\n", "\n" * 10])
def test_find_ignores_a_file_that_is_not_ours(published: LocalService, content: str) -> None:
    Path(state.file_path(published.directory)).write_bytes(os.fsencode(content))
    assert state.find() is None


def test_find_ignores_a_service_that_died(path: Path) -> None:
    directory = StateDirectory.take(str(path))
    directory.publish(SERVICE._replace(directory=str(path)))
    assert state.find() is None
    with pytest.raises(NotRunning, match="fanout local up"):
        state.running()
    directory.release()
    assert not path.exists()


def test_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FANOUT_LOCAL_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/t")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state.directory_path() == f"{tmp_path}/fanout"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    assert state.directory_path() == f"/t/fanout-{os.geteuid()}"
    monkeypatch.setenv("FANOUT_LOCAL_DIR", "relative")
    assert state.directory_path() == str(Path.cwd() / "relative")


def test_the_directory_has_one_owner_and_keeps_what_is_not_ours(path: Path) -> None:
    directory = StateDirectory.take(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(LocalServiceError, match="running already"):
        StateDirectory.take(str(path))
    (path / "notes").write_text("mine")
    (path / "supervisor.log").write_text("")
    directory.release()
    assert [entry.name for entry in path.iterdir()] == ["notes"]
    StateDirectory.take(str(path)).release()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("file", "is not a directory"),
        ("file/below", r"cannot be made \(Not a directory\)"),
        ("open", r"is open to others \(mode 0755, not 0700\)"),
        ("x" * 120, "too long for a Unix socket"),
    ],
)
def test_a_directory_that_will_not_do_is_named(path: Path, name: str, sentence: str) -> None:
    (path.parent / "file").touch()
    (path.parent / "open").mkdir()
    (path.parent / "open").chmod(0o755)
    with pytest.raises(LocalServiceError, match=sentence) as caught:
        StateDirectory.take(str(path.parent / name))
    assert "FANOUT_LOCAL_DIR" in str(caught.value)


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


def supervise(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    *,
    when_ready: Callable[[Supervisor], None] = lambda _: pytest.fail("the pods are not ready"),
    **settings: Any,
) -> None:
    """Run a supervisor whose receivers are a script."""
    monkeypatch.setattr(pods, "python_command", lambda *arguments: [sys.executable, "-c", script, *arguments])
    monkeypatch.setattr(pods, "_MIN_BACKOFF", 0.01)
    supervisor = Supervisor(LocalSettings(port=free_port(), **settings), StateDirectory.take(str(path)))
    asyncio.run(supervisor.run(lambda: when_ready(supervisor)))


def test_a_receiver_that_cannot_start_is_named_with_its_last_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalServiceError) as caught:
        supervise(path, monkeypatch, "import sys; sys.exit('first line\\nfanout: no such luck')")
    assert "statefulset-udp-server-" in str(caught.value)
    assert str(caught.value).endswith("did not become ready: no such luck")
    assert not path.exists()


def test_a_receiver_that_never_says_ready_is_not_waited_for_longer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.local.supervisor.ready_timeout", lambda _: 0.1)
    with pytest.raises(LocalServiceError, match="within 0 s: it wrote nothing to standard error"):
        supervise(path, monkeypatch, "import signal; print('{}', flush=True); signal.pause()", replicas=1)
    assert not path.exists()


def test_a_supervisor_that_is_told_to_stop_waits_for_no_pod(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()"
    with pytest.raises(LocalServiceError, match="stopped before its pods were ready"):
        supervise(path, monkeypatch, script)
    assert not path.exists()


STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"event": "receiver_started"}', flush=True)
while True:
    signal.pause()
"""


def test_a_receiver_that_does_not_end_is_killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "STOP_GRACE", 0.1)
    seen: list[int] = []

    def stop(supervisor: Supervisor) -> None:
        seen.extend(pod["pid"] for pod in supervisor._status()["pods"])
        os.kill(seen[0], signal.SIGTERM)
        supervisor._stop()

    supervise(path, monkeypatch, STUBBORN, when_ready=stop, replicas=1, drain=0.0)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_a_command_that_does_not_exist_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(LocalServiceError, match="No such file or directory: '/nonexistent/python'"):
        supervise(path, monkeypatch, "")


def test_an_interrupt_comes_once_the_process_that_is_being_started_is_known() -> None:
    events: list[str] = []
    before = signal.signal(signal.SIGHUP, lambda *_: events.append("interrupted"))
    try:
        with launch.interrupts_later():
            signal.raise_signal(signal.SIGHUP)
            events.append("known")
        assert events == ["known", "interrupted"]
        signal.raise_signal(signal.SIGHUP)
        assert len(events) == 3, "as before"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with launch.interrupts_later():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "what is started ignores it, too"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_demo_whose_message_does_not_arrive_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable, value in variables(PATIENT).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(demo, "_usable_port", free_port)
    monkeypatch.setattr(demo, "_LOG_TIMEOUT", 0.1)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(logs, "parse", lambda _: None)
    with pytest.raises(LocalServiceError, match=r"0 of 2 receivers logged 'cache invalidated' .* not statefulset"):
        demo.play()
    directory = capfd.readouterr().out.partition("FANOUT_LOCAL_DIR=")[2].split()[0]
    assert not Path(directory).exists()
