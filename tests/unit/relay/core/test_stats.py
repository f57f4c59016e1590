"""What a relay counts of an ingress."""

from __future__ import annotations

from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.stats import IngressStats


def test_drops_add_up_by_reason() -> None:
    stats = IngressStats("udp://:5000", "pods")
    stats.drop(RelayDrop.OVER_LIMIT)
    stats.drop(RelayDrop.OVER_LIMIT, 4)
    stats.drop(RelayDrop.LOOP)
    assert stats.dropped == {RelayDrop.OVER_LIMIT: 5, RelayDrop.LOOP: 1}


def test_each_ingress_has_counts_of_its_own() -> None:
    one, other = IngressStats("udp://:5000", "pods"), IngressStats("udp://:5001", "pods")
    one.drop(RelayDrop.OWN)
    assert other.dropped == {}
