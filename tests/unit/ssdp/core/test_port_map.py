"""Which port of the SSDP relay stands for which HTTP server of a pod."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fanout.ssdp.core.port_map import ORIGINS_MAX, OTHERS_MAX, UDNS_MAX, PortMap
from fanout.ssdp.core.urls import Origin

FIRST, LAST = 28_200, 28_231
POD, OTHER_POD, THIRD_POD = "10.60.0.11", "10.60.0.12", "10.60.0.13"
A, B, C = "uuid:a", "uuid:b", "uuid:c"
WEB = Origin(POD, 8200)
NOWHERE = Origin("", 0)


@pytest.fixture
def port_map() -> PortMap:
    return PortMap(FIRST, LAST)


def claimed(port_map: PortMap, origin: Origin, udn: str) -> int:
    port = port_map.claim(origin, udn)
    assert port is not None
    assert port_map.target(port) == origin
    return port


def ports_of(port_map: PortMap) -> list[int]:
    """Return those that are claimed, in their order."""
    return sorted(port_map._by_port)


def test_a_port_is_found_by_a_hash_of_the_udn(port_map: PortMap) -> None:
    expected = FIRST + zlib.crc32(A.encode()) % (LAST - FIRST + 1)
    assert claimed(port_map, WEB, A) == expected
    assert claimed(PortMap(FIRST, LAST), Origin(THIRD_POD, 9), A) == expected, "after a restart of the relay too"
    assert ports_of(port_map) == [expected]
    assert (port_map.known(WEB), port_map.known(Origin(POD, 8201))) == (expected, None)
    assert port_map.target(expected + 1) is None


def test_devices_whose_hashes_are_equal_get_ports_of_their_own() -> None:
    port_map = PortMap(FIRST, FIRST + 2)
    ports = [claimed(port_map, Origin(POD, port), f"uuid:{port}") for port in range(3)]
    assert sorted(ports) == [FIRST, FIRST + 1, FIRST + 2] == ports_of(port_map)
    assert port_map.claim(Origin(OTHER_POD, 1), "uuid:late") is None, "all of them are there"


def test_devices_of_one_origin_share_a_port(port_map: PortMap) -> None:
    port = claimed(port_map, WEB, A)
    assert [claimed(port_map, WEB, udn) for udn in (B, C, A)] == [port] * 3
    assert ports_of(port_map) == [port]


def test_root_devices_on_several_ports_of_a_pod_have_ports_of_their_own(port_map: PortMap) -> None:
    assert claimed(port_map, WEB, A) != claimed(port_map, Origin(POD, 8201), B)


def test_a_pod_that_comes_back_elsewhere_keeps_its_port(port_map: PortMap) -> None:
    port = claimed(port_map, WEB, A)
    port_map.gone(POD)
    assert (port_map.target(port), port_map.known(WEB), ports_of(port_map)) == (None, None, [port])
    port_map.gone(POD)
    assert claimed(port_map, Origin(OTHER_POD, 8200), A) == port


def test_a_device_that_lives_elsewhere_before_its_pod_is_gone_keeps_its_port(port_map: PortMap) -> None:
    port = claimed(port_map, WEB, A)
    assert claimed(port_map, Origin(OTHER_POD, 8200), A) == port
    port_map.gone(POD)
    assert port_map.target(port) == Origin(OTHER_POD, 8200)


def test_a_location_whose_port_changes_keeps_the_port_of_the_relay(port_map: PortMap) -> None:
    port = claimed(port_map, WEB, A)
    assert claimed(port_map, Origin(POD, 49_152), A) == port
    assert port_map.known(WEB) is None


@pytest.mark.parametrize("order", [(A, B, C), (C, B, A), (B, A, C)])
def test_devices_that_shared_a_port_come_back_to_it_in_any_order(port_map: PortMap, order: tuple[str, ...]) -> None:
    (port,) = {claimed(port_map, WEB, udn) for udn in (A, B, C)}
    port_map.gone(POD)
    assert {claimed(port_map, Origin(OTHER_POD, 8200), udn) for udn in order} == {port}


def test_devices_that_part_do_not_take_the_port_from_each_other(port_map: PortMap) -> None:
    (port,) = {claimed(port_map, WEB, udn) for udn in (A, B)}
    elsewhere = Origin(POD, 8201)
    other = claimed(port_map, elsewhere, B)
    assert other != port, "the first of them takes it along"
    for _ in range(3):
        assert (claimed(port_map, WEB, A), claimed(port_map, elsewhere, B)) == (port, other)


def test_the_first_of_devices_takes_the_port_along(port_map: PortMap) -> None:
    (port,) = {claimed(port_map, WEB, udn) for udn in (A, B)}
    elsewhere = Origin(POD, 8201)
    assert claimed(port_map, elsewhere, A) == port
    other = claimed(port_map, WEB, B)
    for _ in range(3):
        assert (claimed(port_map, WEB, B), claimed(port_map, elsewhere, A)) == (other, port)


def test_a_device_that_joins_another_gives_its_port_back(port_map: PortMap) -> None:
    port = claimed(port_map, WEB, A)
    had = claimed(port_map, Origin(POD, 8201), B)
    assert claimed(port_map, WEB, B) == port
    assert (port_map.target(had), ports_of(port_map)) == (None, [port])
    assert claimed(port_map, Origin(POD, 8201), B) == had, "by its hash"


def test_who_remains_when_the_first_left_takes_the_port_along(port_map: PortMap) -> None:
    (port,) = {claimed(port_map, WEB, udn) for udn in (A, B)}
    joined = claimed(port_map, Origin(POD, 8201), C)
    assert claimed(port_map, Origin(POD, 8201), A) == joined
    assert claimed(port_map, Origin(POD, 8202), B) == port


def test_another_server_of_a_pod_follows_it(port_map: PortMap) -> None:
    assert port_map.other(WEB) is None, "it has no place"
    port = claimed(port_map, WEB, A)
    assert port_map.other(WEB) == port
    media = port_map.other(Origin(POD, 9000))
    assert media not in (port, None)
    assert port_map.target(media or 0) == Origin(POD, 9000)
    assert port_map.other(Origin(POD, 9000)) == media == port_map.known(Origin(POD, 9000))
    assert port_map.other(Origin(OTHER_POD, 9000)) is None
    port_map.gone(POD)
    assert (port_map.target(media or 0), port_map.other(Origin(POD, 9000))) == (None, None)
    claimed(port_map, Origin(OTHER_POD, 8200), A)
    assert port_map.target(media or 0) == Origin(OTHER_POD, 9000)
    again = PortMap(FIRST, LAST)
    claimed(again, Origin(THIRD_POD, 8200), A)
    assert again.other(Origin(THIRD_POD, 9000)) == media, "it is hashed by the device and the pod's port"


def test_a_server_that_a_document_named_and_a_device_claims(port_map: PortMap) -> None:
    claimed(port_map, WEB, A)
    named, location = port_map.other(Origin(POD, 9000)), Origin(POD, 9000)
    port = claimed(port_map, location, B)
    assert port_map.known(location) == port
    assert named == port or port_map.target(named or 0) is None
    port_map.gone(POD)
    claimed(port_map, Origin(OTHER_POD, 8200), A)
    assert port_map.other(Origin(OTHER_POD, 9000)) is not None, "a document names it before its device is heard of"
    assert claimed(port_map, Origin(OTHER_POD, 9000), B) == port, "and yet that keeps its port"


def test_other_servers_are_not_carried_where_a_device_is(port_map: PortMap) -> None:
    claimed(port_map, WEB, A)
    media = port_map.other(Origin(POD, 9000))
    port = claimed(port_map, Origin(OTHER_POD, 9000), B)
    claimed(port_map, Origin(OTHER_POD, 8200), A)
    assert (port_map.target(media or 0), port_map.known(Origin(OTHER_POD, 9000))) == (None, port)


def test_a_pod_has_no_more_than_its_share_of_places(port_map: PortMap) -> None:
    ports = {claimed(port_map, Origin(POD, port), f"uuid:{port}") for port in range(1, ORIGINS_MAX + 1)}
    assert len(ports) == ORIGINS_MAX
    assert port_map.claim(Origin(POD, 99), "uuid:99") is None
    assert claimed(port_map, Origin(POD, 98), "uuid:1") in ports, "that is none more"
    others = {port_map.other(Origin(POD, port)) for port in range(1000, 1000 + OTHERS_MAX)}
    assert len(others - {None}) == OTHERS_MAX
    assert port_map.other(Origin(POD, 2000)) is None
    assert len(ports_of(port_map)) == ORIGINS_MAX + OTHERS_MAX
    port_map.left("uuid:3")
    assert claimed(port_map, Origin(POD, 99), "uuid:99"), "a device that has left makes room"
    assert port_map.known(Origin(POD, 3)) is None
    moved = claimed(port_map, Origin(OTHER_POD, 8200), A)
    assert port_map.claim(Origin(POD, 97), A) is None
    assert port_map.target(moved) == Origin(OTHER_POD, 8200)


def test_a_pod_whose_identity_changes_always_holds_no_more_memory(port_map: PortMap) -> None:
    for number in range(10 * UDNS_MAX):
        claimed(port_map, WEB, f"uuid:{number}")
    assert ports_of(port_map) == [claimed(port_map, WEB, "uuid:0")]
    assert len(port_map._by_udn) == UDNS_MAX
    for number in range(100):
        port_map.left(f"uuid:{number - 1}")
        claimed(port_map, Origin(OTHER_POD, 1 + number), f"uuid:{number}")
    assert len(ports_of(port_map)) <= 1 + ORIGINS_MAX


def test_where_all_are_taken_what_is_gone_longest_makes_room() -> None:
    port_map = PortMap(FIRST, FIRST + 2)
    ports = [claimed(port_map, Origin(f"10.0.0.{number}", 8200), f"uuid:{number}") for number in range(3)]
    for number in (1, 0):
        port_map.gone(f"10.0.0.{number}")
    assert claimed(port_map, Origin(POD, 8200), A) == ports[1]
    assert claimed(port_map, Origin("10.0.0.9", 8200), "uuid:0") == ports[0], "the other one has its port still"
    assert port_map.claim(Origin("10.0.0.8", 8200), "uuid:1") is None
    port_map.left("uuid:2")
    assert port_map.target(ports[2]) is not None, "it can still be reached"
    assert claimed(port_map, Origin("10.0.0.8", 8200), "uuid:1") == ports[2]


def test_a_device_that_is_back_is_not_away() -> None:
    port_map = PortMap(FIRST, FIRST)
    port = claimed(port_map, WEB, A)
    claimed(port_map, WEB, B)
    port_map.left(A)
    assert port_map.claim(Origin(OTHER_POD, 1), C) is None, "the other one is there"
    port_map.left(B)
    claimed(port_map, WEB, A)
    assert port_map.claim(Origin(OTHER_POD, 1), C) is None
    port_map.left(A)
    assert claimed(port_map, Origin(OTHER_POD, 1), C) == port


def test_what_is_away_since_it_left_is_away_longer_than_what_is_gone_since() -> None:
    port_map = PortMap(FIRST, FIRST + 1)
    port = claimed(port_map, WEB, A)
    claimed(port_map, Origin(OTHER_POD, 8200), B)
    port_map.left(A)
    port_map.gone(OTHER_POD)
    port_map.gone(POD)
    assert claimed(port_map, Origin(THIRD_POD, 8200), C) == port


def test_devices_that_did_not_come_back_with_the_first_are_away() -> None:
    port_map = PortMap(FIRST, FIRST)
    for udn in (A, B):
        claimed(port_map, WEB, udn)
    port_map.gone(POD)
    claimed(port_map, Origin(OTHER_POD, 8200), A)
    port_map.left(A)
    assert port_map.claim(Origin(THIRD_POD, 8200), C) == FIRST


def test_other_servers_make_room_before_devices_do() -> None:
    port_map = PortMap(FIRST, FIRST + 1)
    port = claimed(port_map, WEB, A)
    media = port_map.other(Origin(POD, 9000))
    port_map.gone(POD)
    assert claimed(port_map, Origin(OTHER_POD, 8200), B) == media
    assert claimed(port_map, Origin(THIRD_POD, 8200), A) == port


def test_other_servers_come_back_and_go_with_their_device() -> None:
    port_map = PortMap(FIRST, FIRST + 1)
    port = claimed(port_map, WEB, A)
    media = port_map.other(Origin(POD, 9000))
    port_map.gone(POD)
    claimed(port_map, Origin(OTHER_POD, 8200), A)
    assert port_map.claim(Origin(THIRD_POD, 8200), B) is None, "both are there"
    port_map.refuse(port)
    assert (ports_of(port_map), port_map.target(media or 0)) == ([], None)


def test_a_device_that_left_does_not_make_room_for_a_server_of_its_own() -> None:
    port_map = PortMap(FIRST, FIRST)
    claimed(port_map, WEB, A)
    port_map.left(A)
    assert port_map.other(Origin(POD, 9000)) is None
    assert port_map.target(FIRST) == WEB


def test_other_servers_that_move_are_no_more_than_a_pod_may_have(port_map: PortMap) -> None:
    claimed(port_map, WEB, A)
    for port in range(9000, 9000 + OTHERS_MAX):
        assert port_map.other(Origin(POD, port))
    claimed(port_map, Origin(OTHER_POD, 8200), B)
    media = port_map.other(Origin(OTHER_POD, 7000))
    claimed(port_map, Origin(POD, 8201), B)
    assert media not in ports_of(port_map)
    assert len(ports_of(port_map)) == 2 + OTHERS_MAX


def test_a_refused_port_is_gone_around() -> None:
    port_map = PortMap(FIRST, FIRST + 1)
    port = claimed(port_map, WEB, A)
    port_map.refuse(port)
    assert (port_map.target(port), ports_of(port_map)) == (None, [])
    second = claimed(port_map, WEB, A)
    assert second == FIRST + (port == FIRST)
    port_map.refuse(second)
    assert port_map.claim(WEB, A) is None
    assert claimed(port_map, WEB, A) == port, "whoever had it may be gone by the next time"
    port_map.refuse(1)
    assert ports_of(port_map) == [port]


@pytest.mark.parametrize(("first", "last"), [(0, 5), (5, 4), (1, 65_536)])
def test_what_is_no_range_of_ports_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="ports must be 1 to 65535, ascending"):
        PortMap(first, last)


UDNS = st.sampled_from([f"uuid:{letter}" for letter in "abcdef"])
ORIGINS = st.builds(Origin, st.sampled_from([POD, OTHER_POD, THIRD_POD]), st.integers(1, 4))


class AnyHistory(RuleBasedStateMachine):
    """Whatever pods do, a port has one origin and an origin one port; and who can keep a port, does."""

    @initialize(count=st.integers(1, 5) | st.just(40))
    def begin(self, count: int) -> None:
        self.count = count
        self.port_map = PortMap(FIRST, FIRST + count - 1)
        self.had: dict[str, int] = {}
        """By UDN: the port of its last claim."""

    @rule(origin=ORIGINS, udn=UDNS)
    def claim(self, origin: Origin, udn: str) -> None:
        known, port_had = self.port_map.known(origin), self.had.get(udn)
        shares = [other for other, port in self.had.items() if port == port_had and other != udn]
        claims = known in self.had.values()
        port = self.port_map.claim(origin, udn)
        if port is None:
            assert self.count < 40, "there is room for all"
            return
        assert (self.port_map.target(port), self.port_map.known(origin)) == (origin, port)
        if self.count == 40:  # otherwise it may have been given away
            if claims:
                assert port == known, "one origin, one port"
            elif port_had is not None and not shares:
                assert port == port_had, "a device that moves keeps its port"
        self.had[udn] = port

    @rule(origin=ORIGINS)
    def name(self, origin: Origin) -> None:
        is_there = any(origin.host == (self.port_map.target(port) or NOWHERE).host for port in self.had.values())
        port = self.port_map.other(origin)
        if port is not None:
            assert self.port_map.target(port) == origin
        if self.count == 40:
            assert (port is not None) >= is_there

    @rule(udn=UDNS)
    def leave(self, udn: str) -> None:
        before = [self.port_map.target(port) for port in ports_of(self.port_map)]
        self.port_map.left(udn)
        assert before == [self.port_map.target(port) for port in ports_of(self.port_map)]

    @rule(host=st.sampled_from([POD, OTHER_POD, THIRD_POD]))
    def end(self, host: str) -> None:
        before = ports_of(self.port_map)
        self.port_map.gone(host)
        assert ports_of(self.port_map) == before
        assert all((self.port_map.target(port) or NOWHERE).host != host for port in before)

    @precondition(lambda self: bool(ports_of(self.port_map)))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(ports_of(self.port_map)))
        self.port_map.refuse(port)
        assert self.port_map.target(port) is None
        self.had = {udn: had for udn, had in self.had.items() if had != port}

    @invariant()
    def one_to_one(self) -> None:
        ports = ports_of(self.port_map)
        assert len(ports) == len(set(ports)) <= self.count
        assert all(FIRST <= port < FIRST + self.count for port in ports)
        targets = [target for port in ports if (target := self.port_map.target(port)) is not None]
        assert len(targets) == len(set(targets))
        assert all(self.port_map.target(self.port_map.known(target) or 0) == target for target in targets)
        assert set(self.port_map._away) <= set(ports)


TestAnyHistory = AnyHistory.TestCase
