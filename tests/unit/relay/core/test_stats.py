"""What a relay counts of an ingress."""

from __future__ import annotations

from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.stats import IngressStats


def test_each_ingress_has_counts_of_its_own() -> None:
    one, other = IngressStats("udp://:5000", "pods"), IngressStats("udp://:5001", "pods")
    one.dropped[RelayDrop.OWN] = 1
    assert other.dropped == {}
