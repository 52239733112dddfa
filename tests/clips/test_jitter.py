"""Colour jitter: each operation against Pillow's or colorsys, and the draws."""

import colorsys

import numpy as np
import torch
from PIL import Image, ImageEnhance

from marey.clips import color
from marey.clips.jitter import JitterConfig, jitter


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 2, 8, 8), generator=torch.Generator().manual_seed(0)).float()


def level(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1, 1), value)


def test_hue_is_the_one_of_hsv():
    clip = pixels()
    turned = color.hue(clip, level(0.3))
    for one, other in zip(clip.movedim(1, -1).reshape(-1, 3), turned.movedim(1, -1).reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(one / 255).tolist())
        assert np.allclose(colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value), other / 255, atol=1e-4)
    assert torch.allclose(color.hue(clip, level(0.0)), clip, atol=1e-3)


def test_saturation_and_brightness_are_pillows():
    clip = pixels()
    picture = Image.fromarray(clip[0, :, 0].permute(1, 2, 0).byte().numpy())
    for ours, theirs in ((color.saturation, ImageEnhance.Color), (color.brightness, ImageEnhance.Brightness)):
        made = ours(clip, level(0.6))[0, :, 0].permute(1, 2, 0).numpy()
        assert np.abs(made - np.asarray(theirs(picture).enhance(0.6))).max() <= 1.5


def test_draws_follow_the_keys_alone_and_are_one_for_all_frames():
    config = JitterConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)
    clip, keys = pixels(), torch.tensor([5, 6, 7])
    clip[:, :, 1] = clip[:, :, 0]
    whole = jitter(clip, keys, config)
    assert torch.equal(whole[1:2], jitter(clip[1:2], keys[1:2], config))
    assert torch.allclose(whole[:, :, 0], whole[:, :, 1])
    assert not torch.equal(whole, jitter(clip, keys + 10, config))
    assert 0 <= whole.min() <= whole.max() <= 255


def test_nothing_is_done_by_default_and_the_asked_share_turns_grey():
    clip = pixels()
    assert jitter(clip, torch.tensor([1, 2, 3]), JitterConfig()) is clip
    many, keys = clip[:1].expand(300, -1, -1, -1, -1), torch.arange(300)
    made = jitter(many, keys, JitterConfig(grey=0.3))
    assert 60 < int(((made[:, 0] - made[:, 1]).abs().amax((1, 2, 3)) < 1e-3).sum()) < 120
