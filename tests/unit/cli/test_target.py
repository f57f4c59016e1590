"""How a command finds its Service: by its own nameserver, or as the local headless Service."""

from __future__ import annotations

import pytest

from fanout.cli.target import TargetOptions, find_local_service, find_target
from fanout.errors import InvalidService
from fanout.local.state import LocalService

LOCAL = LocalService(1, "127.0.0.1:5353", ("local.svc.cluster.local",), 5, "headless-udp", 12_000, "/nonexistent")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local headless Service runs, and this is not a pod."""
    monkeypatch.setattr("fanout.local.state.find", lambda: LOCAL)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.mark.parametrize(
    ("service", "one", "two"),
    [("10.0.0.1,10.0.0.2", "1 endpoint", "2 endpoints"), ("other", "1 pod of other", "2 pods of other")],
)
def test_a_list_has_endpoints_and_a_name_has_pods(service: str, one: str, two: str) -> None:
    target = find_target(TargetOptions(service=service))
    assert (target.whom(1), target.whom(2)) == (one, two)
    assert target.is_literal == service.startswith("10.")
    assert target.pods(2) == " ".join(two.split()[:2])


def test_the_local_service_is_found_and_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_target(TargetOptions(service="headless-udp")).service.name == "headless-udp"
    assert capsys.readouterr().err == (
        "fanout: headless-udp is the local headless Service (`fanout local`, nameserver 127.0.0.1:5353)\n"
    )
    find_target(TargetOptions(service="headless-udp"), quiet=True)
    find_target(TargetOptions(service="other"))
    find_target(TargetOptions(service="10.0.0.1"))
    assert capsys.readouterr() == ("", "")


def test_whose_names_are_the_local_service_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_local_service(None, ["headless-udp", "headless-udp.local.svc.cluster.local."]) is LOCAL
    assert find_local_service(None, ["headless-udp", "other"]) is None
    assert find_local_service("10.0.0.10", ["headless-udp"]) is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "172.30.0.1")
    assert find_local_service(None, ["headless-udp"]) is None


def test_what_no_service_can_be_called() -> None:
    with pytest.raises(InvalidService):
        find_target(TargetOptions(service=""))
