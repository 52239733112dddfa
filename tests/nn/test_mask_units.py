"""The order of tokens in mask units, against the published one."""

import json

import pytest
import torch

from golden.records import FOLDER
from golden.rule import difference, draw_input
from marey.nn.mask_units import hide_pixels, keep_units, reroll, unit_maps, unroll
from marey.nn.tubelet import Grid


@pytest.mark.parametrize("record", ["hiera_unroll_2d", "hiera_unroll_3d"])
def test_the_order_is_the_published_one_before_and_after_each_pooling(record):
    content = json.loads((FOLDER / f"{record}.json").read_text())
    stride, size = content["patch_stride"], content["input_size"]
    grid = Grid(*([1] * (3 - len(size))), *(a // b for a, b in zip(size, stride, strict=True)))
    units = Grid(grid.t, grid.h // 8, grid.w // 8)
    x = unroll(draw_input("tokens", content["inputs"]["tokens"]), grid)
    for poolings in range(4):
        if poolings:
            x = x.unflatten(1, (4, -1)).amax(1)
        flat = "unrolled" if poolings == 0 else f"pooled{poolings}"
        assert difference(x.flatten(1, 2), content["outputs"][flat]) < 1e-6
        spatial = content["outputs"][f"rerolled{poolings}"]
        assert difference(reroll(x, units).view(spatial["shape"]), spatial) < 1e-6


def test_a_unit_as_a_map_is_its_square_of_the_clip():
    grid = Grid(2, 16, 24)
    tokens = torch.arange(grid.tokens).float().view(1, -1, 1)
    maps = unit_maps(unroll(tokens, grid))
    whole = tokens.view(2, 16, 24)
    assert torch.equal(maps[0, 0], whole[0, :8, :8])
    assert torch.equal(maps[5, 0], whole[0, 8:, 16:])
    kept = keep_units(unroll(tokens, grid), torch.tensor([[5, 11]]))
    assert torch.equal(unit_maps(kept)[0, 0], whole[0, 8:, 16:])
    assert torch.equal(unit_maps(kept)[1, 0], whole[1, 8:, 16:])


def test_hidden_units_lose_their_pixels_and_no_others():
    clip = torch.ones(1, 3, 4, 64, 64)
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 5] = True  # second slot, first row, second column
    hidden = hide_pixels(clip, mask, Grid(2, 2, 2)) == 0
    assert hidden[0, 0, 2:, :32, 32:].all()
    assert int(hidden.sum()) == 3 * 2 * 32 * 32
