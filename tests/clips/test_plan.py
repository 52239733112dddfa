"""The order is a function of seed and epoch alone."""

import tracemalloc

import pytest

from marey.clips.plan import Plan, plan


def test_an_epoch_has_every_row_once():
    rows = [one.row for one in plan(50, seed=1, epoch=2)]
    assert sorted(rows) == list(range(50))
    assert rows != list(range(50))


def test_epochs_and_seeds_differ_and_repeat_exactly():
    orders = {tuple(one.row for one in plan(30, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert list(plan(30, 0, 1)) == list(plan(30, 0, 1))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_share_the_global_batch_in_order(world: int):
    stream = Plan(rows=10, seed=3, repeats=2)
    shared = [one for rank in range(world) for one in stream.slice(4, 8, rank, world)]
    assert shared == [stream.sample(index) for index in range(32, 40)]


def test_repeats_follow_each_other_decode_once_and_are_augmented_apart():
    four = Plan(rows=10, repeats=4).slice(0, 4)
    assert len({one.row for one in four}) == len({one.decode_key for one in four}) == 1
    assert len({one.key for one in four}) == 4


def test_the_stream_goes_on_into_the_next_epoch_without_dropping_any():
    stream = Plan(rows=5)
    seen = [stream.sample(index) for index in range(10)]
    assert [one.epoch for one in seen] == [0] * 5 + [1] * 5
    assert sorted(one.row for one in seen[5:]) == list(range(5))
    assert len({one.key for one in seen}) == 10


@pytest.mark.parametrize(("epochs", "steps"), [(1, 4), (2, 7), (0.5, 2), (0.01, 1)])
def test_steps_cover_the_epochs(epochs: float, steps: int):
    assert Plan(rows=7, repeats=2).num_steps(epochs, 4) == steps


def test_an_index_beyond_the_epoch_is_refused():
    with pytest.raises(IndexError):
        plan(5, 0, 0)[5]
    assert plan(5, 0, 0)[-1] == plan(5, 0, 0)[4]


def test_a_hundred_million_rows_need_no_list():
    tracemalloc.start()
    found = Plan(rows=10**8, seed=5, repeats=2).slice(step=10**6, batch=256)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert len({one.row for one in found}) == 128
    assert 10**7 < sum(one.row for one in found) / 256 < 9 * 10**7
