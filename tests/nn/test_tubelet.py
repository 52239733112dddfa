"""Tubelet embedding equals the published convolution, and embeds only what it is asked for."""

import pytest
import torch
from torch.nn import functional

from marey.nn.tubelet import Grid, TubeletEmbed, cut, gather_tokens, grid_of

TUBELET = (2, 4, 8)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randn(2, 3, 4, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def embed() -> TubeletEmbed:
    torch.manual_seed(1)
    return TubeletEmbed(3, 10, TUBELET).double()


def test_equals_a_convolution_whose_stride_is_its_kernel(embed, clip):
    expected = functional.conv3d(clip, embed.proj.weight, embed.proj.bias, stride=TUBELET).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(clip), expected)


def test_the_weight_is_the_convolutions(embed):
    assert embed.proj.weight.shape == (10, 3, *TUBELET)


def test_keep_gives_each_clip_its_own_tokens(embed, clip):
    keep = torch.tensor([[0, 5, 11], [2, 3, 4]])
    whole = embed(clip)
    torch.testing.assert_close(embed(clip, keep), torch.stack([whole[0, keep[0]], whole[1, keep[1]]]))


def test_keep_computes_only_those(embed, clip):
    seen = []
    embed.proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    embed(clip, torch.tensor([[0], [7]]))
    assert seen == [(2, 1, 3 * 2 * 4 * 8)]


def test_cubes_are_in_time_height_width_order(clip):
    cubes = cut(clip, TUBELET)
    # Grid 2 x 3 x 2: cube 9 is slot 1, row 1, column 1.
    assert torch.equal(cubes[1, 9], clip[1, :, 2:4, 4:8, 8:16].flatten())


def test_gathering_keeps_the_other_axes():
    tokens = torch.arange(24).view(2, 3, 2, 2).float()
    indices = torch.tensor([[2, 0], [1, 1]])
    expected = torch.stack([tokens[0, indices[0]], tokens[1, indices[1]]])
    assert torch.equal(gather_tokens(tokens, indices), expected)


def test_grid_counts_tokens():
    grid = grid_of((16, 224, 224), (2, 16, 16))
    assert grid == Grid(8, 14, 14)
    assert (grid.slot, grid.tokens) == (196, 1568)


@pytest.mark.parametrize(
    ("clip_size", "axis"), [((15, 32, 32), "frames = 15"), ((16, 30, 32), "height = 30"), ((16, 32, 8), "width = 8")]
)
def test_a_clip_that_does_not_divide_is_refused(clip_size, axis: str):
    with pytest.raises(ValueError, match=f"{axis} is not a multiple"):
        grid_of(clip_size, (2, 16, 16))
