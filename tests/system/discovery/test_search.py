"""Names as people write them: short ones through the search list and ndots of resolv.conf, FQDNs as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fanout.discovery.dns import DnsResolver
from fanout.model import Service
from tests.support.knot import Knot, a_records
from tests.support.limits import dns_lifetime
from tests.support.namespace import Namespace
from tests.support.waiting import until
from tests.system.discovery.asking import HASTY

pytestmark = pytest.mark.nameserver

# Two namespaces have a Service of that name: the pod's own one is the first in its search list.
RECORDS = {
    "headless-udp.ns.svc.cluster.local.": a_records(["10.128.0.1", "10.128.0.2"]),
    "headless-udp.other.svc.cluster.local.": a_records(["10.128.9.1"]),
    "_udp._udp.headless-udp.ns.svc.cluster.local.": ["SRV 0 50 12000 headless-udp.ns.svc.cluster.local."],
}
SEARCH = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]
OURS = "headless-udp.ns.svc.cluster.local."
OTHERS = "headless-udp.other.svc.cluster.local."

# The name as written, ndots, and each question with its result.
CASES: list[tuple[str, int, list[tuple[str, str]]]] = [
    ("headless-udp", 5, [(OURS, "2 records")]),
    ("headless-udp", 1, [(OURS, "2 records")]),
    ("headless-udp.other", 5, [("headless-udp.other.ns.svc.cluster.local.", "NXDOMAIN"), (OTHERS, "1 record")]),
    (
        "headless-udp.other.svc",
        5,
        [
            ("headless-udp.other.svc.ns.svc.cluster.local.", "NXDOMAIN"),
            ("headless-udp.other.svc.svc.cluster.local.", "NXDOMAIN"),
            (OTHERS, "1 record"),
        ],
    ),
    # Four dots are fewer than five: the list first, the name as it is last.
    (
        OURS[:-1],
        5,
        [
            ("headless-udp.ns.svc.cluster.local.ns.svc.cluster.local.", "NXDOMAIN"),
            ("headless-udp.ns.svc.cluster.local.svc.cluster.local.", "NXDOMAIN"),
            ("headless-udp.ns.svc.cluster.local.cluster.local.", "NXDOMAIN"),
            (OURS, "2 records"),
        ],
    ),
    # As many dots as ndots: the name as it is first.
    (OURS[:-1], 4, [(OURS, "2 records")]),
    (OURS[:-1], 1, [(OURS, "2 records")]),
    # With its final dot a name is never expanded.
    (OURS, 5, [(OURS, "2 records")]),
]


@pytest.fixture(scope="module")
def knot(start_knot: Callable[..., Knot]) -> Knot:
    return start_knot(RECORDS)


@pytest.fixture(scope="module")
def pod(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a nameserver on port 53."""
    with Knot(RECORDS, port=53, command=namespace.command):
        yield namespace


@pytest.mark.parametrize(("name", "ndots", "questions"), CASES)
def test_search_and_ndots_as_arguments(knot: Knot, name: str, ndots: int, questions: list[tuple[str, str]]) -> None:
    answer = DnsResolver(Service(name), nameserver=knot.nameserver, search=SEARCH, ndots=ndots).resolve()
    assert [(lookup.name, lookup.result) for lookup in answer.lookups] == questions
    assert answer.name == questions[-1][0]
    assert len(answer.endpoints) == int(questions[-1][1].split()[0])


@pytest.mark.parametrize(("name", "ndots", "questions"), CASES)
def test_search_and_ndots_of_resolv_conf(
    pod: Namespace, name: str, ndots: int, questions: list[tuple[str, str]]
) -> None:
    pod.configure("nameserver 127.0.0.1", f"search {' '.join(SEARCH)}", f"options ndots:{ndots}")
    run = pod.invoke("resolve", "-s", name, "-o", "json")
    assert (run.code, run.err, run.json["name"]) == (0, "", questions[-1][0])
    assert [(lookup["name"], lookup["result"]) for lookup in run.json["lookups"]] == questions
    assert {lookup["nameserver"] for lookup in run.json["lookups"]} == {"127.0.0.1:53"}


def test_a_name_that_nowhere_exists(pod: Namespace) -> None:
    pod.configure("nameserver 127.0.0.1", f"search {' '.join(SEARCH)}", "options ndots:5")
    run = pod.invoke("resolve", "-s", "headless-tcp", "-o", "json")
    assert run.code == 3
    asked = [(lookup["name"], lookup["result"]) for lookup in run.json["lookups"]]
    # The root is not this nameserver's, as in a cluster without a way to the outside: that is no outage.
    assert asked == [*((f"headless-tcp.{suffix}.", "NXDOMAIN") for suffix in SEARCH), ("headless-tcp.", "REFUSED")]


def test_a_named_port_of_a_short_name(pod: Namespace) -> None:
    pod.configure("nameserver 127.0.0.1", f"search {' '.join(SEARCH)}", "options ndots:5")
    run = pod.invoke("resolve", "-s", "headless-udp", "-p", "udp", "-o", "json")
    assert (run.code, run.json["name"]) == (0, OURS)
    assert sorted(run.json["endpoints"]) == ["10.128.0.1:12000", "10.128.0.2:12000"]
    assert [(lookup["name"], lookup["record"]) for lookup in run.json["lookups"]] == [
        (f"_udp._udp.{OURS}", "SRV"), (OURS, "A"),
    ]  # fmt: skip


def test_the_second_nameserver_is_asked_where_the_first_is_silent(pod: Namespace) -> None:
    pod.configure("nameserver 127.0.0.2", "nameserver 127.0.0.1", f"search {SEARCH[0]}")

    def has_answered() -> dict[str, Any] | None:
        # Half of the lifetime is the first one's; a machine that is slow may use up the rest as well.
        run = pod.invoke("resolve", "-s", "headless-udp", "-o", "json", limits=dns_lifetime(HASTY))
        return run.json if run.code == 0 else None

    asked: list[dict[str, Any]] = until(has_answered, "an answer")["lookups"]
    assert [asked[number]["nameserver"] for number in (0, -1)] == ["127.0.0.2:53", "127.0.0.1:53"]
    assert asked[0]["result"].startswith("no answer in ")
    assert asked[-1]["result"] == "2 records"


@pytest.mark.parametrize("lines", [(), ("search cluster.local",), ("nameserver kube-dns",)])
def test_a_resolv_conf_without_a_usable_nameserver_is_one_sentence(pod: Namespace, lines: tuple[str, ...]) -> None:
    pod.configure(*lines)
    sentence = pod.invoke("send", "-s", "headless-udp", "-m", "x").assert_one_sentence(1)
    assert "resolv.conf" in sentence
    assert "--nameserver" in sentence


def test_a_nameserver_that_is_named_is_asked_whatever_resolv_conf_says(pod: Namespace) -> None:
    pod.configure("nameserver 127.0.0.2", f"search {SEARCH[0]}", "options ndots:5")
    run = pod.invoke("resolve", "-s", "headless-udp", "--nameserver", "127.0.0.1", "-o", "json")
    assert (run.code, run.json["name"]) == (0, OURS)
    assert [lookup["nameserver"] for lookup in run.json["lookups"]] == ["127.0.0.1:53"]
