"""The devices that pods have, and what the SSDP relay announces of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import ALL, ROOT_DEVICE, Advert, Kind
from fanout.ssdp.core.registry import (
    ADVERTS_MAX,
    CHANGES_APART,
    MAX_AGE_MIN,
    REPEAT_MOST,
    UDNS_MAX,
    Announcement,
    Catalogue,
    Conflict,
    Device,
)
from tests.support.adverts import OTHER_POD, POD, PODS, SERVER, THIRD_POD, U, V, advert, wakeup


def said(announcements: Iterable[Announcement]) -> list[str]:
    """Return announcements in short: kind, last number of the pod, NT."""
    return [f"{each.kind.value[5:]} {each.pod[-2:]} {each.advert.nt}" for each in announcements]


@pytest.fixture
def dropped() -> Counter[SsdpDrop]:
    return Counter()


@pytest.fixture
def catalogue(dropped: Counter[SsdpDrop]) -> Catalogue:
    made = Catalogue(dropped, lambda: 1.0)
    made.pods([POD, OTHER_POD], 0)
    return made


def test_what_a_pod_tells_of_is_announced_once(catalogue: Catalogue) -> None:
    first = catalogue.heard(POD, advert(), 0)
    assert first == [Announcement(Kind.ALIVE, POD, advert())]
    assert catalogue.heard(POD, advert(), 30) == []
    assert said(catalogue.heard(POD, advert(SERVER), 30)) == [f"alive 11 {SERVER}"]
    assert catalogue.devices == [Device(U, POD, "http://10.60.0.11:8200/rootDesc.xml")]


def test_only_pods_of_the_service_are_heard(catalogue: Catalogue) -> None:
    assert catalogue.heard(THIRD_POD, advert(), 0) == []
    assert catalogue.updated(THIRD_POD, advert(), 0) == []
    assert catalogue.left(THIRD_POD, advert(), 0) == []
    catalogue.heard(POD, advert(), 0)
    catalogue.pods([OTHER_POD], 1)
    assert catalogue.heard(POD, advert(), 2) == [], "an answer that was late"
    assert catalogue.devices == []


def test_what_has_changed_is_announced_again(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(BOOTID="1"), 0)
    for moment, changed in enumerate(
        (advert(BOOTID="2"), advert(BOOTID="2", port=8201), advert(BOOTID="2", CONFIGID="7"), advert(max_age=600)), 5
    ):
        assert catalogue.heard(POD, changed, moment) == [Announcement(Kind.ALIVE, POD, changed)]
    assert catalogue.heard(POD, advert(max_age=600, DATE="today"), 10) == [], "that is no change"
    assert catalogue.heard(POD, Advert(ROOT_DEVICE, f"{U.upper()}::{ROOT_DEVICE}", advert().location, 600), 10) == []


def test_an_advert_that_changes_all_the_time_is_not_announced_all_the_time(catalogue: Catalogue) -> None:
    announced = sum(len(catalogue.heard(POD, advert(BOOTID=str(number)), number / 100)) for number in range(100))
    assert announced == 1
    assert wakeup(catalogue) == CHANGES_APART
    assert catalogue.due(0.99) == []
    assert catalogue.due(1) == [Announcement(Kind.ALIVE, POD, advert(BOOTID="99"))]
    assert catalogue.due(2) == []


def test_a_location_elsewhere_does_not_take_the_place_of_one_at_the_pod(catalogue: Catalogue) -> None:
    elsewhere = advert(at="127.0.0.1")
    assert said(catalogue.heard(POD, elsewhere, 0)) == ["alive 11 upnp:rootdevice"], "it is all that there is"
    assert catalogue.heard(POD, advert(), 5) == [Announcement(Kind.ALIVE, POD, advert())]
    assert catalogue.heard(POD, elsewhere, 10) == []
    assert catalogue.answers(ALL, None) == [(POD, advert())]


def test_what_was_announced_is_repeated_before_it_would_be_forgotten() -> None:
    catalogue = Catalogue({}, iter([0.0, 1.0, 1.0]).__next__)
    catalogue.pods([POD], 0)
    catalogue.heard(POD, advert(max_age=1000), 0)
    assert wakeup(catalogue) == pytest.approx(0.8 * 400)
    assert catalogue.due(319) == []
    assert said(catalogue.due(321)) == ["alive 11 upnp:rootdevice"]
    assert wakeup(catalogue) == 721


@pytest.mark.parametrize(("max_age", "expected"), [(86_400, REPEAT_MOST), (1800, 720), (1, 0.4 * MAX_AGE_MIN)])
def test_repeats_are_bounded(catalogue: Catalogue, max_age: int, expected: float) -> None:
    (first,) = catalogue.heard(POD, advert(max_age=max_age), 0)
    assert first.advert.max_age == max(max_age, MAX_AGE_MIN), "a pod is not asked more often"
    assert wakeup(catalogue) == pytest.approx(expected)


def test_all_adverts_of_a_device_are_repeated_together_and_in_order(catalogue: Catalogue) -> None:
    kinds = [ROOT_DEVICE, U, SERVER]
    for moment, nt in enumerate(kinds):
        catalogue.heard(POD, advert(nt), moment)
    assert said(catalogue.due(720)) == [f"alive 11 {nt}" for nt in kinds]


def test_what_nobody_tells_of_any_more_is_revoked(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(max_age=200), 0)
    catalogue.heard(POD, advert(SERVER, max_age=200), 0)
    catalogue.heard(POD, advert(SERVER, max_age=200), 150)
    catalogue.due(199)
    assert said(catalogue.due(200)) == ["byebye 11 upnp:rootdevice"]
    assert said(catalogue.due(350)) == [f"byebye 11 {SERVER}"]
    assert (catalogue.devices, wakeup(catalogue)) == ([], None)
    assert said(catalogue.heard(POD, advert(), 400)) == ["alive 11 upnp:rootdevice"]


def test_a_pod_says_byebye(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(), 0)
    catalogue.heard(POD, advert(U), 0)
    bare = Advert(ROOT_DEVICE, f"{U.upper()}::{ROOT_DEVICE}", "")
    assert catalogue.left(POD, bare, 1) == [Announcement(Kind.BYEBYE, POD, advert())]
    assert catalogue.left(POD, bare, 1) == []
    assert catalogue.left(OTHER_POD, advert(U), 1) == [], "that is not its own"
    assert said(catalogue.left(POD, advert(U), 1)) == [f"byebye 11 {U}"]
    assert catalogue.devices == []


def test_a_pod_that_leaves_the_service_is_revoked_whole(catalogue: Catalogue) -> None:
    for udn in (V, U):
        for nt in (ROOT_DEVICE, udn):
            catalogue.heard(POD, advert(nt, udn), 0)
    catalogue.heard(OTHER_POD, advert(udn="uuid:3"), 0)
    gone = catalogue.pods({OTHER_POD, THIRD_POD}, 1)
    assert [(each.kind, each.advert.usn) for each in gone] == [
        (Kind.BYEBYE, usn) for usn in (f"{U}::{ROOT_DEVICE}", U, f"{V}::{ROOT_DEVICE}", V)
    ]
    assert catalogue.pods({OTHER_POD, THIRD_POD}, 1) == []
    assert [device.udn for device in catalogue.devices] == ["uuid:3"]


def test_a_second_pod_with_the_same_udn_waits_in_the_shadow(catalogue: Catalogue, dropped: Counter[SsdpDrop]) -> None:
    """It is so when a pod is restarted and DNS has its old address still."""
    catalogue.heard(POD, advert(), 0)
    moved = advert(at=OTHER_POD)
    assert catalogue.heard(OTHER_POD, moved, 1) == catalogue.heard(OTHER_POD, advert(SERVER, at=OTHER_POD), 1) == []
    assert catalogue.heard(OTHER_POD, advert(at=OTHER_POD, BOOTID="5"), 2) == []
    assert (catalogue.is_owner(POD, U), catalogue.is_owner(OTHER_POD, U)) == (True, False)
    assert catalogue.take_conflicts() == [Conflict(U, OTHER_POD, POD)]
    assert (catalogue.take_conflicts(), dropped) == ([], {SsdpDrop.UDN_TAKEN: 1})
    assert wakeup(catalogue) == pytest.approx(720), "nothing is to be done for it"
    assert [pod for pod, _ in catalogue.answers(ALL, None)] == [POD]
    assert said(catalogue.pods([OTHER_POD], 3)) == [
        "byebye 11 upnp:rootdevice",
        "alive 12 upnp:rootdevice",
        f"alive 12 {SERVER}",
    ]
    assert catalogue.is_owner(OTHER_POD, U)
    assert said(catalogue.due(3 + 720)) == ["alive 12 upnp:rootdevice", f"alive 12 {SERVER}"]


def test_the_shadow_takes_over_when_the_owner_is_no_longer_heard_of_or_says_byebye(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(max_age=200), 0)
    catalogue.heard(OTHER_POD, advert(at=OTHER_POD), 100)
    catalogue.due(199)
    assert said(catalogue.due(200)) == ["byebye 11 upnp:rootdevice", "alive 12 upnp:rootdevice"]
    assert catalogue.heard(POD, advert(), 201) == [], "now it is the other way round"
    assert said(catalogue.left(OTHER_POD, advert(), 202)) == ["byebye 12 upnp:rootdevice", "alive 11 upnp:rootdevice"]


def test_a_shadow_that_left_or_was_forgotten_takes_nothing_over(catalogue: Catalogue) -> None:
    catalogue.pods(PODS, 0)
    catalogue.heard(POD, advert(), 0)
    catalogue.heard(OTHER_POD, advert(max_age=120), 0)
    catalogue.heard(THIRD_POD, advert(), 0)
    assert said(catalogue.pods([OTHER_POD], 130)) == ["byebye 11 upnp:rootdevice"]
    assert catalogue.due(130) == []
    assert catalogue.answers(ALL, None) == []
    assert wakeup(catalogue) is None


def test_updates_are_passed_on(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(BOOTID="1"), 0)
    update = advert(BOOTID="1", NEXTBOOTID="2", port=8201)
    assert catalogue.updated(POD, update, 5) == [Announcement(Kind.UPDATE, POD, update)]
    assert catalogue.heard(POD, advert(BOOTID="2", port=8201), 6) == [], "that is what it said"
    (repeated,) = catalogue.due(720)
    assert (repeated.kind, repeated.advert) == (Kind.ALIVE, advert(BOOTID="2", port=8201))


def test_updates_of_what_is_unknown_not_owned_or_too_frequent(catalogue: Catalogue) -> None:
    assert said(catalogue.updated(POD, advert(NEXTBOOTID="2"), 0)) == ["alive 11 upnp:rootdevice"]
    assert catalogue.updated(POD, advert(NEXTBOOTID="3"), 0.5) == []
    assert said(catalogue.due(1)) == ["alive 11 upnp:rootdevice"]
    catalogue.heard(OTHER_POD, advert(), 1)
    assert catalogue.updated(OTHER_POD, advert(NEXTBOOTID="4"), 5) == []
    assert catalogue.speaks(OTHER_POD)


def test_a_description_adds_nothing_to_what_a_device_says_itself(catalogue: Catalogue) -> None:
    described = [advert(), advert(SERVER, max_age=200)]
    assert said(catalogue.described(POD, described, 0)) == ["alive 11 upnp:rootdevice", f"alive 11 {SERVER}"]
    assert not catalogue.speaks(POD)
    itself = advert(port=9000)
    assert catalogue.heard(POD, itself, 5) == [Announcement(Kind.ALIVE, POD, itself)]
    assert catalogue.speaks(POD)
    assert catalogue.described(POD, [advert(), advert(U)], 10) == [], "nor does it end what is said no more"
    assert catalogue.answers(ROOT_DEVICE, [POD]) == [(POD, itself)]
    assert said(catalogue.described(POD, [advert(udn=V)], 10)) == ["alive 11 upnp:rootdevice"]
    catalogue.described(POD, [advert(SERVER, max_age=200)], 190)
    catalogue.due(200)
    assert len(catalogue.answers(SERVER, None)) == 1, "but what the device has not said yet is not revoked for that"
    catalogue.pods([OTHER_POD], 300)
    catalogue.pods(PODS, 301)
    assert not catalogue.speaks(POD), "it has joined anew"


def test_what_a_description_says_no_more_has_ended(catalogue: Catalogue) -> None:
    """A pod that was given another UDN, at the same place."""
    catalogue.described(POD, [advert(), advert(SERVER)], 0)
    catalogue.described(POD, [advert(port=9000, nt=U)], 0)
    assert said(catalogue.described(POD, [advert()], 30)) == [f"byebye 11 {SERVER}"]
    new = [advert(udn=V), advert(SERVER, V)]
    announced = catalogue.described(POD, new, 60)
    assert said(announced) == ["byebye 11 upnp:rootdevice", "alive 11 upnp:rootdevice", f"alive 11 {SERVER}"]
    assert [each.advert.udn for each in announced] == [U, V, V]
    assert catalogue.described(POD, new, 90) == []
    assert [device.udn for device in catalogue.devices] == [U, V], "another description says of the first still"
    assert catalogue.described(THIRD_POD, new, 90) == []


def test_what_a_description_says_no_more_comes_out_of_a_shadow(catalogue: Catalogue) -> None:
    catalogue.described(POD, [advert()], 0)
    assert catalogue.described(OTHER_POD, [advert(at=OTHER_POD)], 1) == []
    assert said(catalogue.described(POD, [advert(udn=V)], 2)) == [
        "byebye 11 upnp:rootdevice", "alive 12 upnp:rootdevice", "alive 11 upnp:rootdevice",
    ]  # fmt: skip


def test_an_answer_as_a_lower_version_is_nothing_new(catalogue: Catalogue) -> None:
    second = SERVER[:-1] + "2"
    catalogue.heard(POD, advert(second, max_age=200), 0)
    assert catalogue.heard(POD, advert(SERVER, max_age=200), 100) == []
    catalogue.due(250)
    assert catalogue.answers(ALL, None) == [(POD, advert(second, max_age=200))], "it is heard of all the same"
    assert catalogue.answers(SERVER, None) == [(POD, advert(second, max_age=200))]
    assert catalogue.answers(SERVER[:-1] + "3", None) == []


def test_answers_are_of_owners_and_of_the_pods_that_were_named(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(), 0)
    catalogue.heard(POD, advert(U), 0)
    catalogue.heard(OTHER_POD, advert(udn=V, at=OTHER_POD), 0)
    catalogue.heard(OTHER_POD, advert(SERVER, V, at=OTHER_POD), 0)
    assert [(pod, found.nt) for pod, found in catalogue.answers(ALL, None)] == [
        (POD, ROOT_DEVICE), (POD, U), (OTHER_POD, ROOT_DEVICE), (OTHER_POD, SERVER),
    ]  # fmt: skip
    assert [pod for pod, _ in catalogue.answers(ROOT_DEVICE, {OTHER_POD})] == [OTHER_POD]
    assert catalogue.answers(U.upper(), None) == [(POD, advert(U))]
    catalogue.heard(OTHER_POD, advert(SERVER, at=OTHER_POD), 0)
    assert [pod for pod, _ in catalogue.answers(SERVER, None)] == [OTHER_POD], "once: what is in a shadow does not"
    assert catalogue.answers(ALL, []) == []


def test_the_location_of_a_device_is_that_of_its_root(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(SERVER, port=9000), 0)
    assert catalogue.devices[0].location == "http://10.60.0.11:9000/rootDesc.xml"
    catalogue.heard(POD, advert(), 0)
    assert catalogue.devices[0].location == "http://10.60.0.11:8200/rootDesc.xml"


def test_after_the_farewell_nothing_is_announced(catalogue: Catalogue) -> None:
    catalogue.heard(POD, advert(), 0)
    catalogue.heard(OTHER_POD, advert(), 0)
    assert said(catalogue.farewell()) == ["byebye 11 upnp:rootdevice"]
    assert wakeup(catalogue) is None
    assert catalogue.pods(PODS, 1) == catalogue.heard(POD, advert(), 1) == catalogue.due(10_000) == []
    assert catalogue.farewell() == []
    assert catalogue.devices == []


def test_a_pod_that_lies_holds_no_more_memory_and_displaces_nobody(
    catalogue: Catalogue, dropped: Counter[SsdpDrop]
) -> None:
    for number in range(2 * UDNS_MAX):
        catalogue.heard(POD, advert(udn=f"uuid:{number}"), 0)
    assert len(catalogue.devices) == UDNS_MAX
    assert dropped == {SsdpDrop.TOO_MANY_DEVICES: UDNS_MAX}
    for number in range(2 * ADVERTS_MAX):
        catalogue.heard(POD, advert(f"urn:x:device:y{number}:1", udn="uuid:0"), 0)
    assert len(catalogue.answers(ALL, None)) == ADVERTS_MAX
    assert dropped[SsdpDrop.TOO_MANY_DEVICES] == 2 * ADVERTS_MAX + UDNS_MAX - (ADVERTS_MAX - UDNS_MAX)
    assert said(catalogue.heard(OTHER_POD, advert(), 0)) == ["alive 12 upnp:rootdevice"]
    catalogue.pods([OTHER_POD], 1)
    catalogue.pods(PODS, 2)
    for number in range(ADVERTS_MAX + 1):
        catalogue.heard(POD, advert(f"urn:x:device:y{number}:1", udn="uuid:0"), 3)
    assert catalogue.heard(POD, advert(udn="uuid:1"), 3) == [], "a device that would have no advert is none"
    assert {device.udn for device in catalogue.devices} == {U, "uuid:0"}


def test_no_more_conflicts_are_kept_than_a_log_can_bear(catalogue: Catalogue) -> None:
    hosts = [f"10.0.0.{number}" for number in range(200)]
    catalogue.pods(hosts, 0)
    for host in hosts:
        catalogue.heard(host, advert(), 0)
    assert 0 < len(catalogue.take_conflicts()) < 100
