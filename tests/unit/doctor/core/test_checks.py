"""What `fanout doctor` makes of facts of the host, of DNS and of pods, cause by cause."""

from __future__ import annotations

import errno
from dataclasses import replace

from fanout.discovery.core.answer import DnsAnswer, Lookup, Refusal
from fanout.doctor.core import checks
from fanout.doctor.core.facts import Check, CheckStatus, HostFacts, PathFacts, PodFacts
from fanout.model import Endpoint, Service
from tests.support.doctor_checks import assert_said

NAMESERVER = "10.96.0.10:53"
FULL_NAME = "headless-udp.shop.svc.cluster.local."
POD, OTHER_POD = Endpoint("10.0.0.7", 12000), Endpoint("10.0.0.8", 12000)
SERVICE = Service("headless-udp")


def only(found: list[Check]) -> Check:
    (check,) = found
    return check


HOST = HostFacts(asked=4_194_304, granted=4_194_304, sysctl=4_194_304, room={200: 6553}, has_gso=True)


def test_a_host_that_is_well() -> None:
    found = checks.host(HOST)
    assert [check.check for check in found] == ["receive buffer", "gso"]
    assert {check.status for check in found} == {CheckStatus.OK}
    assert "room for about 6,553 datagrams of 200 bytes" in found[0].sentence
    assert not any(check.hints for check in found)


def test_a_small_buffer_is_a_warning_that_names_what_to_change() -> None:
    buffers, _ = checks.host(replace(HOST, granted=212_992, sysctl=212_992))
    assert_said(buffers, CheckStatus.WARNING, "212,992 of the 4,194,304", "net.core.rmem_max=4194304")


def test_a_kernel_without_gso_is_no_ill() -> None:
    _, gso = checks.host(replace(HOST, has_gso=False))
    assert_said(gso, CheckStatus.OK, "UDP_SEGMENT takes Linux 4.18", "several times the CPU")
    assert (gso.hints, gso.details) == ((), {"supported": False})


def test_drops_are_a_warning_only_where_they_go_on() -> None:
    never = only(checks.dropped(0, 0))
    assert_said(never, CheckStatus.OK, "no datagram was dropped for lack of receive buffer meanwhile")
    before = only(checks.dropped(17, 17))
    assert_said(before, CheckStatus.OK, "meanwhile (17 since this network namespace was made)")
    assert before.details == {"RcvbufErrors": 17, "meanwhile": 0}
    goes_on = only(checks.dropped(17, 1_018))
    assert_said(
        goes_on, CheckStatus.WARNING, "cost 1,001 datagrams while this was checked (1,018 since", "kernel_drops"
    )
    assert goes_on.details == {"RcvbufErrors": 1018, "meanwhile": 1001}
    assert checks.dropped(None, 1) == checks.dropped(1, None) == []


def lookup(name: str, result: str, record: str = "A") -> Lookup:
    return Lookup(name, record, NAMESERVER, "UDP", result)


def test_a_name_that_resolves_says_how() -> None:
    answer = DnsAnswer((POD, OTHER_POD), 5.0, FULL_NAME, (), (lookup(FULL_NAME, "2 records"),))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(check, CheckStatus.OK, FULL_NAME, "has 2 pods", NAMESERVER, "2 records of type A", "DNS TTL 5 s")
    assert not check.hints
    assert check.details["endpoints"] == ["10.0.0.7:12000", "10.0.0.8:12000"]


def test_one_address_may_be_a_service_that_is_not_headless() -> None:
    answer = DnsAnswer((POD,), 5.0, FULL_NAME, (), (lookup(FULL_NAME, "1 record"),))
    assert_said(only(checks.resolved(SERVICE, answer)), CheckStatus.OK, "has 1 pod", "clusterIP: None")


def test_a_literal_list_needs_no_dns() -> None:
    service = Service("10.0.0.7,10.0.0.8")
    assert_said(
        only(checks.resolved(service, DnsAnswer((POD, OTHER_POD)))),
        CheckStatus.OK,
        "2 endpoints",
        "given as a list: DNS is not used",
    )


def test_addresses_that_are_refused_beside_others_are_a_warning() -> None:
    answer = DnsAnswer((POD,), 5.0, FULL_NAME, (Refusal("127.0.0.1", "loopback"),), (lookup(FULL_NAME, "2 records"),))
    resolved, refused = checks.resolved(SERVICE, answer)
    assert resolved.status is CheckStatus.OK
    assert_said(refused, CheckStatus.WARNING, "1 address", "127.0.0.1 (loopback)")


def test_only_refused_addresses_are_a_problem() -> None:
    answer = DnsAnswer((), 5.0, FULL_NAME, (Refusal("127.0.0.1", "loopback"),), (lookup(FULL_NAME, "1 record"),))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(check, CheckStatus.PROBLEM, "127.0.0.1 (loopback)", "--allow-loopback")
    linked = answer._replace(refused=(Refusal("169.254.0.1", "link-local"),))
    assert not any("--allow-loopback" in hint for hint in only(checks.resolved(SERVICE, linked)).hints)


def test_no_such_name_in_a_cluster_is_no_service_or_no_ready_pod() -> None:
    answer = DnsAnswer((), lookups=(lookup(FULL_NAME, "NXDOMAIN"), lookup("headless-udp.", "NXDOMAIN")))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(
        check, CheckStatus.PROBLEM, "no such Service, or none of its pods is ready", FULL_NAME, "endpointslices"
    )
    assert not any("ClusterFirstWithHostNet" in hint for hint in check.hints)


def test_no_such_name_outside_of_a_cluster() -> None:
    answer = DnsAnswer((), lookups=(lookup("headless-udp.example.", "NXDOMAIN"),))
    check = only(checks.resolved(SERVICE, answer))
    assert_said(check, CheckStatus.PROBLEM, "outside", "--nameserver", "ClusterFirstWithHostNet")
    assert_said(
        only(checks.resolved(Service("headless-udp", "rtp"), answer)), CheckStatus.PROBLEM, "is rtp the name of"
    )


def test_a_name_without_records_of_the_type() -> None:
    answer = DnsAnswer((), lookups=(lookup(FULL_NAME, "NODATA"), lookup(FULL_NAME, "NODATA", "AAAA")))
    assert_said(only(checks.resolved(SERVICE, answer)), CheckStatus.PROBLEM, "no record of type A or AAAA", "--family")


def test_no_answer_at_all() -> None:
    check = checks.unresolved(SERVICE, "cannot resolve headless-udp A at 10.96.0.10:53: no answer within 2 s")
    assert_said(check, CheckStatus.PROBLEM, "no answer within 2 s")


def test_pods_that_answer() -> None:
    check = only(checks.reached([PodFacts(POD, 1, 0.0004), PodFacts(OTHER_POD, 2, 0.0012)]))
    assert_said(check, CheckStatus.OK, "2 of 2 pods answer a probe within 1.2 ms")
    assert_said(only(checks.reached([PodFacts(POD, 1, 0.0004)])), CheckStatus.OK, "the pod answers")
    assert checks.reached([]) == []


def test_a_pod_that_refuses_has_nothing_on_the_port() -> None:
    answers, refuses = checks.reached([PodFacts(POD, 1, 0.001), PodFacts(OTHER_POD, 1, None, errno.ECONNREFUSED)])
    assert_said(answers, CheckStatus.OK, "1 of 2 pods")
    assert_said(
        refuses, CheckStatus.PROBLEM, "10.0.0.8:12000: nothing listens on that port there", "the Service's port"
    )
    unreachable = only(checks.reached([PodFacts(POD, 1, None, errno.EHOSTUNREACH)]))
    assert_said(unreachable, CheckStatus.PROBLEM, "the host is unreachable")
    assert not unreachable.hints


def test_a_silent_pod_is_said_as_far_as_it_is_known() -> None:
    alone = only(checks.reached([PodFacts(POD, 6)]))
    assert_said(
        alone, CheckStatus.PROBLEM, "6 probes left this host", "neither an answer nor an ICMP error",
        "whether they arrived is not known", "NetworkPolicy", "UDP 12000", "a receiver with keys",
    )  # fmt: skip
    assert len(alone.hints) == 2
    outside = only(checks.reached([PodFacts(POD, 6)], inside=False))
    assert_said(outside, CheckStatus.PROBLEM, "not a pod of the cluster", "cannot be reached from outside")
    _, beside = checks.reached([PodFacts(POD, 1, 0.001), PodFacts(OTHER_POD, 6)])
    assert_said(beside, CheckStatus.PROBLEM, "10.0.0.8:12000", "other pods of the Service answer")


def test_many_pods_are_named_by_example() -> None:
    pods = [PodFacts(Endpoint(f"10.0.0.{number}", 12000), 6) for number in range(1, 9)]
    check = only(checks.reached(pods))
    assert "10.0.0.3:12000, and 5 more" in check.sentence
    assert len(check.details["pods"]) == 8


def test_paths_that_are_alike_are_one_check() -> None:
    paths = [
        PathFacts(POD, "eth0", 1450, 1422, True),
        PathFacts(OTHER_POD, "eth0", 1450, 1422, True),
        PathFacts(Endpoint("fd00::1", 12000), "eth0", 1450, 1402, None),
    ]
    first, second = checks.carried(paths)
    assert_said(
        first, CheckStatus.OK, "by eth0 to 10.0.0.7:12000, 10.0.0.8:12000", "MTU of 1,450", "1,422 bytes", "came back"
    )
    assert_said(second, CheckStatus.OK, "[fd00::1]:12000", "1,402 bytes", "not tried")


def test_a_path_that_swallows_large_datagrams() -> None:
    check = only(checks.carried([PathFacts(POD, "eth0", 1500, 1472, False)]))
    assert_said(
        check, CheckStatus.PROBLEM, "1,472 bytes", "small ones did", "MTU of the pod network", "--max-datagram 1200"
    )
