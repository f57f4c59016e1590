"""`fanout doctor` and a real nameserver: how a name was resolved, or why it was not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cli import Run
from tests.support.knot import Knot, a_records
from tests.support.namespace import Namespace

SERVICE = "headless-udp.platform.svc.cluster.local."


@pytest.fixture(scope="module")
def pod(namespace: Namespace) -> Iterator[Namespace]:
    """A host with the resolv.conf of a pod, and its nameserver on port 53."""
    records = {
        SERVICE: a_records(["127.0.0.41", "127.0.0.42"]),
        "six.platform.svc.cluster.local.": a_records(["fd00::1"]),
    }
    search = "search platform.svc.cluster.local svc.cluster.local cluster.local"
    namespace.configure("nameserver 127.0.0.1", search, "options ndots:5")
    with Knot(records, port=53, command=namespace.command):
        yield namespace


def resolve_check(run: Run) -> dict[str, str]:
    check: dict[str, str] = next(each for each in run.json["checks"] if each["check"] == "resolve")
    return check


def test_a_short_name_says_how_it_was_expanded_and_who_answered(pod: Namespace) -> None:
    run = pod.invoke("doctor", "-s", "headless-udp", "--allow-loopback", "-o", "json")
    assert run.code == 1, "nothing listens there"
    check = resolve_check(run)
    assert check["status"] == "ok"
    assert f"headless-udp, expanded to {SERVICE}, has 2 pods: 2 records of type A" in check["sentence"]
    assert "from nameserver 127.0.0.1:53 over UDP, DNS TTL 5 s" in check["sentence"]
    (reach,) = [each for each in run.json["checks"] if each["check"] == "reach"]
    assert reach["sentence"].count("nothing listens on that port there") == 2


def test_addresses_that_are_refused(pod: Namespace) -> None:
    run = pod.invoke("doctor", "-s", "headless-udp", "-o", "json")
    assert run.code == 1
    check = resolve_check(run)
    assert "DNS returned only addresses that are refused: 127.0.0.41 (loopback)" in check["sentence"]
    assert any("--allow-loopback" in hint for hint in check["hints"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("-s", "nowhere"), "nowhere: there is no such Service, or none of its pods is ready (asked: nowhere.platform"),
        (("-s", "headless-udp", "--family", "ipv6"), "headless-udp exists, but has no record of type AAAA"),
        (("-s", "headless-udp", "-p", "rtp"), "headless-udp: there is no such Service"),
    ],
)
def test_names_that_give_no_pod(pod: Namespace, arguments: tuple[str, ...], part: str) -> None:
    run = pod.invoke("doctor", *arguments, "-o", "json")
    assert run.code == 1
    assert resolve_check(run)["status"] == "problem"
    assert part in resolve_check(run)["sentence"]
