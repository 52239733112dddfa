"""Augmentation with Pillow, frame by frame, as the video papers' loaders do it: one draw for all frames of a clip.

The crop, the stack and the normalisation are those of MCG-NJU/VideoMAE ``transforms.py`` (GroupMultiScaleCrop, Stack,
ToTorchFormatTensor, GroupNormalize), RandAugment's operations those of its ``rand_augment.py``, after timm's
``auto_augment.py``, but that a shear keeps the centre where theirs keeps a corner.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

AFFINE: dict[str, Any] = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}


def affine(image: Image.Image, *numbers: float) -> Image.Image:
    """Pixels from where six numbers say; grey where that is outside."""
    return image.transform(image.size, Image.Transform.AFFINE, numbers, **AFFINE)


def solarize_add(image: Image.Image, level: float) -> Image.Image:
    """The dark half, lighter."""
    table = [min(255, value + int(level)) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "posterize": lambda image, level: ImageOps.posterize(image, int(level)),
    "solarize": lambda image, level: ImageOps.solarize(image, int(level)),
    "solarize_add": solarize_add,
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
"""By name, from a picture and a level (`marey.clips.randaugment.LEVELS`)."""


def augment(
    frames: np.ndarray,
    box: Sequence[int],
    operations: Sequence[tuple[str, float]],
    crop: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    """uint8 [T, H, W, 3] to float32 [3, T, crop, crop]: cut ``box`` out, resize, flip, operations, normalise."""
    top, left, height, width, flip = box
    pictures = [Image.fromarray(frame).crop((left, top, left + width, top + height)) for frame in frames]
    if (height, width) != (crop, crop):
        pictures = [picture.resize((crop, crop), Image.Resampling.BILINEAR) for picture in pictures]
    if flip:
        pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    for name, level in operations:
        pictures = [OPERATIONS[name](picture, level) for picture in pictures]
    clip = torch.from_numpy(np.concatenate([np.asarray(picture) for picture in pictures], 2))
    clip = clip.permute(2, 0, 1).contiguous().float().div(255)
    many = len(frames)
    clip.sub_(torch.tensor(mean).repeat(many)[:, None, None]).div_(torch.tensor(std).repeat(many)[:, None, None])
    return clip.view(many, 3, crop, crop).transpose(0, 1)
