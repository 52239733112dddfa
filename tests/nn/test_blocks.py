"""Building blocks against what they stand for, written out."""

import math

import pytest
import torch
from torch import nn

from marey.nn.attention import Attention
from marey.nn.droppath import DropPath, rates, set_keys, uniform
from marey.nn.pixels import MEAN, STD, denormalise, normalise
from marey.nn.position import sincos_table
from marey.nn.tubelet import TubeletEmbed, grid_of


def test_attention_is_softmax_of_scaled_products_without_a_key_bias():
    torch.manual_seed(0)
    layer, x = Attention(16, 4), torch.randn(2, 5, 16)
    nn.init.normal_(layer.q_bias)
    nn.init.normal_(layer.v_bias)
    bias = torch.cat([layer.q_bias, torch.zeros(16), layer.v_bias])
    q, k, v = (x @ layer.qkv.weight.T + bias).view(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(4)).softmax(-1)
    expected = layer.proj((weights @ v).transpose(1, 2).reshape(2, 5, 16))
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_tubelets_are_a_convolution_whose_stride_is_its_kernel():
    torch.manual_seed(0)
    embed, clip = TubeletEmbed(3, 8, (2, 4, 4)), torch.randn(2, 3, 4, 8, 12)
    proj = embed.proj
    expected = nn.functional.conv3d(clip, proj.weight, proj.bias, stride=(2, 4, 4)).flatten(2).transpose(1, 2)
    assert torch.allclose(embed(clip), expected, atol=1e-5)
    keep = torch.tensor([[0, 5], [3, 11]])
    assert torch.allclose(embed(clip, keep), torch.stack([expected[i][keep[i]] for i in range(2)]), atol=1e-5)


def test_a_clip_that_does_not_divide_is_refused_by_its_axis():
    with pytest.raises(ValueError, match="height = 30"):
        grid_of((16, 30, 32), (2, 16, 16))


def test_positions_are_sines_on_even_and_cosines_on_odd_channels():
    table = sincos_table(7, 6)[0]
    for n in range(7):
        for i in range(6):
            angle = n / 10000 ** (2 * (i // 2) / 6)
            assert table[n, i].item() == pytest.approx(math.sin(angle) if i % 2 == 0 else math.cos(angle), abs=1e-6)


def test_pixels_are_normalised_and_back():
    clip = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    normal = normalise(clip)
    by_hand = (clip[:, 1].float() / 255 - MEAN[1]) / STD[1]
    assert torch.allclose(normal[:, 1], by_hand, atol=1e-5)
    assert torch.allclose(denormalise(normal) * 255, clip.float(), atol=1e-3)
    assert torch.allclose(denormalise(normal.movedim(1, -1), -1), denormalise(normal).movedim(1, -1))


def split_mix(key: int, stream: int) -> float:
    """The same mixing in Python's whole numbers."""
    wrap = (1 << 64) - 1
    z = (key + (stream + 1) * -7046029254386353131) & wrap
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & wrap
    z ^= z >> 31
    return (z >> 11) * 2.0**-53


def test_drop_path_draws_from_the_key_alone():
    keys = torch.tensor([0, 1, 123456789012345678])
    assert uniform(keys, 3).tolist() == pytest.approx([split_mix(key, 3) for key in keys.tolist()])
    many = uniform(torch.arange(20000), 0)
    assert many.mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(many[:100], uniform(torch.arange(100), 0))


def test_drop_path_zeroes_whole_clips_and_keeps_the_mean():
    layer = DropPath(0.25, layer=2).train()
    set_keys(layer, torch.arange(4000))
    out = layer(torch.ones(4000, 3))
    assert sorted(set(out[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert (out == out[:, :1]).all()
    assert (out[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(layer.eval()(torch.ones(4000, 3)), torch.ones(4000, 3))


def test_rates_grow_linearly_from_zero():
    assert rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0]
