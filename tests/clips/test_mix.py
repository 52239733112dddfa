"""Mixup and CutMix: who is mixed with whom, and in which shares."""

import pytest
import torch

from marey.clips.mix import MixConfig, mix, partners

KEYS = torch.arange(8) * 7919 + 3
BOTH = MixConfig(mixup=0.8, cutmix=1.0)


@pytest.fixture
def clips():
    values = torch.arange(8.0).view(8, 1, 1, 1, 1).expand(8, 3, 2, 12, 16)
    return values.clone(), torch.eye(8)


def test_partners_are_neighbours_and_repeats_of_a_row_are_never_partners():
    assert partners(4).tolist() == [1, 0, 3, 2]
    assert partners(8, repeats=2).tolist() == [2, 3, 0, 1, 6, 7, 4, 5]
    with pytest.raises(ValueError, match="multiple of 2 × 2 repeats"):
        partners(6, repeats=2)


@pytest.mark.parametrize("config", [MixConfig(mixup=0.8), MixConfig(cutmix=1.0), BOTH])
def test_targets_have_the_shares_of_the_pixels(clips, config):
    clip, targets = clips
    mixed, shares = mix(clip, targets, KEYS, config)
    assert torch.allclose(shares.sum(1), torch.ones(8))
    values = torch.arange(8.0)
    expected = (shares * values).sum(1)  # a clip's pixels all have its number as value
    assert torch.allclose(mixed.mean((1, 2, 3, 4)), expected, atol=1e-5)
    assert not torch.equal(mixed, clip)


def test_both_of_a_pair_mirror_each_other(clips):
    _, shares = mix(*clips, KEYS, BOTH)
    for one, other in enumerate(partners(8).tolist()):
        assert shares[one, one] == pytest.approx(float(shares[other, other]))


def test_the_result_does_not_depend_on_how_a_batch_is_cut(clips):
    clip, targets = clips
    whole = mix(clip, targets, KEYS, BOTH, repeats=2)
    halves = [mix(clip[part], targets[part], KEYS[part], BOTH, repeats=2) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole[0], torch.cat([half[0] for half in halves]))
    assert torch.equal(whole[1], torch.cat([half[1] for half in halves]))


def test_cutmix_cuts_one_box_for_all_frames(clips):
    mixed, _ = mix(*clips, KEYS, MixConfig(cutmix=1.0))
    assert torch.equal(mixed[:, :, :1].expand_as(mixed), mixed)
    assert all(len(one.unique()) <= 2 for one in mixed)


def test_nothing_happens_where_it_is_off(clips):
    for config in (MixConfig(), MixConfig(mixup=0.8, probability=0.0)):
        mixed, targets = mix(*clips, KEYS, config)
        assert mixed is clips[0]
        assert targets is clips[1]
    some, _ = mix(*clips, KEYS, MixConfig(mixup=0.8, probability=0.5))
    kept = [torch.equal(a, b) for a, b in zip(some, clips[0], strict=True)]
    assert any(kept)
    assert not all(kept)
