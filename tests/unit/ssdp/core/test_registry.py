"""The devices that pods have, and what the SSDP relay announces of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import ALL, ROOT_DEVICE, Advert, NotifyKind
from fanout.ssdp.core.registry import (
    ADVERTS_MAX,
    CHANGES_APART,
    MAX_AGE_MIN,
    REPEAT_MOST,
    UDNS_MAX,
    Announcement,
    Conflict,
    Device,
    Registry,
)
from tests.support.adverts import OTHER_POD, POD, PODS, SERVER, THIRD_POD, U, V, advert, wakeup


def said(announcements: Iterable[Announcement]) -> list[str]:
    """Return announcements in short: kind, last number of the pod, NT."""
    return [f"{each.kind.value[5:]} {each.pod[-2:]} {each.advert.nt}" for each in announcements]


@pytest.fixture
def dropped() -> Counter[SsdpDrop]:
    return Counter()


@pytest.fixture
def registry(dropped: Counter[SsdpDrop]) -> Registry:
    made = Registry(dropped, lambda: 1.0)
    made.pods([POD, OTHER_POD], 0)
    return made


def test_what_a_pod_tells_of_is_announced_once(registry: Registry) -> None:
    first = registry.heard(POD, advert(), 0)
    assert first == [Announcement(NotifyKind.ALIVE, POD, advert())]
    assert registry.heard(POD, advert(), 30) == []
    assert said(registry.heard(POD, advert(SERVER), 30)) == [f"alive 11 {SERVER}"]
    assert registry.devices == [Device(U, POD, "http://10.60.0.11:8200/rootDesc.xml")]


def test_only_pods_of_the_service_are_heard(registry: Registry) -> None:
    assert registry.heard(THIRD_POD, advert(), 0) == []
    assert registry.updated(THIRD_POD, advert(), 0) == []
    assert registry.left(THIRD_POD, advert(), 0) == []
    registry.heard(POD, advert(), 0)
    registry.pods([OTHER_POD], 1)
    assert registry.heard(POD, advert(), 2) == [], "an answer that was late"
    assert registry.devices == []


def test_what_has_changed_is_announced_again(registry: Registry) -> None:
    registry.heard(POD, advert(BOOTID="1"), 0)
    for moment, changed in enumerate(
        (advert(BOOTID="2"), advert(BOOTID="2", port=8201), advert(BOOTID="2", CONFIGID="7"), advert(max_age=600)), 5
    ):
        assert registry.heard(POD, changed, moment) == [Announcement(NotifyKind.ALIVE, POD, changed)]
    assert registry.heard(POD, advert(max_age=600, DATE="today"), 10) == [], "that is no change"
    assert registry.heard(POD, Advert(ROOT_DEVICE, f"{U.upper()}::{ROOT_DEVICE}", advert().location, 600), 10) == []


def test_an_advert_that_changes_all_the_time_is_not_announced_all_the_time(registry: Registry) -> None:
    announced = sum(len(registry.heard(POD, advert(BOOTID=str(number)), number / 100)) for number in range(100))
    assert announced == 1
    assert wakeup(registry) == CHANGES_APART
    assert registry.due(0.99) == []
    assert registry.due(1) == [Announcement(NotifyKind.ALIVE, POD, advert(BOOTID="99"))]
    assert registry.due(2) == []


def test_a_location_elsewhere_does_not_take_the_place_of_one_at_the_pod(registry: Registry) -> None:
    elsewhere = advert(at="127.0.0.1")
    assert said(registry.heard(POD, elsewhere, 0)) == ["alive 11 upnp:rootdevice"], "it is all that there is"
    assert registry.heard(POD, advert(), 5) == [Announcement(NotifyKind.ALIVE, POD, advert())]
    assert registry.heard(POD, elsewhere, 10) == []
    assert registry.answers(ALL, None) == [(POD, advert())]


def test_what_was_announced_is_repeated_before_it_would_be_forgotten() -> None:
    registry = Registry(Counter(), iter([0.0, 1.0, 1.0]).__next__)
    registry.pods([POD], 0)
    registry.heard(POD, advert(max_age=1000), 0)
    assert wakeup(registry) == pytest.approx(0.8 * 400)
    assert registry.due(319) == []
    assert said(registry.due(321)) == ["alive 11 upnp:rootdevice"]
    assert wakeup(registry) == 721


@pytest.mark.parametrize(("max_age", "expected"), [(86_400, REPEAT_MOST), (1800, 720), (1, 0.4 * MAX_AGE_MIN)])
def test_repeats_are_bounded(registry: Registry, max_age: int, expected: float) -> None:
    (first,) = registry.heard(POD, advert(max_age=max_age), 0)
    assert first.advert.max_age == max(max_age, MAX_AGE_MIN), "a pod is not asked more often"
    assert wakeup(registry) == pytest.approx(expected)


def test_all_adverts_of_a_device_are_repeated_together_and_in_order(registry: Registry) -> None:
    kinds = [ROOT_DEVICE, U, SERVER]
    for moment, nt in enumerate(kinds):
        registry.heard(POD, advert(nt), moment)
    assert said(registry.due(720)) == [f"alive 11 {nt}" for nt in kinds]


def test_what_nobody_tells_of_any_more_is_revoked(registry: Registry) -> None:
    registry.heard(POD, advert(max_age=200), 0)
    registry.heard(POD, advert(SERVER, max_age=200), 0)
    registry.heard(POD, advert(SERVER, max_age=200), 150)
    registry.due(199)
    assert said(registry.due(200)) == ["byebye 11 upnp:rootdevice"]
    assert said(registry.due(350)) == [f"byebye 11 {SERVER}"]
    assert (registry.devices, wakeup(registry)) == ([], None)
    assert said(registry.heard(POD, advert(), 400)) == ["alive 11 upnp:rootdevice"]


def test_a_pod_says_byebye(registry: Registry) -> None:
    registry.heard(POD, advert(), 0)
    registry.heard(POD, advert(U), 0)
    bare = Advert(ROOT_DEVICE, f"{U.upper()}::{ROOT_DEVICE}", "")
    assert registry.left(POD, bare, 1) == [Announcement(NotifyKind.BYEBYE, POD, advert())]
    assert registry.left(POD, bare, 1) == []
    assert registry.left(OTHER_POD, advert(U), 1) == [], "that is not its own"
    assert said(registry.left(POD, advert(U), 1)) == [f"byebye 11 {U}"]
    assert registry.devices == []


def test_a_pod_that_leaves_the_service_is_revoked_whole(registry: Registry) -> None:
    for udn in (V, U):
        for nt in (ROOT_DEVICE, udn):
            registry.heard(POD, advert(nt, udn), 0)
    registry.heard(OTHER_POD, advert(udn="uuid:3"), 0)
    gone = registry.pods({OTHER_POD, THIRD_POD}, 1)
    assert [(each.kind, each.advert.usn) for each in gone] == [
        (NotifyKind.BYEBYE, usn) for usn in (f"{U}::{ROOT_DEVICE}", U, f"{V}::{ROOT_DEVICE}", V)
    ]
    assert registry.pods({OTHER_POD, THIRD_POD}, 1) == []
    assert [device.udn for device in registry.devices] == ["uuid:3"]


def test_a_second_pod_with_the_same_udn_waits_in_the_shadow(registry: Registry, dropped: Counter[SsdpDrop]) -> None:
    """It is so when a pod is restarted and DNS has its old address still."""
    registry.heard(POD, advert(), 0)
    moved = advert(at=OTHER_POD)
    assert registry.heard(OTHER_POD, moved, 1) == registry.heard(OTHER_POD, advert(SERVER, at=OTHER_POD), 1) == []
    assert registry.heard(OTHER_POD, advert(at=OTHER_POD, BOOTID="5"), 2) == []
    assert (registry.is_owner(POD, U), registry.is_owner(OTHER_POD, U)) == (True, False)
    assert registry.take_conflicts() == [Conflict(U, OTHER_POD, POD)]
    assert (registry.take_conflicts(), dropped) == ([], {SsdpDrop.UDN_TAKEN: 1})
    assert wakeup(registry) == pytest.approx(720), "nothing is to be done for it"
    assert [pod for pod, _ in registry.answers(ALL, None)] == [POD]
    assert said(registry.pods([OTHER_POD], 3)) == [
        "byebye 11 upnp:rootdevice",
        "alive 12 upnp:rootdevice",
        f"alive 12 {SERVER}",
    ]
    assert registry.is_owner(OTHER_POD, U)
    assert said(registry.due(3 + 720)) == ["alive 12 upnp:rootdevice", f"alive 12 {SERVER}"]


def test_the_shadow_takes_over_when_the_owner_is_no_longer_heard_of_or_says_byebye(registry: Registry) -> None:
    registry.heard(POD, advert(max_age=200), 0)
    registry.heard(OTHER_POD, advert(at=OTHER_POD), 100)
    registry.due(199)
    assert said(registry.due(200)) == ["byebye 11 upnp:rootdevice", "alive 12 upnp:rootdevice"]
    assert registry.heard(POD, advert(), 201) == [], "now it is the other way round"
    assert said(registry.left(OTHER_POD, advert(), 202)) == ["byebye 12 upnp:rootdevice", "alive 11 upnp:rootdevice"]


def test_a_shadow_that_left_or_was_forgotten_takes_nothing_over(registry: Registry) -> None:
    registry.pods(PODS, 0)
    registry.heard(POD, advert(), 0)
    registry.heard(OTHER_POD, advert(max_age=120), 0)
    registry.heard(THIRD_POD, advert(), 0)
    assert said(registry.pods([OTHER_POD], 130)) == ["byebye 11 upnp:rootdevice"]
    assert registry.due(130) == []
    assert registry.answers(ALL, None) == []
    assert wakeup(registry) is None


def test_updates_are_passed_on(registry: Registry) -> None:
    registry.heard(POD, advert(BOOTID="1"), 0)
    update = advert(BOOTID="1", NEXTBOOTID="2", port=8201)
    assert registry.updated(POD, update, 5) == [Announcement(NotifyKind.UPDATE, POD, update)]
    assert registry.heard(POD, advert(BOOTID="2", port=8201), 6) == [], "that is what it said"
    (repeated,) = registry.due(720)
    assert (repeated.kind, repeated.advert) == (NotifyKind.ALIVE, advert(BOOTID="2", port=8201))


def test_updates_of_what_is_unknown_not_owned_or_too_frequent(registry: Registry) -> None:
    assert said(registry.updated(POD, advert(NEXTBOOTID="2"), 0)) == ["alive 11 upnp:rootdevice"]
    assert registry.updated(POD, advert(NEXTBOOTID="3"), 0.5) == []
    assert said(registry.due(1)) == ["alive 11 upnp:rootdevice"]
    registry.heard(OTHER_POD, advert(), 1)
    assert registry.updated(OTHER_POD, advert(NEXTBOOTID="4"), 5) == []
    assert registry.speaks(OTHER_POD)


def test_a_description_adds_nothing_to_what_a_device_says_itself(registry: Registry) -> None:
    described = [advert(), advert(SERVER, max_age=200)]
    assert said(registry.described(POD, described, 0)) == ["alive 11 upnp:rootdevice", f"alive 11 {SERVER}"]
    assert not registry.speaks(POD)
    itself = advert(port=9000)
    assert registry.heard(POD, itself, 5) == [Announcement(NotifyKind.ALIVE, POD, itself)]
    assert registry.speaks(POD)
    assert registry.described(POD, [advert(), advert(U)], 10) == [], "nor does it end what is said no more"
    assert registry.answers(ROOT_DEVICE, [POD]) == [(POD, itself)]
    assert said(registry.described(POD, [advert(udn=V)], 10)) == ["alive 11 upnp:rootdevice"]
    registry.described(POD, [advert(SERVER, max_age=200)], 190)
    registry.due(200)
    assert len(registry.answers(SERVER, None)) == 1, "but what the device has not said yet is not revoked for that"
    registry.pods([OTHER_POD], 300)
    registry.pods(PODS, 301)
    assert not registry.speaks(POD), "it has joined anew"


def test_what_a_description_says_no_more_has_ended(registry: Registry) -> None:
    """A pod that was given another UDN, at the same place."""
    registry.described(POD, [advert(), advert(SERVER)], 0)
    registry.described(POD, [advert(port=9000, nt=U)], 0)
    assert said(registry.described(POD, [advert()], 30)) == [f"byebye 11 {SERVER}"]
    new = [advert(udn=V), advert(SERVER, V)]
    announced = registry.described(POD, new, 60)
    assert said(announced) == ["byebye 11 upnp:rootdevice", "alive 11 upnp:rootdevice", f"alive 11 {SERVER}"]
    assert [each.advert.udn for each in announced] == [U, V, V]
    assert registry.described(POD, new, 90) == []
    assert [device.udn for device in registry.devices] == [U, V], "another description says of the first still"
    assert registry.described(THIRD_POD, new, 90) == []


def test_what_a_description_says_no_more_comes_out_of_a_shadow(registry: Registry) -> None:
    registry.described(POD, [advert()], 0)
    assert registry.described(OTHER_POD, [advert(at=OTHER_POD)], 1) == []
    assert said(registry.described(POD, [advert(udn=V)], 2)) == [
        "byebye 11 upnp:rootdevice", "alive 12 upnp:rootdevice", "alive 11 upnp:rootdevice",
    ]  # fmt: skip


def test_an_answer_as_a_lower_version_is_nothing_new(registry: Registry) -> None:
    second = SERVER[:-1] + "2"
    registry.heard(POD, advert(second, max_age=200), 0)
    assert registry.heard(POD, advert(SERVER, max_age=200), 100) == []
    registry.due(250)
    assert registry.answers(ALL, None) == [(POD, advert(second, max_age=200))], "it is heard of all the same"
    assert registry.answers(SERVER, None) == [(POD, advert(second, max_age=200))]
    assert registry.answers(SERVER[:-1] + "3", None) == []


def test_answers_are_of_owners_and_of_the_pods_that_were_named(registry: Registry) -> None:
    registry.heard(POD, advert(), 0)
    registry.heard(POD, advert(U), 0)
    registry.heard(OTHER_POD, advert(udn=V, at=OTHER_POD), 0)
    registry.heard(OTHER_POD, advert(SERVER, V, at=OTHER_POD), 0)
    assert [(pod, found.nt) for pod, found in registry.answers(ALL, None)] == [
        (POD, ROOT_DEVICE), (POD, U), (OTHER_POD, ROOT_DEVICE), (OTHER_POD, SERVER),
    ]  # fmt: skip
    assert [pod for pod, _ in registry.answers(ROOT_DEVICE, {OTHER_POD})] == [OTHER_POD]
    assert registry.answers(U.upper(), None) == [(POD, advert(U))]
    registry.heard(OTHER_POD, advert(SERVER, at=OTHER_POD), 0)
    assert [pod for pod, _ in registry.answers(SERVER, None)] == [OTHER_POD], "once: what is in a shadow does not"
    assert registry.answers(ALL, []) == []


def test_the_location_of_a_device_is_that_of_its_root(registry: Registry) -> None:
    registry.heard(POD, advert(SERVER, port=9000), 0)
    assert registry.devices[0].location == "http://10.60.0.11:9000/rootDesc.xml"
    registry.heard(POD, advert(), 0)
    assert registry.devices[0].location == "http://10.60.0.11:8200/rootDesc.xml"


def test_after_the_farewell_nothing_is_announced(registry: Registry) -> None:
    registry.heard(POD, advert(), 0)
    registry.heard(OTHER_POD, advert(), 0)
    assert said(registry.farewell()) == ["byebye 11 upnp:rootdevice"]
    assert wakeup(registry) is None
    assert registry.pods(PODS, 1) == registry.heard(POD, advert(), 1) == registry.due(10_000) == []
    assert registry.farewell() == []
    assert registry.devices == []


def test_a_pod_that_lies_holds_no_more_memory_and_displaces_nobody(
    registry: Registry, dropped: Counter[SsdpDrop]
) -> None:
    for number in range(2 * UDNS_MAX):
        registry.heard(POD, advert(udn=f"uuid:{number}"), 0)
    assert len(registry.devices) == UDNS_MAX
    assert dropped == {SsdpDrop.TOO_MANY_DEVICES: UDNS_MAX}
    for number in range(2 * ADVERTS_MAX):
        registry.heard(POD, advert(f"urn:x:device:y{number}:1", udn="uuid:0"), 0)
    assert len(registry.answers(ALL, None)) == ADVERTS_MAX
    assert dropped[SsdpDrop.TOO_MANY_DEVICES] == 2 * ADVERTS_MAX + UDNS_MAX - (ADVERTS_MAX - UDNS_MAX)
    assert said(registry.heard(OTHER_POD, advert(), 0)) == ["alive 12 upnp:rootdevice"]
    registry.pods([OTHER_POD], 1)
    registry.pods(PODS, 2)
    for number in range(ADVERTS_MAX + 1):
        registry.heard(POD, advert(f"urn:x:device:y{number}:1", udn="uuid:0"), 3)
    assert registry.heard(POD, advert(udn="uuid:1"), 3) == [], "a device that would have no advert is none"
    assert {device.udn for device in registry.devices} == {U, "uuid:0"}


def test_no_more_conflicts_are_kept_than_a_log_can_bear(registry: Registry) -> None:
    hosts = [f"10.0.0.{number}" for number in range(200)]
    registry.pods(hosts, 0)
    for host in hosts:
        registry.heard(host, advert(), 0)
    assert 0 < len(registry.take_conflicts()) < 100
