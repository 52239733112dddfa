"""RandAugment's operations as Pillow does them, one after another, each on one picture."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from marey.bench.augment_pillow import OPERATIONS


def in_turn(picture: Image.Image, operations: Sequence[tuple[str, float]]) -> np.ndarray:
    """uint8 [H, W, C] after all of them."""
    for name, level in operations:
        picture = OPERATIONS[name](picture, level)
    return np.asarray(picture)


def smooth_picture(grain: float = 6.0) -> Image.Image:
    """Gradients and waves, 48 high and 64 wide, with noise of this standard deviation."""
    y, x = np.mgrid[0:48, 0:64]
    channels = [40 + 2 * x, 200 - 3 * y, 90 + 60 * np.sin(x / 7) * np.cos(y / 5)]
    pixels = np.stack(channels, -1) + np.random.default_rng(0).normal(0, grain, (48, 64, 3))
    return Image.fromarray(pixels.clip(5, 240).astype(np.uint8))


def as_clip(*pictures: Image.Image) -> torch.Tensor:
    """The pictures as frames of one clip: uint8 [1, C, T, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(3, 0, 1, 2)[None]
