"""The registry in any history, held against a naive model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fanout.ssdp.core.message import ALL, ROOT_DEVICE, Advert, NotifyKind
from fanout.ssdp.core.registry import CHANGES_APART, MAX_AGE_MIN, REPEAT_MOST, Announcement, Registry
from tests.support.adverts import POD, PODS, SERVER, U, V, advert, wakeup

UDNS = st.sampled_from([U, V])
NTS = st.sampled_from([ROOT_DEVICE, SERVER, "urn:schemas-upnp-org:service:ContentDirectory:1"])
AGES = st.sampled_from([1, 300, 1800, 86_400])


class AnyHistory(RuleBasedStateMachine):
    """What was announced as alive and not revoked is what the owners have told of; in a naive model of both."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.registry = Registry(Counter(), lambda: 0.5)
        self.alive: dict[str, tuple[str, Advert]] = {}
        """By USN: whose it is, as the LAN sees it."""
        self.spoken: dict[str, float] = {}
        """By USN: when it was announced last as alive."""
        self.located: dict[str, float] = {}
        """By USN: when its LOCATION was announced last."""
        self.told: dict[tuple[str, str], dict[str, tuple[Advert, float]]] = {}
        """By UDN and pod, in the order of their coming: adverts and when they expire, by USN."""
        self.speaking: set[tuple[str, str]] = set()
        self.hosts: set[str] = set()
        self.is_over = False

    def hear(self, announcements: list[Announcement]) -> None:
        """Be a control point on the LAN."""
        for kind, pod, said in announcements:
            self.located[said.usn] = self.now
            if kind is NotifyKind.ALIVE:
                self.alive[said.usn] = (pod, said)
                self.spoken[said.usn] = self.now
            else:
                owner, had = self.alive[said.usn]
                assert owner == pod, "it is of what is alive"
                if kind is NotifyKind.BYEBYE:
                    del self.alive[said.usn]
                else:  # an update names the LOCATION as well (UDA 1.1, 1.2.4)
                    self.alive[said.usn] = pod, replace(had, location=said.location)
        assert not announcements or not self.is_over

    def forget(self) -> None:
        self.told = {
            key: living
            for key, adverts in self.told.items()
            if (living := {usn: each for usn, each in adverts.items() if each[1] > self.now}) and key[1] in self.hosts
        }
        self.speaking &= self.told.keys()

    def owned(self) -> dict[str, tuple[str, str]]:
        """Return by USN the pod and the LOCATION."""
        owners: dict[str, str] = {}
        for udn, pod in self.told:
            owners.setdefault(udn, pod)
        return {
            usn: (pod, advert.location)
            for udn, pod in owners.items()
            for usn, (advert, _) in self.told[udn, pod].items()
        }

    @rule(hosts=st.sets(st.sampled_from(PODS)))
    def resolve(self, hosts: set[str]) -> None:
        self.hosts = hosts if not self.is_over else set()
        announcements = self.registry.pods(hosts, self.now)
        self.forget()
        self.hear(announcements)

    @rule(pod=st.sampled_from(PODS), udn=UDNS, nt=NTS, port=st.integers(1, 2), age=AGES)
    def tell(self, pod: str, udn: str, nt: str, port: int, age: int) -> None:
        told = advert(nt, udn, at=pod, port=port, max_age=age)
        self.hear(self.registry.heard(pod, told, self.now))
        if pod in self.hosts:
            self.told.setdefault((udn, pod), {})[told.usn] = (told, self.now + max(age, MAX_AGE_MIN))
            self.speaking.add((udn, pod))

    @rule(pod=st.sampled_from(PODS), what=st.sets(st.tuples(UDNS, NTS), min_size=1), port=st.integers(1, 2), age=AGES)
    def describe(self, pod: str, what: set[tuple[str, str]], port: int, age: int) -> None:
        described = [advert(nt, udn, at=pod, port=port, max_age=age) for udn, nt in sorted(what)]
        self.hear(self.registry.described(pod, described, self.now))
        if pod not in self.hosts:
            return
        usns = {each.usn for each in described}
        for key in [key for key in self.told if key[1] == pod and key not in self.speaking]:
            self.told[key] = {
                usn: each
                for usn, each in self.told[key].items()
                if usn in usns or each[0].location != described[0].location
            }
        self.forget()
        for each in described:
            adverts = self.told.setdefault((each.udn, pod), {})
            if (each.udn, pod) not in self.speaking:
                adverts[each.usn] = (each, self.now + max(age, MAX_AGE_MIN))
            elif each.usn in adverts:
                had, until = adverts[each.usn]
                adverts[each.usn] = (had, max(until, self.now + max(had.max_age, MAX_AGE_MIN)))

    @rule(pod=st.sampled_from(PODS), udn=UDNS, nt=NTS, boot=st.integers(1, 3))
    def update(self, pod: str, udn: str, nt: str, boot: int) -> None:
        told = advert(nt, udn, at=pod, port=7, NEXTBOOTID=str(boot))
        self.hear(self.registry.updated(pod, told, self.now))
        if pod in self.hosts:
            adverts = self.told.setdefault((udn, pod), {})
            had, until = adverts.get(told.usn, (told, self.now + 1800))
            adverts[told.usn] = (advert(nt, udn, at=pod, port=7, max_age=had.max_age), until)
            self.speaking.add((udn, pod))

    @rule(pod=st.sampled_from(PODS), udn=UDNS, nt=NTS)
    def leave(self, pod: str, udn: str, nt: str) -> None:
        told = advert(nt, udn, at=pod)
        self.hear(self.registry.left(pod, told, self.now))
        self.told.get((udn, pod), {}).pop(told.usn, None)
        self.forget()

    @rule(seconds=st.sampled_from([0.5, 1, 30, 100, 1000, 100_000]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (wake := wakeup(self.registry)) is not None and wake <= until:
            assert wake >= self.now, "nothing was due already"
            self.now = wake
            announcements = self.registry.due(self.now)
            self.forget()
            self.hear(announcements)
            assert (wakeup(self.registry) or until + 1) > wake, "it is done with what was due"
            self.agree()
        self.now = until
        assert self.registry.due(self.now) == []
        # An advert that has changed may have to wait; nothing else has.
        late = [usn for usn, (_, location) in self.owned().items() if self.alive[usn][1].location != location]
        assert all(self.now - self.located[usn] < CHANGES_APART for usn in late)

    @rule()
    def end(self) -> None:
        self.hear(self.registry.farewell())
        self.is_over, self.hosts, self.told = True, set(), {}

    @invariant()
    def agree(self) -> None:
        assert {usn: pod for usn, (pod, _) in self.alive.items()} == {
            usn: pod for usn, (pod, _) in self.owned().items()
        }
        for usn, (_, said) in self.alive.items():
            assert self.now - self.spoken[usn] <= min(0.4 * said.max_age, REPEAT_MOST), "nobody has forgotten it"
        for udn in (U, V):
            owners = {pod for pod in PODS if self.registry.is_owner(pod, udn)}
            assert owners == {pod for usn, (pod, _) in self.alive.items() if usn.startswith(udn)}
            assert len(owners) <= 1
        answers = self.registry.answers(ALL, None)
        assert {advert.usn for _, advert in answers} == set(self.alive)
        assert len(answers) == len(self.alive)
        assert {device.udn for device in self.registry.devices} == {advert.udn for _, advert in self.alive.values()}


TestAnyHistory = AnyHistory.TestCase


def test_an_update_that_moves_a_device() -> None:
    """A history that few find by chance."""
    history = AnyHistory()
    history.resolve({POD})
    history.tell(POD, U, ROOT_DEVICE, port=1, age=1)
    history.wait(1)
    history.update(POD, U, ROOT_DEVICE, boot=1)
    history.wait(0.5)
    history.tell(POD, U, ROOT_DEVICE, port=1, age=1)
    history.wait(0)
    history.agree()
    history.wait(0.5)
    history.agree()
