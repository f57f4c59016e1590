from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.model import MAX_PAYLOAD
from fanout.protocol.sending.batch import SEGMENTS_MAX, Batch

SIZES = st.lists(st.sampled_from([0, 1, 2, 500, 1200, 40_000, MAX_PAYLOAD]), min_size=1, max_size=300)


@given(sizes=SIZES, gso_limit=st.sampled_from([0, 1, 1200, MAX_PAYLOAD]), pods=st.integers(1, 5))
def test_parts_cover_the_batch_and_keep_the_kernels_rules(sizes: list[int], gso_limit: int, pods: int) -> None:
    batch = Batch([bytes(size) for size in sizes], gso_limit)
    following = 0
    for part in batch.parts:
        assert part.first == following
        assert part.length > 0
        following += part.length
        run = sizes[part.first : following]
        if part.merged:
            assert 1 < part.length <= SEGMENTS_MAX
            assert sum(run) <= MAX_PAYLOAD
            assert 0 < run[0] <= gso_limit
            assert set(run[:-1]) == {run[0]}
            assert 0 < run[-1] <= run[0]
    assert following == len(sizes)
    assert not any(not one.merged and not two.merged for one, two in zip(batch.parts, batch.parts[1:], strict=False))

    copies = [batch.copy_at(position, pods) for position in range(len(sizes) * pods)]
    assert sorted(copies) == [(message, pod) for message in range(len(sizes)) for pod in range(pods)]
    for pod in range(pods):
        assert [message for message, of in copies if of == pod] == list(range(len(sizes))), "each pod's order is kept"


@given(sizes=SIZES, pods=st.integers(1, 5), sends=st.integers(1, 50))
def test_steps_of_so_many_sends_reach_the_end(sizes: list[int], pods: int, sends: int) -> None:
    batch = Batch([bytes(size) for size in sizes], MAX_PAYLOAD)
    total = len(sizes) * pods
    position = 0
    steps = 0
    while position < total:
        reached = batch.after(position, pods, sends)
        assert position < reached <= total
        assert reached - position <= sends * SEGMENTS_MAX
        message, _ = batch.copy_at(reached - 1, pods)
        part = batch.part_at(reached - 1, pods)
        assert not part.merged or message == part.first + part.length - 1, "a run is not cut"
        position = reached
        steps += 1
    per_pod = sum(1 if part.merged else part.length for part in batch.parts)
    assert steps == -(-per_pod * pods // sends)
