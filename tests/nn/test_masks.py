"""Masks: the published ones bit for bit, their counts, and equal use of every position."""

import numpy as np
import pytest
import torch

from golden.records import read
from golden.rule import to_mask
from marey.nn import masks
from marey.nn.tubelet import Grid

DRAW = {
    "TubeMaskingGenerator": masks.tube,
    "RunningCellMaskingGenerator": masks.running_cell,
    "RandomMaskingGenerator": masks.random,
}
RECORDS = read("videomae_v2_masks")["masks"]


@pytest.mark.parametrize("name", RECORDS)
def test_equals_the_published_masks(name: str):
    record = RECORDS[name]
    rng = np.random.RandomState(record["numpy_seed"])
    for expected in record["calls"]:
        found = DRAW[record["generator"]](Grid(*record["grid"]), record["ratio"], rng)
        assert found.tolist() == to_mask(expected)[0].tolist()


def test_tube_hides_the_same_places_in_every_slot():
    mask = masks.tube(Grid(8, 14, 14), 0.9, np.random.default_rng(0)).reshape(8, 196)
    assert (mask == mask[0]).all()
    assert mask[0].sum() == int(0.9 * 196)


def test_random_hides_its_share_of_all_tokens():
    mask = masks.random(Grid(2, 4, 5), 0.75, np.random.default_rng(0)).reshape(2, 20)
    assert mask.sum() == 30
    assert (mask[0] != mask[1]).any()


@pytest.mark.parametrize(("ratio", "decoded"), [(0.25, 3), (0.5, 2), (0.75, 1)])
def test_running_cell_decodes_every_position_equally_often_over_four_slots(ratio: float, decoded: int):
    skip = masks.running_cell(Grid(8, 6, 10), ratio, np.random.default_rng(1)).reshape(2, 4, 60)
    assert ((~skip).sum(1) == decoded).all()


@pytest.mark.parametrize("rng", [np.random.default_rng(0), np.random.RandomState(0)], ids=["Generator", "RandomState"])
def test_running_cell_starts_at_each_of_four_places(rng):
    starts = {masks.running_cell(Grid(1, 2, 2), 0.75, rng).tobytes() for _ in range(60)}
    assert len(starts) == 4


def test_running_cell_covers_odd_grids():
    assert masks.running_cell(Grid(4, 7, 5), 0.5, np.random.default_rng(0)).shape == (140,)


def test_generators_are_taken_as_they_are():
    rng = np.random.default_rng(3)
    assert masks.as_rng(rng) is rng


def test_a_torch_generator_decides_the_draw():
    def drawn(seed: int) -> int:
        return int(masks.as_rng(torch.Generator().manual_seed(seed)).integers(2**60))

    assert drawn(0) == drawn(0) != drawn(1)


def test_no_generator_follows_torchs_global_seed():
    torch.manual_seed(5)
    first = masks.as_rng(None).integers(2**60)
    second = masks.as_rng(None).integers(2**60)
    torch.manual_seed(5)
    assert first == masks.as_rng(None).integers(2**60) != second


def test_indices_are_those_of_the_true_entries_in_order():
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert masks.indices(mask).tolist() == [[0, 2], [2, 3]]


def test_indices_refuse_clips_of_different_counts():
    with pytest.raises(ValueError, match="equally many tokens, got 1 to 2"):
        masks.indices(torch.tensor([[True, False], [True, True]]))
