"""The grid of evaluation views: each once, in an order that any number of workers can share out."""

import numpy as np
import pytest

from marey.clips.augment import view_box
from marey.clips.plan import EvaluationPlan
from marey.clips.sample import SamplingConfig, view
from marey.errors import ClipError


def test_every_view_of_every_row_comes_once_and_then_padding():
    plan = EvaluationPlan(5, temporal=2, spatial=3)
    samples = [plan.sample(index) for index in range(plan.epoch_length)]
    assert [(one.row, one.view) for one in samples] == [(row, place) for row in range(5) for place in range(6)]
    assert [one.key for one in samples] == list(range(30))
    padding = plan.sample(31)
    assert (padding.row, padding.view, padding.key) == (0, 1, 31)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_the_views_without_gap_or_overlap(world):
    plan, micro = EvaluationPlan(7, temporal=2), 2
    steps = -(-plan.epoch_length // (world * micro))
    shares = [plan.slice(step, world * micro, rank, world) for rank in range(world) for step in range(steps)]
    keys = [one.key for share in shares for one in share]
    assert sorted(keys)[: plan.epoch_length] == list(range(14))
    assert len(keys) == len(set(keys))


def test_crops_of_one_moment_are_decoded_together():
    plan = EvaluationPlan(2, temporal=2, spatial=3)
    keys = [plan.sample(index).decode_key for index in range(12)]
    assert keys == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_moments_are_spread_from_the_rows_start_to_its_end(table):
    [row] = table.read([0])
    last = row.num_frames - 1
    first, middle, end = (view(row, 4, SamplingConfig(stride=2), place, 3) for place in range(3))
    assert first.tolist() == [0, 2, 4, 6]
    assert end.tolist() == [last - 6, last - 4, last - 2, last]
    assert np.array_equal(view(row, 4, SamplingConfig(stride=2), 0, 1), middle)


def test_crops_are_squares_along_the_longer_side():
    lefts = [view_box(100, 180, place, 3).left for place in range(3)]
    assert lefts == [0, 40, 80]
    assert view_box(180, 100, 2, 3)[:4] == (80, 0, 100, 100)
    assert view_box(100, 180, 0, 1)[:4] == (0, 40, 100, 100)


def test_ten_crops_are_corners_and_centre_and_their_mirror_images():
    boxes = [view_box(256, 320, place, 10) for place in range(10)]
    assert [box[:4] for box in boxes[:5]] == [
        (0, 0, 224, 224), (0, 96, 224, 224), (32, 0, 224, 224), (32, 96, 224, 224), (16, 48, 224, 224),
    ]  # fmt: skip
    assert [box[:4] for box in boxes[:5]] == [box[:4] for box in boxes[5:]]
    assert [box.flip for box in boxes] == [False] * 5 + [True] * 5


def test_a_split_is_the_rows_that_name_it(labelled):
    sizes = {name: len(labelled.split(name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 32, "validation": 8, "test": 8}
    chosen = labelled.split("test")
    assert set(chosen.column("split")) == {"test"}
    assert [row.source_id for row in chosen.read(range(8))] == chosen.column("source_id")
    assert chosen.class_names() == labelled.class_names()
    assert chosen.fingerprint == labelled.fingerprint
    with pytest.raises(ClipError, match=r"no rows of split 'testing'; it has the splits test, train, validation"):
        labelled.split("testing")


def test_a_table_without_labels_says_how_to_get_them(table):
    with pytest.raises(ClipError, match="no labels"):
        table.class_names()
    with pytest.raises(ClipError, match="its rows name no split"):
        table.split("train")
