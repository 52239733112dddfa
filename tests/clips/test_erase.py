"""Random erasing."""

import pytest
import torch

from marey.clips.erase import EraseConfig, erase
from marey.config import validate
from marey.errors import ConfigError

KEYS = torch.arange(64) * 104729 + 1


def test_a_share_of_the_clips_loses_one_box_of_noise_over_all_frames():
    clip = torch.zeros(64, 3, 4, 32, 32)
    done = erase(clip, KEYS, EraseConfig(probability=0.5))
    erased = (done != 0).flatten(1).any(1)
    assert 0.3 < erased.float().mean() < 0.7
    for one in done[erased]:
        where = one != 0
        assert torch.equal(where, where[:1, :1].expand_as(where))
        rows, columns = where[0, 0].any(1), where[0, 0].any(0)
        assert int(where[0, 0].sum()) == int(rows.sum()) * int(columns.sum())
        assert 0.01 < where[0, 0].float().mean() < 0.4
    assert done[erased][done[erased] != 0].std() == pytest.approx(1, abs=0.05)


def test_it_follows_the_clips_own_key():
    clip, config = torch.zeros(64, 3, 2, 16, 16), EraseConfig(probability=1.0)
    assert torch.equal(erase(clip.clone(), KEYS, config)[8:16], erase(clip[8:16].clone(), KEYS[8:16], config))
    assert erase(clip, KEYS, EraseConfig()) is clip


def test_a_range_in_the_wrong_order_is_refused():
    with pytest.raises(ConfigError, match="the smaller one first"):
        validate(EraseConfig, {"probability": 0.25, "area": [0.5, 0.1]})
