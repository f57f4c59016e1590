"""`fanout bench` against real receivers, and how it shows what it measured."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import fanout as package
from fanout.measure.session import Bench
from fanout.model import Endpoint
from tests.support.cli import FANOUT, Run, Running, call, environment, invoke, receiving
from tests.support.needs import require_address
from tests.support.pods import Pod
from tests.support.probe_peers import bench, by_endpoint, only, patiently
from tests.support.svg import assert_is_picture
from tests.support.terminal import Screen
from tests.support.waiting import until

COUNT = 50
QUICK = ("--count", str(COUNT))


def all_answer(bench: Bench) -> bool:
    """Whether each pod has answered a ping."""
    return all(pod.round_trips for pod in bench._prober.pods.values())


@contextmanager
def two_receivers(folder: Path) -> Iterator[list[tuple[Running, str]]]:
    """Run two receivers as they run in pods."""
    with ExitStack() as stack:
        made = []
        for number in range(2):
            (folder / str(number)).mkdir()
            host = ("--host", f"127.0.0.{21 + number}")
            made.append(stack.enter_context(receiving(folder / str(number), *host)))
        yield made


@pytest.fixture(scope="module")
def receivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Running, str]]]:
    """Two receivers, for all tests that leave them as they are."""
    with two_receivers(tmp_path_factory.mktemp("receivers")) as made:
        yield made


@pytest.fixture
def mortal_receivers(tmp_path: Path) -> Iterator[list[tuple[Running, str]]]:
    """Two receivers that a test may stop."""
    with two_receivers(tmp_path) as made:
        yield made


def service(receivers: list[tuple[Running, str]]) -> str:
    return ",".join(endpoint for _, endpoint in receivers)


def test_every_receiver_is_measured_and_its_program_sees_nothing(
    mortal_receivers: list[tuple[Running, str]],
) -> None:
    receivers = mortal_receivers
    size = ("--rate", "2000", "--count", "100", "--size", "300", "-o", "json")
    run = bench(service(receivers), *size, going_on=lambda bench: bench.sent < 100 or all_answer(bench))
    assert (run.code, run.err) == (0, "")
    measured = run.json
    assert (measured["service"], measured["rate"], measured["size"]) == (service(receivers), 2000, 300)
    assert (measured["messages"], measured["bytes"], measured["count"]) == (100, 30_000, 100)
    assert measured["bandwidth"] == 2000 * 300 * 8
    assert measured["interrupted"] is False
    assert measured["totals"]["measured"] == 2
    assert measured["totals"]["loss"] == 0
    assert [pod["endpoint"] for pod in measured["endpoints"]] == [endpoint for _, endpoint in receivers]
    for pod in measured["endpoints"]:
        assert (pod["status"], pod["sent"], pod["received"], pod["unique"]) == ("measured", 100, 100, 100)
        assert (pod["lost"], pod["loss"], pod["duplicates"], pod["reordered"], pod["stale"]) == (0, 0, 0, 0, 0)
        assert pod["bytes"] == 30_000
        assert pod["rate"] > 0
        trip = pod["round_trip"]
        assert 0 < trip["answered"] == trip["pings"] <= 100
        assert 0 < trip["p50"] <= trip["p90"] <= trip["p99"] <= trip["max"]
    for receiver, _ in receivers:
        run = receiver.stop()
        assert "message_received" not in run.out
        assert receiver.events("receiver_stopped")[0]["datagrams"] == 0


def test_columns_where_there_is_no_terminal(receivers: list[tuple[Running, str]]) -> None:
    run = bench(service(receivers), *QUICK, going_on=lambda bench: bench.sent < COUNT or all_answer(bench))
    assert (run.code, run.err) == (0, "")
    head, *rows, sent, lost = run.out.splitlines()
    if "slower than requested" in rows[-1]:  # as is said of a machine that was busy
        rows.pop()
    assert head.split() == [
        "POD", "SENT", "RECEIVED", "PER_S", "LOSS_%", "REORD", "DUP", "P50_MS", "P90_MS", "P99_MS", "MAX_MS",
    ]  # fmt: skip
    assert [row.split()[0] for row in rows] == [endpoint for _, endpoint in receivers]
    assert {len(row.split()) for row in rows} == {len(head.split())}
    assert re.fullmatch(r"sent 50 messages of 200 bytes to each of 2 endpoints in \d+\.\d+ s: .*bit/s", sent)
    assert lost.startswith("lost 0 %; round trip ")


def test_a_silent_pod_is_named_and_costs_the_others_nothing(
    receivers: list[tuple[Running, str]], pods: Callable[..., list[Pod]], refusing_port: int
) -> None:
    (plain,) = pods(1)
    mute, refusing = str(plain.endpoint), f"127.0.0.1:{refusing_port}"
    named = f"{service(receivers)},{mute},{refusing}"

    def refused(says: str, *arguments: str) -> Run:
        """Run it until ICMP has told in time."""

        def run() -> Run | None:
            run = bench(named, *QUICK, *arguments, silent=(mute, refusing))
            return run if re.search(says, run.out) else None

        return until(run)

    run = refused(f"silent: {re.escape(refusing)}: nothing listens on that port there")
    assert run.code == 4
    assert f"silent: {mute}: does a fanout receiver listen" in run.out
    assert "2 of 4 endpoints measured; lost 0 %" in run.out
    told = by_endpoint(refused('"refused": [1-9]', "-o", "json").json)
    assert [told[endpoint]["status"] for endpoint in named.split(",")] == ["measured", "measured", "silent", "silent"]
    assert (told[mute]["loss"], told[mute]["received"]) == (None, None)
    assert told[refusing]["refused"] > 0


def test_receivers_with_keys_answer_where_they_accept_plaintext(key_file: str) -> None:
    with serving(key_file=key_file) as (_, sealed), serving(key_file=key_file, accept_plaintext=True) as (_, both):
        run = bench(f"{sealed},{both}", *QUICK, silent=(sealed,))
    assert run.code == 4
    assert "1 of 2 endpoints measured" in run.out
    assert f"silent: {sealed}: does a fanout receiver listen" in run.out
    assert "--accept-plaintext" in run.out


def test_a_receiver_that_vanishes_is_silent(receivers: list[tuple[Running, str]], tmp_path: Path) -> None:
    (_, well), _ = receivers
    vanished: list[str] = []
    with receiving(tmp_path, "--host", "127.0.0.23") as (receiver, endpoint):

        def going_on(bench: Bench) -> bool:
            if bench.sent == COUNT // 2 and not vanished:
                assert all(pod.observed is not None for pod in bench._prober.pods.values())
                receiver.stop(signal.SIGKILL)
                vanished.append(endpoint)
            return True

        run = bench(f"{well},{endpoint}", *QUICK, "-o", "json", silent=vanished, going_on=going_on)
    assert run.code == 4
    assert [pod["status"] for pod in run.json["endpoints"]] == ["measured", "silent"]
    assert run.json["endpoints"][0]["loss"] == 0


def on_a_terminal(*arguments: str, columns: int = 120, **variables: str) -> tuple[int, str]:
    """Run with standard output and error on a terminal; return the exit code and what it shows."""
    with Screen(columns) as screen:
        code = call(["bench", *arguments], screen.file, screen.file, variables={**screen.variables, **variables})
    return code, screen.text


def test_a_live_table_on_a_terminal(receivers: list[tuple[Running, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.cli.bench_output._REFRESH", 0.0)

    def going_on(bench: Bench) -> bool:
        # What follows is held back until it was drawn again and again.
        drawn = screen.text.count("RECEIVED") > 3 and re.search(r"[3-9]\d%", screen.text)
        return bench.sent != 35 or bool(drawn)

    with Screen() as screen, patiently(messages=COUNT, going_on=going_on):
        arguments = ["bench", "-s", service(receivers), *QUICK]
        assert call(arguments, screen.file, screen.file, variables=screen.variables) == 0
    assert "2 endpoints" in screen.text
    assert screen.text.count("P99 MS") == screen.text.count("RECEIVED")
    assert re.search(r"\x1b\[32msent 50 messages", screen.text)
    assert "\x1b[?25h" in screen.text, "the cursor is back"


def test_a_narrow_terminal_without_colours(receivers: list[tuple[Running, str]]) -> None:
    with patiently(messages=COUNT):
        code, shown = on_a_terminal("-s", service(receivers), *QUICK, columns=60, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    final = re.sub(r"\x1b\[[0-9;]*m", "", shown[shown.rindex("POD") :]).splitlines()
    assert "LOSS %" in final[0]
    assert "P99 MS" in final[0]
    assert "MAX MS" not in final[0]
    assert max(map(len, final[:4])) <= 60
    for _, endpoint in receivers:
        assert any(endpoint in line for line in final)


def test_an_ipv6_endpoint_is_measured_and_is_no_markup(tmp_path: Path) -> None:
    require_address("::1")
    with receiving(tmp_path, "--host", "::1") as (_, endpoint), patiently(messages=COUNT):
        code, shown = on_a_terminal("-s", endpoint, *QUICK)
        run = invoke("bench", "-s", endpoint, *QUICK, "-o", "json")
    assert code == 0
    assert shown.count(endpoint) >= 2
    assert (run.code, run.err) == (0, "")
    pod = only(run.json)
    assert (pod["endpoint"], pod["unique"], pod["duplicates"]) == (endpoint, COUNT, 0)


def test_a_plot_is_svg_without_scripts_and_outside_references(
    receivers: list[tuple[Running, str]], tmp_path: Path
) -> None:
    path = tmp_path / "bench.svg"
    path.write_text("an older picture" * 10_000)
    run = bench(service(receivers), *QUICK, "--plot", str(path), "-o", "json")
    assert (run.code, run.err) == (0, "")
    text = path.read_text()
    assert_is_picture(text)
    for _, endpoint in receivers:
        assert endpoint in text


def test_a_plot_on_standard_output_has_it_for_itself(receivers: list[tuple[Running, str]], tmp_path: Path) -> None:
    run = bench(service(receivers), *QUICK, "--plot", "-")
    assert run.code == 0
    assert_is_picture(run.out)
    assert "lost 0 %" in run.err
    path = tmp_path / "kept"
    with path.open("wb") as file:
        file.write(b"kept\n")
        file.flush()
        command = [*FANOUT, "bench", "-s", service(receivers), *QUICK, "--plot", "-"]
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, env=environment(), check=False)
    assert path.read_text().startswith("kept\n<svg")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "Missing option '-s' / '--service'"),
        (["-s", "127.0.0.1", "--rate", "0"], 2, "--rate"),
        (["-s", "127.0.0.1", "--rate", "-5"], 2, "--rate"),
        (["-s", "127.0.0.1", "--rate", "nan"], 2, "--rate"),
        (["-s", "127.0.0.1", "--bandwidth", "0"], 2, "must be above 0 and below 1000T bits a second"),
        (["-s", "127.0.0.1", "--bandwidth", "-1M"], 2, "must be above 0 and below 1000T bits a second"),
        (["-s", "127.0.0.1", "--bandwidth", "fast"], 2, "must be bits a second such as 64k, 10M or 1.5G; got"),
        (["-s", "127.0.0.1", "--bandwidth", "1599"], 2, "under one datagram of 200 bytes a second (1,600 bits)"),
        (["-s", "127.0.0.1", "--bandwidth", "1M", "--rate", "5"], 2, "--rate and --bandwidth"),
        (["-s", "127.0.0.1", "--size", "27"], 2, "--size"),
        (["-s", "127.0.0.1", "--size", "65508"], 2, "--size"),
        (["-s", "127.0.0.1", "--seconds", "0"], 2, "--seconds"),
        (["-s", "127.0.0.1", "--seconds", "inf"], 2, "--seconds"),
        (["-s", "127.0.0.1", "--count", "0"], 2, "--count"),
        (["-s", "127.0.0.1", "--seconds", "1", "--count", "1"], 2, "--seconds and --count"),
        (["-s", "127.0.0.1", "--max-loss", "101"], 2, "--max-loss"),
        (["-s", "127.0.0.1", "--max-loss", "-1"], 2, "--max-loss"),
        (["-s", "127.0.0.999"], 2, "127.0.0.999"),
        (["-s", "127.0.0.1", "--plot", "/nonexistent/x"], 1, "cannot write the plot to /nonexistent/x: No such file"),
        (["-s", "127.0.0.1", "--plot", "-", "-o", "json"], 2, "one of --plot - and --output json"),
        (["-s", "127.0.0.1", "--plot", "/"], 1, "cannot write the plot to /: Is a directory"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(arguments: list[str], code: int, part: str) -> None:
    assert part in invoke("bench", *arguments).assert_one_sentence(code)


def test_an_error_is_json_too_and_leaves_no_empty_plot(tmp_path: Path) -> None:
    path = tmp_path / "bench.svg"
    run = invoke("bench", "-s", "a..b", "--plot", str(path), "-o", "json")
    assert (run.code, run.json["exit_code"]) == (2, 2)
    assert not path.exists()
    with mock.patch.object(Bench, "greet", side_effect=package.ResolverUnavailable("no answer")):
        run = invoke("bench", "-s", "127.0.0.1", "--plot", str(path), "-o", "json")
    assert (run.code, run.json["exit_code"]) == (1, 1)
    assert not path.exists()


@pytest.mark.parametrize("size", [28, 1200, 65_507])
def test_sizes_from_the_least_to_the_largest(receivers: list[tuple[Running, str]], size: int) -> None:
    stream = ("--count", "3", "--size", str(size), "-o", "json")
    run = bench(service(receivers), *stream)
    assert run.code == 0
    assert [(pod["unique"], pod["bytes"]) for pod in run.json["endpoints"]] == [(3, 3 * size)] * 2


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[package.Receiver, str]]:
    """Let a receiver take messages in a thread; yield it and its endpoint."""
    with package.Receiver(0, **{"host": "127.0.0.1", **settings}) as receiver:
        thread = threading.Thread(target=list, args=(receiver,))
        thread.start()
        try:
            yield receiver, str(receiver.address)
        finally:
            receiver.stop()
            thread.join()


def test_several_sockets_that_listen_report_together() -> None:
    """The stream and the questions go to different ones."""
    with serving(workers=3) as (_, endpoint):
        for _ in range(3):
            run = bench(endpoint, *QUICK, "-o", "json")
            assert (run.code, run.err) == (0, "")
            pod = only(run.json)
            assert (pod["endpoint"], pod["unique"], pod["duplicates"]) == (endpoint, COUNT, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_program_that_listens_on_both_families(host: str) -> None:
    require_address(host)
    with serving(host=None) as (receiver, _):
        endpoint = str(Endpoint(host, receiver.address.port))
        run = bench(endpoint, *QUICK, "-o", "json")
        assert receiver.stats.datagrams == 0
        assert receiver.stats.bench_probes >= COUNT + 2
    assert (run.code, only(run.json)["unique"]) == (0, COUNT)


def test_tables_and_plots_are_imported_when_they_are_needed() -> None:
    code = "import fanout.cli.commands.bench, sys; print(*sys.modules)"
    modules = subprocess.run([FANOUT[0], "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"rich", "pygal", "dns", "asyncio", "structlog"}.isdisjoint(modules)


def test_bandwidth_is_of_each_pod_and_no_message_leaves_before_its_time(receivers: list[tuple[Running, str]]) -> None:
    run = bench(service(receivers), "--bandwidth", "1.6M", "--seconds", "0.1", "-o", "json")
    assert run.json["rate"] == 1000
    assert run.json["messages"] <= 1000 * 0.1 + 2
