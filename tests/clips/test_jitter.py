"""Colour jitter: what is drawn, and that a clip's own key alone decides on it."""

import numpy as np
import torch

from marey.clips.jitter import JitterConfig, draw, jitter
from marey.clips.plan import rng_of


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_factors_are_drawn_around_one_and_come_in_any_order():
    config = JitterConfig(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    drawn = [draw(config, rng_of(key, 6)) for key in range(300)]
    assert len({tuple(one.name for one in each) for each in drawn}) == 24
    for name, middle, far in (("brightness", 1, 0.4), ("contrast", 1, 0.3), ("color", 1, 0.2), ("hue", 0, 0.1)):
        levels = [one.level for each in drawn for one in each if one.name == name]
        assert np.isclose([min(levels), max(levels)], [middle - far, middle + far], atol=0.05 * far).all()
    only = draw(JitterConfig(contrast=0.5), rng_of(3, 6))
    assert [one.name for one in only] == ["contrast"]


def test_draws_follow_the_keys_alone_and_are_one_for_all_frames():
    config = JitterConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)
    clip, keys = pixels(), torch.tensor([5, 6, 7])
    clip[:, :, 1] = clip[:, :, 0]
    whole = jitter(clip, keys, config)
    assert torch.equal(whole[1:2], jitter(clip[1:2], keys[1:2], config))
    assert torch.equal(whole[:, :, 0], whole[:, :, 1])
    assert not torch.equal(whole, jitter(clip, keys + 10, config))


def test_nothing_is_done_by_default_and_the_asked_share_turns_grey():
    clip = pixels()
    assert jitter(clip, torch.tensor([1, 2, 3]), JitterConfig()) is clip
    many, keys = clip[:1].expand(300, -1, -1, -1, -1), torch.arange(300)
    made = jitter(many, keys, JitterConfig(grey=0.3))
    assert 60 < int((made[:, 0] == made[:, 1]).all(-1).all(-1).all(-1).sum()) < 120
