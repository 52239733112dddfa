"""RandAugment's operations as Pillow does them, one after another, each on one picture."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

AFFINE = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}


def affine(image: Image.Image, *numbers: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, numbers, **AFFINE)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "posterize": lambda image, level: ImageOps.posterize(image, int(level)),
    "solarize": lambda image, level: ImageOps.solarize(image, level),
    "solarize_add": lambda image, level: image.point(lambda value: min(255, value + level) if value < 128 else value),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(level),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(level),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(level),
    "rotate": lambda image, level: image.rotate(level, **AFFINE),
    "translate_x": lambda image, level: affine(image, 1, 0, level * image.width, 0, 1, 0),
    "translate_y": lambda image, level: affine(image, 1, 0, 0, 0, 1, level * image.height),
    "shear_x": lambda image, level: affine(image, 1, level, -level * image.height / 2, 0, 1, 0),
    "shear_y": lambda image, level: affine(image, 1, 0, 0, level, 1, -level * image.width / 2),
}


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
