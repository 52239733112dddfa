"""Each operation and sequences of them against Pillow's, in batches and on devices."""

import colorsys
from itertools import pairwise

import numpy as np
import pytest
import torch

from clips.pillow_peer import as_clip, in_turn, smooth_picture
from marey.bench.augment_pillow import OPERATIONS
from marey.clips.operations import Operation, apply
from marey.clips.plan import rng_of
from marey.clips.pointwise import FIXED, MEASURED
from marey.clips.randaugment import LEVELS, RandAugmentConfig, draw
from marey.clips.warp import MOTIONS

GRAINY, SMOOTH = smooth_picture(), smooth_picture(grain=0)


def ours(picture, operations) -> np.ndarray:
    return apply(as_clip(picture), [tuple(operations)])[0, :, 0].permute(1, 2, 0).numpy()


def apart(picture, operations) -> np.ndarray:
    """Grey levels between ours and Pillow's, [H, W, C]."""
    return np.abs(ours(picture, operations).astype(int) - in_turn(picture, operations).astype(int))


def sequences(names, seed: int, count: int, longest: int = 5) -> list[tuple[Operation, ...]]:
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(list(names), rng.integers(2, longest + 1)).tolist() for _ in range(count)]
    signs = rng.choice([-1.0, 1.0], count)
    return [
        tuple(Operation(name, LEVELS[name](rng.uniform(0.1, 0.9), sign)) for name in each)
        for each, sign in zip(chosen, signs, strict=True)
    ]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("magnitude", [0.1, 0.65])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name, magnitude, sign):
    operation = Operation(name, LEVELS[name](magnitude, sign))
    difference = apart(GRAINY, [operation])
    if name in MOTIONS:  # Pillow's places are doubles
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    else:
        assert difference.max() == 0
    if name != "solarize" or magnitude > 0.5:
        assert np.abs(ours(GRAINY, [operation]).astype(int) - np.asarray(GRAINY)).max() > 1, "it must do something"


@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_of_pointwise_operations_is_pillows(seed):
    # What is measured of a frame is measured after the operations before it. A mean that is half way between two whole
    # numbers may be rounded to the other one, by which alone they may differ.
    found = [apart(GRAINY, each).max() for each in sequences([*FIXED, *MEASURED], seed, 25)]
    assert np.mean(np.array(found) == 0) >= 0.9
    exact = [apart(GRAINY, each).max() for each in sequences([*FIXED, "equalize", "autocontrast"], seed, 25)]
    assert max(exact) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_without_neighbouring_warps_is_pillows(seed):
    drawn = [
        each
        for each in sequences(OPERATIONS, seed, 60)
        if not any(one.name in MOTIONS and other.name in MOTIONS for one, other in pairwise(each))
    ]
    found = [apart(GRAINY, each) for each in drawn]
    assert len(found) > 20
    assert np.mean([(each > 2).mean() for each in found]) < 0.005
    assert np.mean([each.mean() for each in found]) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_neighbouring_warps_are_pillows_but_for_its_blur(seed):
    for each in sequences(MOTIONS, seed, 15, longest=4):
        # At the rim of what is left Pillow interpolates with the grey of the warp before.
        difference = apart(SMOOTH, each)
        assert np.quantile(difference, 0.85) <= 3, each
        assert difference.mean() < 4, each


def test_what_comes_after_a_warp_also_changes_the_grey_that_it_left():
    for after in ("invert", "solarize_add", "brightness", "equalize", "color", "sharpness", "contrast"):
        operations = [Operation("translate_x", 0.25), Operation(after, LEVELS[after](0.6, 1.0))]
        assert apart(GRAINY, operations)[:, -14:].max() <= 1
    inverted = ours(GRAINY, [Operation("invert", 0), Operation("translate_x", 0.25)])
    assert (inverted[:, -16:] == 128).all()


def test_frames_are_measured_one_by_one_and_all_get_the_same_parameters():
    dark = GRAINY.point(lambda value: value // 3)
    drawn = (Operation("rotate", 12.0), Operation("equalize", 0), Operation("contrast", 1.6), Operation("color", 0.4))
    done = apply(as_clip(GRAINY, dark, GRAINY), [drawn])[0]
    assert torch.equal(done[:, 0], done[:, 2])
    for frame, picture in zip(done.unbind(1), (GRAINY, dark), strict=False):
        difference = np.abs(frame.permute(1, 2, 0).numpy().astype(int) - in_turn(picture, drawn))
        assert np.quantile(difference, 0.99) <= 2


def test_a_clip_is_the_same_whatever_is_beside_it_and_those_without_operations_stay():
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (12, 3, 6, 24, 32), dtype=torch.uint8, generator=generator)
    drawn = [draw(RandAugmentConfig(ops=4), rng_of(key, 2)) for key in range(12)]
    before = clips.clone()
    together = apply(clips, drawn)
    assert torch.equal(clips, before)
    for place, each in enumerate(drawn):
        assert torch.equal(together[place], apply(clips[place : place + 1], [each])[0])
        assert each or torch.equal(together[place], clips[place])
    # As clips come from the feed: their channels last in memory.
    last = clips.to(memory_format=torch.channels_last_3d)
    assert torch.equal(apply(last, drawn), together)


def test_autocast_changes_nothing():
    drawn = [
        (Operation("rotate", 17.0), Operation("sharpness", 1.7), Operation("color", 1.4), Operation("contrast", 0.5))
    ]
    with torch.autocast("cpu", torch.bfloat16):
        found = apply(as_clip(GRAINY), drawn)
    assert torch.equal(found, apply(as_clip(GRAINY), drawn))


def test_no_pixel_is_read_by_the_host():
    """Tensors without values do: a device would have to be waited for."""
    every = tuple(Operation(name, LEVELS[name](0.5, 1.0)) for name in LEVELS)
    drawn = [(*every, Operation("hue", 0.2), Operation("grey", 0)), (), (Operation("contrast", 0.5),)]
    clips = torch.zeros(3, 3, 4, 16, 16, dtype=torch.uint8, device="meta")
    found = apply(clips, drawn)
    assert (found.shape, found.dtype) == (clips.shape, torch.uint8)


@pytest.mark.parametrize("channels", [1, 2])
def test_clips_need_not_have_three_channels(channels):
    clips = torch.randint(0, 256, (1, channels, 2, 16, 16), dtype=torch.uint8)
    every = [Operation(name, LEVELS[name](0.5, 1.0)) for name in LEVELS]
    assert apply(clips, [(*every, Operation("hue", 0.2), Operation("grey", 0))]).shape == clips.shape


def test_hue_is_the_one_of_hsv_and_grey_is_pillows():
    turned = ours(GRAINY, [Operation("hue", 0.3)]) / 255
    for one, other in zip(np.asarray(GRAINY).reshape(-1, 3) / 255, turned.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*one.tolist())
        assert np.allclose(colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value), other, atol=0.502 / 255)
    grey = ours(GRAINY, [Operation("grey", 0)])
    assert (grey == np.asarray(GRAINY.convert("L"))[..., None]).all()
