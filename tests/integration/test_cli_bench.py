"""`fanout bench` against real receivers, and against peers that are silent, lossy or lie."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import fanout as package
from fanout.model import Endpoint
from fanout.wire import probe
from fanout.wire.probe import Kind, Observed
from fanout.wire.probe_log import ProbeLog
from tests.support.cli import FANOUT, Running, environment, fanout, receiving, running
from tests.support.pods import Pod, literals
from tests.support.probed import Answer, garbage, honest, peer, truncated, unasked, wrong_run
from tests.unit.test_bench_show import assert_is_picture

QUICK = ("--rate", "1000", "--seconds", "0.3")


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


def by_endpoint(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {pod["endpoint"]: pod for pod in measured["endpoints"]}


def only(measured: dict[str, Any]) -> dict[str, Any]:
    (pod,) = measured["endpoints"]
    assert isinstance(pod, dict)
    return pod


def test_every_receiver_is_measured_and_its_program_sees_nothing(
    mortal_receivers: list[tuple[Running, str]],
) -> None:
    receivers = mortal_receivers
    run = fanout("bench", "-s", service(receivers), "--rate", "2000", "--count", "1000", "--size", "300", "-o", "json")
    assert (run.code, run.err) == (0, "")
    measured = run.json
    assert (measured["service"], measured["rate"], measured["size"]) == (service(receivers), 2000, 300)
    assert (measured["messages"], measured["bytes"], measured["count"]) == (1000, 300_000, 1000)
    assert measured["bandwidth"] == 2000 * 300 * 8
    assert measured["interrupted"] is False
    assert measured["totals"]["measured"] == 2
    assert measured["totals"]["loss"] == 0
    assert [pod["endpoint"] for pod in measured["endpoints"]] == [endpoint for _, endpoint in receivers]
    for pod in measured["endpoints"]:
        assert (pod["status"], pod["sent"], pod["received"], pod["unique"]) == ("measured", 1000, 1000, 1000)
        assert (pod["lost"], pod["loss"], pod["duplicates"], pod["reordered"], pod["stale"]) == (0, 0, 0, 0, 0)
        assert pod["bytes"] == 300_000
        assert 500 < pod["rate"] < 2500
        trip = pod["round_trip"]
        assert 0 < trip["answered"] <= trip["pings"] <= 100
        assert 0 < trip["p50"] <= trip["p90"] <= trip["p99"] <= trip["max"] < 1
    for receiver, _ in receivers:
        run = receiver.stop()
        assert "message_received" not in run.out
        assert receiver.events("receiver_stopped")[0]["datagrams"] == 0


def test_columns_where_there_is_no_terminal(receivers: list[tuple[Running, str]]) -> None:
    run = fanout("bench", "-s", service(receivers), *QUICK)
    assert (run.code, run.err) == (0, "")
    head, *rows, sent, lost = run.out.splitlines()
    assert head.split() == [
        "POD", "SENT", "RECEIVED", "PER_S", "LOSS_%", "REORD", "DUP", "P50_MS", "P90_MS", "P99_MS", "MAX_MS",
    ]  # fmt: skip
    assert [row.split()[0] for row in rows] == [endpoint for _, endpoint in receivers]
    assert {len(row.split()) for row in rows} == {len(head.split())}
    assert re.fullmatch(r"sent \d+ messages of 200 bytes to each of 2 endpoints in 0\.\d+ s: .*bit/s", sent)
    assert lost.startswith("lost 0 %; round trip ")


def test_a_silent_pod_is_named_and_costs_the_others_nothing(
    receivers: list[tuple[Running, str]], pods: Callable[..., list[Pod]], closed_port: int
) -> None:
    (plain,) = pods(1)
    named = f"{service(receivers)},{plain.endpoint},127.0.0.1:{closed_port}"
    run = fanout("bench", "-s", named, *QUICK)
    assert run.code == 4
    assert f"silent: {plain.endpoint}: does a fanout receiver listen" in run.out
    assert f"silent: 127.0.0.1:{closed_port}: nothing listens on that port there" in run.out
    assert "2 of 4 endpoints measured; lost 0 %" in run.out
    measured = fanout("bench", "-s", named, *QUICK, "-o", "json").json
    told = by_endpoint(measured)
    assert [told[endpoint]["status"] for endpoint in named.split(",")] == ["measured", "measured", "silent", "silent"]
    assert (told[str(plain.endpoint)]["loss"], told[str(plain.endpoint)]["received"]) == (None, None)
    assert told[f"127.0.0.1:{closed_port}"]["refused"] > 0


def test_receivers_with_keys_answer_where_they_accept_plaintext(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    assert fanout("keygen", key).code == 0
    for name in ("sealed", "both"):
        (tmp_path / name).mkdir()
    with (
        receiving(tmp_path / "sealed", "--key-file", key) as (_, sealed),
        receiving(tmp_path / "both", "--key-file", key, "--accept-plaintext") as (_, both),
    ):
        run = fanout("bench", "-s", f"{sealed},{both}", *QUICK)
    assert run.code == 4
    assert "1 of 2 endpoints measured" in run.out
    assert f"silent: {sealed}: does a fanout receiver listen" in run.out
    assert "--accept-plaintext" in run.out


def test_where_nobody_answers_nothing_is_sent(pods: Callable[..., list[Pod]]) -> None:
    made = pods(2)
    run = fanout("bench", "-s", literals(made))
    assert run.code == 4
    assert run.err == "fanout: no pod answers, so nothing was sent\n"
    assert "sent nothing to 2 endpoints" in run.out
    for pod in made:
        frames = [probe.parse(payload) for payload in pod.waiting()]
        assert {frame and frame.kind for frame in frames} == {Kind.REQUEST}
        assert len(frames) <= 10
    measured = fanout("bench", "-s", literals(made), "-o", "json").json
    assert (measured["messages"], measured["totals"]["silent"]) == (0, 2)


def test_loss_order_and_duplicates_are_told_exactly() -> None:
    held: list[bytes] = []

    def unreliable(datagram: bytes, log: ProbeLog) -> list[bytes]:
        """Lose each tenth, double each hundredth, and hold each fiftieth back for one message."""
        frame = probe.parse(datagram)
        assert frame is not None
        if frame.kind is not Kind.DATA:
            return honest(datagram, log)
        if frame.number % 10 == 3:
            return []
        if frame.number % 50 == 7:
            held.append(datagram)
            return []
        arrived = [datagram, *held] + [datagram] * (frame.number % 100 == 0)
        held.clear()
        for each in arrived:
            honest(each, log)
        return []

    with peer(unreliable) as endpoint:
        run = fanout("bench", "-s", endpoint, "--count", "500", "-o", "json")
        assert run.code == 0, "measured, and no --max-loss was given"
        pod = only(run.json)
        assert (pod["lost"], pod["loss"], pod["reordered"], pod["duplicates"]) == (50, 10.0, 10, 5)
        assert (pod["received"], pod["unique"], pod["version"]) == (455, 450, "9.9.9")
        run = fanout("bench", "-s", endpoint, "--count", "500", "--max-loss", "9.9")
        assert run.code == 4
        assert f"{endpoint} lost 10 %, more than --max-loss 9.9" in run.err
        assert f"lost: {endpoint}: 50 of 500 messages: they were lost on the way: neither host dropped them" in run.out
        assert fanout("bench", "-s", endpoint, "--count", "500", "--max-loss", "10").code == 0


@pytest.mark.parametrize("lie", [wrong_run, truncated, garbage, unasked])
def test_a_reply_that_is_none_counts_as_silence(lie: Answer) -> None:
    with peer(lie) as endpoint:
        run = fanout("bench", "-s", endpoint, *QUICK, "-o", "json")
    assert run.code == 4
    assert only(run.json)["status"] == "silent"


@pytest.mark.parametrize(
    "claims",
    [
        Observed._make((*[2**64 - 1] * 10, "x")),
        Observed(301, 301, 301, bytes=301 * 200),
        Observed(300, 300, 299, bytes=300 * 200),
        Observed(300, 299, 300, bytes=300 * 200),
        Observed(300, 300, 300, reordered=300, bytes=300 * 200),
        Observed(300, 300, 300, bytes=300 * 200, nanoseconds=1),
        Observed(300, 300, 300, bytes=1),
    ],
)
def test_a_report_of_what_cannot_be_is_flagged_and_not_believed(claims: Observed) -> None:
    def lie(datagram: bytes, log: ProbeLog) -> list[bytes]:
        frame = probe.parse(datagram)
        if frame is not None and frame.kind is Kind.REQUEST:
            return [probe.report(frame.run, frame.number, claims)]
        return honest(datagram, log)

    with peer(honest, "127.0.0.32") as good, peer(lie) as endpoint:
        run = fanout("bench", "-s", f"{good},{endpoint}", "--rate", "1000", "--count", "300", "-o", "json")
    assert run.code == 4
    told = by_endpoint(run.json)
    assert (told[good]["status"], told[endpoint]["status"]) == ("measured", "implausible")
    assert told[endpoint]["loss"] is None
    assert run.json["totals"]["received"] == 300


def test_replies_of_strangers_are_counted_and_one_is_named(receivers: list[tuple[Running, str]]) -> None:
    with peer(honest, replies_from="127.0.0.99") as endpoint:
        run = fanout("bench", "-s", f"{service(receivers)},{endpoint}", *QUICK)
    assert run.code == 4
    assert re.search(r"\d+ datagrams came that answered nothing, one of them from 127\.0\.0\.99:\d+", run.out)


def test_a_receiver_that_vanishes_is_silent(mortal_receivers: list[tuple[Running, str]], tmp_path: Path) -> None:
    receivers = mortal_receivers
    arguments = ("bench", "-s", service(receivers), "--seconds", "1.5", "-o", "json")
    (tmp_path / "bench").mkdir()
    with running(tmp_path / "bench", *arguments) as bench:
        time.sleep(0.8)
        receivers[1][0].stop(signal.SIGKILL)
        run = bench.end()
    assert run.code == 4
    assert [pod["status"] for pod in run.json["endpoints"]] == ["measured", "silent"]
    assert run.json["endpoints"][0]["loss"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_tells_what_was_measured(tmp_path: Path, number: signal.Signals) -> None:
    came = threading.Event()

    def watched(datagram: bytes, log: ProbeLog) -> list[bytes]:
        frame = probe.parse(datagram)
        if frame is not None and frame.kind is Kind.DATA and frame.number == 200:
            came.set()
        return honest(datagram, log)

    with (
        peer(watched) as endpoint,
        running(tmp_path, "bench", "-s", endpoint, "--seconds", "60", "-o", "json") as bench,
    ):
        assert came.wait(20)
        run = bench.stop(number)
    assert (run.code, run.err) == (130, "")
    assert run.json["interrupted"] is True
    assert 200 < run.json["messages"] < 20_000
    assert (only(run.json)["status"], only(run.json)["loss"]) == ("measured", 0)


def on_a_terminal(*arguments: str, columns: int = 120, **variables: str) -> tuple[int, str]:
    """Run with standard output and error on a terminal; return the exit code and what it shows."""
    terminal, its_other_end = pty.openpty()
    process = subprocess.Popen(
        [*FANOUT, *arguments], stdout=its_other_end, stderr=its_other_end,
        env=environment(TERM="xterm", COLUMNS=str(columns), LINES="24", **variables),
    )  # fmt: skip
    os.close(its_other_end)
    shown = b""
    try:
        while block := os.read(terminal, 65_536):
            shown += block
    except OSError:
        pass  # a terminal ends with an error
    os.close(terminal)
    return process.wait(timeout=20), shown.decode()


def test_a_live_table_on_a_terminal(receivers: list[tuple[Running, str]]) -> None:
    code, shown = on_a_terminal("bench", "-s", service(receivers), "--rate", "500", "--seconds", "1.5")
    assert code == 0
    assert shown.count("RECEIVED") > 3, "it was drawn again and again"
    assert "2 endpoints" in shown
    assert re.search(r"[3-9]\d%", shown)
    assert shown.count("P99 MS") == shown.count("RECEIVED")
    assert re.search(r"\x1b\[32msent [67]\d\d messages", shown)
    assert "\x1b[?25h" in shown, "the cursor is back"


def test_a_narrow_terminal_without_colours(receivers: list[tuple[Running, str]]) -> None:
    code, shown = on_a_terminal("bench", "-s", service(receivers), *QUICK, columns=60, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    final = re.sub(r"\x1b\[[0-9;]*m", "", shown[shown.rindex("POD") :]).splitlines()
    assert "LOSS %" in final[0]
    assert "P99 MS" in final[0]
    assert "MAX MS" not in final[0]
    assert max(map(len, final[:4])) <= 60
    for _, endpoint in receivers:
        assert any(endpoint in line for line in final)


def test_an_ipv6_endpoint_is_no_markup(tmp_path: Path) -> None:
    with receiving(tmp_path, "--host", "::1") as (_, endpoint):
        code, shown = on_a_terminal("bench", "-s", endpoint, "--seconds", "0.6")
    assert code == 0
    assert shown.count(endpoint) >= 2


def test_a_plot_is_svg_without_scripts_and_outside_references(
    receivers: list[tuple[Running, str]], tmp_path: Path
) -> None:
    path = tmp_path / "bench.svg"
    path.write_text("an older picture" * 10_000)
    run = fanout("bench", "-s", service(receivers), *QUICK, "--plot", str(path), "-o", "json")
    assert (run.code, run.err) == (0, "")
    text = path.read_text()
    assert_is_picture(text)
    for _, endpoint in receivers:
        assert endpoint in text


def test_a_plot_on_standard_output_has_it_for_itself(receivers: list[tuple[Running, str]], tmp_path: Path) -> None:
    run = fanout("bench", "-s", service(receivers), *QUICK, "--plot", "-")
    assert run.code == 0
    assert_is_picture(run.out)
    assert "lost 0 %" in run.err
    path = tmp_path / "kept"
    with path.open("wb") as file:
        file.write(b"kept\n")
        file.flush()
        command = [*FANOUT, "bench", "-s", service(receivers), *QUICK, "--plot", "-"]
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, env=environment(), check=True)
    assert path.read_text().startswith("kept\n<svg")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "Missing option '-s' / '--service'"),
        (["-s", "127.0.0.1", "--rate", "0"], 2, "--rate"),
        (["-s", "127.0.0.1", "--rate", "-5"], 2, "--rate"),
        (["-s", "127.0.0.1", "--rate", "nan"], 2, "--rate"),
        (["-s", "127.0.0.1", "--bandwidth", "0"], 2, "not above 0"),
        (["-s", "127.0.0.1", "--bandwidth", "-1M"], 2, "not above 0"),
        (["-s", "127.0.0.1", "--bandwidth", "fast"], 2, "write 64k, 10M or 1.5G"),
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
    assert part in fanout("bench", *arguments).assert_one_sentence(code)


def test_an_error_is_json_too_and_leaves_no_empty_plot(tmp_path: Path, closed_port: int) -> None:
    path = tmp_path / "bench.svg"
    nameserver = f"127.0.0.1:{closed_port}"
    run = fanout("bench", "-s", "headless-udp", "--nameserver", nameserver, "--plot", str(path), "-o", "json")
    assert (run.code, run.json["exit_code"]) == (1, 1)
    assert not path.exists()


@pytest.mark.parametrize("size", [28, 1200, 65_507])
def test_sizes_from_the_least_to_the_largest(receivers: list[tuple[Running, str]], size: int) -> None:
    run = fanout("bench", "-s", service(receivers), "--rate", "50", "--count", "10", "--size", str(size), "-o", "json")
    assert run.code == 0
    assert [(pod["unique"], pod["bytes"]) for pod in run.json["endpoints"]] == [(10, 10 * size)] * 2


@pytest.mark.parametrize("options", [["--host", "::1"], ["--workers", "3"]])
def test_other_ways_to_listen(options: list[str], tmp_path: Path) -> None:
    """By IPv6; by several sockets, where the stream and the questions go to different ones."""
    with receiving(tmp_path, *options) as (_, endpoint):
        for _ in range(3):
            run = fanout("bench", "-s", endpoint, "--rate", "20000", "--count", "2000", "-o", "json")
            assert (run.code, run.err) == (0, "")
            pod = only(run.json)
            assert (pod["endpoint"], pod["unique"], pod["duplicates"]) == (endpoint, 2000, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_program_that_listens_on_both_families(host: str) -> None:
    with package.Receiver(0) as receiver:
        thread = threading.Thread(target=list, args=(receiver,))
        thread.start()
        endpoint = str(Endpoint(host, receiver.address.port))
        run = fanout("bench", "-s", endpoint, "--count", "100", "-o", "json")
        receiver.stop()
        thread.join()
        assert receiver.stats.datagrams == 0
        assert receiver.stats.bench_probes >= 102
    assert (run.code, only(run.json)["unique"]) == (0, 100)


def test_tables_and_plots_are_imported_when_they_are_needed() -> None:
    code = "import fanout.cli.bench, sys; print(*sys.modules)"
    modules = subprocess.run([FANOUT[0], "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"rich", "pygal", "dns", "asyncio", "structlog"}.isdisjoint(modules)


def test_bandwidth_is_of_each_pod(receivers: list[tuple[Running, str]]) -> None:
    run = fanout("bench", "-s", service(receivers), "--bandwidth", "1.6M", "--seconds", "0.5", "-o", "json")
    assert run.json["rate"] == 1000
    assert run.json["messages"] == pytest.approx(500, rel=0.3)
