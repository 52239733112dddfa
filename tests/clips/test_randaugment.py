"""Each operation against Pillow's, and the draws."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from marey.clips.plan import rng_of
from marey.clips.randaugment import LEVELS, Operation, RandAugmentConfig, apply, draw


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth shapes with noise: gradients, edges and texture."""
    y, x = np.mgrid[0:48, 0:64]
    rng = np.random.default_rng(0)
    channels = [40 + 2 * x, 200 - 3 * y, 90 + 60 * np.sin(x / 7) * np.cos(y / 5)]
    pixels = np.stack(channels, -1) + rng.normal(0, 6, (48, 64, 3))
    return Image.fromarray(pixels.clip(5, 240).astype(np.uint8))


def ours(picture: Image.Image, name: str, level: float) -> np.ndarray:
    clip = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None, :, None].float()
    return apply(clip, [(Operation(name, level),)])[0, :, 0].permute(1, 2, 0).numpy()


AFFINE = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}


def affine(numbers: tuple[float, ...]):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, numbers, **AFFINE)


SAME = {
    "autocontrast": (0.0, ImageOps.autocontrast),
    "equalize": (0.0, ImageOps.equalize),
    "invert": (0.0, ImageOps.invert),
    "posterize": (3, lambda image: ImageOps.posterize(image, 3)),
    "solarize": (100, lambda image: ImageOps.solarize(image, 100)),
    "color": (1.5, lambda image: ImageEnhance.Color(image).enhance(1.5)),
    "contrast": (0.4, lambda image: ImageEnhance.Contrast(image).enhance(0.4)),
    "brightness": (1.3, lambda image: ImageEnhance.Brightness(image).enhance(1.3)),
    "sharpness": (1.8, lambda image: ImageEnhance.Sharpness(image).enhance(1.8)),
    "rotate": (20.0, lambda image: image.rotate(20, **AFFINE)),
    "translate_x": (
        0.125,
        affine((1, 0, 8, 0, 1, 0)),
    ),
    "translate_y": (
        0.125,
        affine((1, 0, 0, 0, 1, 6)),
    ),
    "shear_x": (
        0.25,
        affine((1, 0.25, -6, 0, 1, 0)),
    ),
    "shear_y": (
        0.25,
        affine((1, 0, 0, 0.25, 1, -8)),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_an_operation_is_pillows(picture, name):
    level, theirs = SAME[name]
    found, expected = ours(picture, name, level), np.asarray(theirs(picture), np.float32)
    # Of 255: Pillow rounds each step to whole numbers, and does not interpolate towards the grey outside.
    assert np.quantile(np.abs(found - expected), 0.95) <= 2.0
    assert np.abs(expected - np.asarray(picture, np.float32)).mean() > 1, "the operation must do something"


def test_solarize_add_lightens_the_dark_half(picture):
    pixels = np.asarray(picture, np.float32)
    expected = np.where(pixels < 128, np.minimum(pixels + 60, 255), pixels)
    assert np.allclose(ours(picture, "solarize_add", 60), expected)


def test_all_frames_of_a_clip_get_the_same_and_clips_their_own():
    frame = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    clip = frame.expand(3, 4, 16, 16)[None].repeat(3, 1, 1, 1, 1)
    done = apply(clip, [(Operation("rotate", 25.0), Operation("invert", 0.0)), (), (Operation("rotate", -10.0),)])
    assert torch.equal(done[1], clip[1])
    for one in done:
        assert torch.allclose(one, one[:, :1].expand_as(one), atol=1e-3)
    assert not torch.allclose(done[0], done[2])


def test_draws_follow_the_key_and_half_of_the_operations_are_applied():
    config = RandAugmentConfig(ops=4, magnitude=7)
    assert draw(config, rng_of(5, 2)) == draw(config, rng_of(5, 2))
    drawn = [draw(config, rng_of(key, 2)) for key in range(500)]
    assert sum(map(len, drawn)) / 500 == pytest.approx(2, abs=0.2)
    assert {one.name for each in drawn for one in each} == set(LEVELS)
    assert draw(RandAugmentConfig(), rng_of(5, 2)) == ()


def test_a_stronger_magnitude_does_more():
    weak, strong = (abs(LEVELS["rotate"](magnitude, 1.0)) for magnitude in (0.2, 0.9))
    assert weak < strong
    assert LEVELS["posterize"](0.9, 1.0) < LEVELS["posterize"](0.2, 1.0)
