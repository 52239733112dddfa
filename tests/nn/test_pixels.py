"""Pixels in and out of the range that models see."""

import pytest
import torch

from marey.nn.pixels import MEAN, STD, denormalise, normalise


def test_channels_get_imagenets_mean_and_deviation():
    clip = torch.full((1, 3, 2, 2, 2), 128, dtype=torch.uint8)
    found = normalise(clip)[0, :, 0, 0, 0].tolist()
    assert found == pytest.approx([(128 / 255 - mean) / std for mean, std in zip(MEAN, STD, strict=True)], abs=1e-6)


def test_uint8_and_float_pixels_mean_the_same():
    clip = torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(normalise(clip), normalise(clip.float()))


def test_the_input_is_left_alone():
    clip = torch.rand(1, 3, 2, 2, 2) * 255
    before = clip.clone()
    normalise(clip)
    assert torch.equal(clip, before)


def test_every_uint8_value_survives_the_round_trip():
    values = torch.arange(256, dtype=torch.uint8)
    clip = torch.stack([values, values.flip(0), values.roll(100)]).view(1, 3, 1, 16, 16)
    assert torch.equal(denormalise(normalise(clip)).mul(255).round().byte(), clip)


def test_the_channels_may_be_on_any_axis():
    pixels = torch.randn(2, 3, 4, 5, 5)
    assert torch.equal(denormalise(pixels.movedim(1, -1), channel=-1), denormalise(pixels).movedim(1, -1))


def test_other_channel_counts_are_centred_at_a_half():
    flow = torch.rand(1, 2, 2, 4, 4) * 255
    torch.testing.assert_close(normalise(flow), (flow / 255 - 0.5) / 0.5)
    torch.testing.assert_close(denormalise(normalise(flow)) * 255, flow)
