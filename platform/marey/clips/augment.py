"""Crop, resize and flip on the CPU, where a clip is decoded: uint8 in, uint8 out, one draw for all its frames."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from marey.config import Config, did_you_mean
from marey.errors import ConfigError

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the shorter side; VideoMAE, after TSN
ASPECT = (3 / 4, 4 / 3)
TEN_CROP = 224 / 256  # of the shorter side
CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))  # halves of the room downwards and to the right; the centre last


class AugmentConfig(Config):
    """What is drawn for each sample."""

    crop: Literal["multi_scale", "random_resized", "center"] = "multi_scale"
    """multi_scale: corners and centre at four scales (VideoMAE); random_resized: any place and area (MAE); center."""
    scale: tuple[float, float] = (0.5, 1.0)
    """random_resized: smallest and largest share of the frame's area."""
    flip: float = Field(0.0, ge=0, le=1)
    """Probability of a horizontal flip; where left and right make a difference, 0, or name flip_classes."""
    flip_classes: tuple[tuple[str, str], ...] = ()
    """Pairs of classes that are each other's mirror image: a flipped clip of one is labelled as the other."""

    @field_validator("scale")
    @classmethod
    def _shares(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"{list(scale)}: two shares of the area are needed, 0 < smallest <= largest <= 1")
        return scale


class Box(NamedTuple):
    """A crop in pixels, and whether it is flipped."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def draw_box(config: AugmentConfig, height: int, width: int, rng: np.random.Generator) -> Box:
    """Draw one clip's crop from frames of ``height`` × ``width``."""
    draw = {"multi_scale": _multi_scale, "random_resized": _random_resized, "center": _center}[config.crop]
    return draw(config, height, width, rng)


def draw_flip(config: AugmentConfig, rng: np.random.Generator) -> bool:
    """Draw whether one clip is flipped."""
    return bool(rng.random() < config.flip)


def mirrored(config: AugmentConfig, names: Sequence[str]) -> dict[int, int]:
    """What the label of a flipped clip becomes, for the labels that change; ``names``: of the classes by label.

    Raises `ConfigError` where augment.flip_classes names a class that is not there, or one twice.
    """
    named = [name for pair in config.flip_classes for name in pair]
    for name in named:
        if name not in names:
            raise ConfigError(f"augment.flip_classes: the table has no class {name!r}{did_you_mean(name, names)}")
        if named.count(name) > 1:
            raise ConfigError(f"augment.flip_classes: {name!r} is named twice; a class has one mirror image")
    pairs = [(names.index(one), names.index(other)) for one, other in config.flip_classes]
    return dict(pairs) | {other: one for one, other in pairs}


def apply_box(frames: np.ndarray, box: Box, crop: int) -> Tensor:
    """Cut ``box`` out of uint8 [T, H, W, C] and resize it to uint8 [T, crop, crop, C] (bilinear, antialiased)."""
    cut = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    # As [T, C, H, W] with channels last in memory, the layout that torch's uint8 kernel is fast in.
    pixels = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2)
    if (box.height, box.width) != (crop, crop):
        pixels = functional.interpolate(pixels, size=(crop, crop), mode="bilinear", antialias=True)
    pixels = pixels.permute(0, 2, 3, 1)
    return pixels.flip(2) if box.flip else pixels


def view_box(height: int, width: int, place: int, spatial: int) -> Box:
    """Square ``place`` of ``spatial``: 1 or 3 along the longer side of a frame, as tall as the shorter one.

    10: the four corners and the centre at 224 / 256 of the shorter side, then the same mirrored (Krizhevsky et al.
    2012, Wang et al. 2016).
    """
    short = min(height, width)
    if spatial == 10:
        side, (down, right) = max(1, round(short * TEN_CROP)), CORNERS[place % 5]
        return Box((height - side) * down // 2, (width - side) * right // 2, side, side, flip=place >= 5)
    share = place / (spatial - 1) if spatial > 1 else 0.5
    return Box(round((height - short) * share), round((width - short) * share), short, short)


def _multi_scale(config: AugmentConfig, height: int, width: int, rng: np.random.Generator) -> Box:
    """Sides from `MULTI_SCALES` of the shorter side, at most one scale apart, at a corner or the centre."""
    short = min(height, width)
    first = int(rng.integers(len(MULTI_SCALES)))
    near = [i for i in range(len(MULTI_SCALES)) if abs(i - first) <= 1]
    second = near[int(rng.integers(len(near)))]
    h, w = (max(1, round(short * MULTI_SCALES[i])) for i in (first, second))
    down, right = CORNERS[int(rng.integers(len(CORNERS)))]
    return Box((height - h) * down // 2, (width - w) * right // 2, h, w)


def _random_resized(config: AugmentConfig, height: int, width: int, rng: np.random.Generator) -> Box:
    """Area and aspect ratio at random (Szegedy et al. 2015); the centre after ten draws that do not fit."""
    for _ in range(10):
        area = height * width * rng.uniform(*config.scale)
        ratio = np.exp(rng.uniform(np.log(ASPECT[0]), np.log(ASPECT[1])))
        h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    return _center(config, height, width, rng)


def _center(config: AugmentConfig, height: int, width: int, rng: np.random.Generator) -> Box:
    short = min(height, width)
    return Box((height - short) // 2, (width - short) // 2, short, short)
