"""Frames of a clip, and crops of frames."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from marey.clips.augment import AugmentConfig, Box, apply_box, draw_box, draw_flip, mirrored
from marey.clips.sample import SamplingConfig, sample, view
from marey.config import validate
from marey.errors import ConfigError

RNG = np.random.default_rng


DENSE = SamplingConfig(stride=4)


def row(frames: int, fps: float = 30.0, keyframes: list[int] | None = None) -> SimpleNamespace:
    return SimpleNamespace(num_frames=frames, fps=fps, keyframes=keyframes)


def test_frames_are_a_stride_apart_from_a_random_start():
    drawn = [sample(row(100), RNG(seed), 16, DENSE) for seed in range(200)]
    assert all((np.diff(one) == 4).all() for one in drawn)
    starts = {int(one[0]) for one in drawn}
    assert min(starts) == 0
    assert max(starts) == 39
    assert len(starts) > 30


def test_a_clip_may_start_at_keyframes_alone():
    aligned = DENSE.replace(start="keyframe")
    long = row(100, keyframes=list(range(0, 100, 16)))
    drawn = [sample(long, RNG(seed), 16, aligned) for seed in range(100)]
    assert all((np.diff(one) == 4).all() for one in drawn)
    assert {int(one[0]) for one in drawn} == {0, 16, 32}  # a clip spans 61 frames
    assert np.array_equal(sample(long, RNG(1), 16, aligned), sample(long, RNG(1), 16, aligned))
    # Without keyframes, or where no clip fits behind one, a clip starts as any other.
    for keyframes in (None, [], [90]):
        found = sample(row(100, keyframes=keyframes), RNG(5), 16, aligned)
        assert np.array_equal(found, sample(row(100), RNG(5), 16, DENSE))
    with pytest.raises(ConfigError, match="start=keyframe has no meaning for kind=segments"):
        validate(SamplingConfig, {"kind": "segments", "start": "keyframe"})


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 30, 61])
def test_a_short_row_is_spread_over_all_of_it(frames: int):
    indices = sample(row(frames), RNG(0), 16, DENSE)
    assert len(indices) == 16
    assert indices[0] == 0
    assert indices[-1] == min(frames - 1, 60)
    assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize("frames", [3, 16, 40, 60])
def test_a_short_row_is_spread_evenly(frames: int):
    indices = sample(row(frames), RNG(0), 16, DENSE)
    even = np.linspace(0, frames - 1, 16)
    assert (even - indices >= -1e-6).all()
    assert (even - indices < 1).all()


@pytest.mark.parametrize(
    ("setting", "step"), [({"fps": 7.5}, 4), ({"duration": 32 / 15}, 4), ({"stride": 2.5}, 2.5), ({}, 4)]
)
def test_rate_duration_and_stride_are_three_ways_to_say_one_distance(setting, step):
    indices = sample(row(100), RNG(3), 16, SamplingConfig(**setting))
    start = indices[0]
    assert np.abs(indices - start - step * np.arange(16)).max() < 1
    assert view(row(100), 16, SamplingConfig(**setting), 0, 2)[0] == 0


def test_segments_draw_a_frame_of_each_equal_part():
    drawn = np.array([sample(row(80), RNG(seed), 8, SamplingConfig(kind="segments")) for seed in range(300)])
    places = drawn - np.arange(8) * 10
    assert {(int(one.min()), int(one.max())) for one in places.T} == {(0, 9)}
    assert abs(np.corrcoef(places[:, 0], places[:, 1])[0, 1]) < 0.2


def test_uniform_clips_are_evenly_spaced_over_the_whole_row():
    drawn = np.array([sample(row(80), RNG(seed), 8, SamplingConfig(kind="uniform")) for seed in range(300)])
    assert (np.diff(drawn, axis=1) == 10).all()
    assert set(drawn[:, 0]) == set(range(10))


@pytest.mark.parametrize("kind", ["segments", "uniform"])
def test_views_of_spread_clips_take_other_places_of_the_same_parts(kind):
    config = SamplingConfig(kind=kind)
    assert view(row(80), 8, config, 0, 1).tolist() == list(range(5, 80, 10))
    assert [int(view(row(80), 8, config, place, 5)[0]) for place in range(5)] == [1, 3, 5, 7, 9]
    assert view(row(3), 8, config, 0, 1).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_two_ways_to_say_a_distance_or_one_that_means_nothing_are_refused():
    with pytest.raises(ConfigError, match="stride=2 and fps=8 are both given; keep one"):
        validate(SamplingConfig, {"stride": 2, "fps": 8})
    with pytest.raises(ConfigError, match="duration=2 has no meaning for kind=segments"):
        validate(SamplingConfig, {"kind": "segments", "duration": 2})


@pytest.mark.parametrize("kind", ["multi_scale", "random_resized", "center"])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (20, 200), (33, 17)])
def test_crops_lie_within_the_frame(kind, size):
    config = AugmentConfig(crop=kind)
    for seed in range(200):
        box = draw_box(config, *size, RNG(seed))
        assert box.height >= 1
        assert box.width >= 1
        assert 0 <= box.top <= size[0] - box.height
        assert 0 <= box.left <= size[1] - box.width


def test_random_resized_crops_have_the_asked_share_of_the_area():
    config = AugmentConfig(crop="random_resized", scale=(0.3, 0.6))
    shares = [(b.height * b.width) / 6400 for b in (draw_box(config, 80, 80, RNG(seed)) for seed in range(300))]
    assert min(shares) > 0.28
    assert max(shares) < 0.62
    assert np.mean(shares) == pytest.approx(0.45, abs=0.03)


def test_a_box_of_the_right_size_is_cut_out_as_it_is_and_flipped():
    frames = RNG(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    cut = apply_box(frames, Box(2, 4, 16, 16), 16)
    assert torch.equal(cut, torch.from_numpy(frames[:, 2:18, 4:20]))
    assert torch.equal(apply_box(frames, Box(2, 4, 16, 16, flip=True), 16), cut.flip(2))


def test_resizing_is_bilinear():
    frames = RNG(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(), size=(24, 24), mode="bilinear", antialias=True
    )
    made = apply_box(frames, Box(0, 0, 12, 12), 24)
    assert made.dtype == torch.uint8
    assert (made.permute(0, 3, 1, 2).float() - exact).abs().max() <= 1


def test_flips_come_as_often_as_asked():
    config = AugmentConfig(flip=0.3)
    flips = [draw_flip(config, RNG(seed)) for seed in range(1000)]
    assert np.mean(flips) == pytest.approx(0.3, abs=0.05)


def test_mirror_images_are_found_by_name_and_typos_are_told():
    names = ["jump", "left to right", "right to left"]
    pair = ("left to right", "right to left")
    assert mirrored(AugmentConfig(flip_classes=(pair,)), names) == {1: 2, 2: 1}
    with pytest.raises(ConfigError, match="no class 'rigth to left'; did you mean 'right to left'"):
        mirrored(AugmentConfig(flip_classes=(("left to right", "rigth to left"),)), names)
    with pytest.raises(ConfigError, match="'left to right' is named twice"):
        mirrored(AugmentConfig(flip_classes=(pair, ("jump", "left to right"))), names)


def test_shrinking_averages_what_it_leaves_out():
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, ::4] = 200  # between the places where an interpolation without averaging would look
    made = apply_box(stripes, Box(0, 0, 32, 32), 8)[0, 1:-1].float()
    assert (made - 50).abs().max() < 15


def test_multi_scale_takes_neighbouring_scales_of_the_shorter_side_at_corners_and_centre():
    boxes = [draw_box(AugmentConfig(), 100, 140, RNG(seed)) for seed in range(2000)]
    scales = [100, 88, 75, 66]
    pairs = {(scales.index(box.height), scales.index(box.width)) for box in boxes}
    assert pairs == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    places = {
        (box.top * 2 // (100 - box.height), box.left * 2 // (140 - box.width)) for box in boxes if box.height < 80
    }
    assert {(0, 0), (0, 2), (2, 0), (2, 2)} < places
    assert len(places) <= 5 + 2
