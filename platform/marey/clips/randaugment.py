"""RandAugment (Cubuk et al. 2020) on clips, batched on any device: one draw for all frames of a clip.

The operations and how a magnitude of 0 to 10 becomes a level are those of the "increasing" variants that the video
papers train with (``rand-m7-n4-mstd0.5-inc1`` in their scripts): a level grows with the magnitude, its sign is drawn
where there is one, the magnitude itself is drawn around its mean, and each of the n operations is applied to half of
the clips.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.clips import color
from marey.config import Config

_GREY = 128.0  # what shows where a picture was moved away


class RandAugmentConfig(Config):
    """How much is done to a clip; off by default."""

    ops: int = Field(0, ge=0)
    """Operations for each clip, each applied with probability 1/2; 0: none."""
    magnitude: float = Field(7.0, ge=0, le=10)
    """Mean strength."""
    deviation: float = Field(0.5, ge=0)
    """Standard deviation of the strength."""


class Operation(NamedTuple):
    """An operation by name, and its level (the meaning depends on the operation)."""

    name: str
    level: float


def draw(config: RandAugmentConfig, rng: np.random.Generator) -> tuple[Operation, ...]:
    """The operations of one clip, in the order in which they are applied."""
    names = rng.choice(list(LEVELS), config.ops)
    drawn = []
    for name in names:
        magnitude = float(np.clip(rng.normal(config.magnitude, config.deviation), 0, 10)) / 10
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if rng.random() < 0.5:
            drawn.append(Operation(str(name), LEVELS[name](magnitude, sign)))
    return tuple(drawn)


LEVELS: dict[str, Callable[[float, float], float]] = {
    "autocontrast": lambda magnitude, sign: 0.0,
    "equalize": lambda magnitude, sign: 0.0,
    "invert": lambda magnitude, sign: 0.0,
    "rotate": lambda magnitude, sign: sign * 30 * magnitude,  # degrees
    "posterize": lambda magnitude, sign: 4 - int(4 * magnitude),  # bits kept
    "solarize": lambda magnitude, sign: 256 - int(256 * magnitude),  # from here on inverted
    "solarize_add": lambda magnitude, sign: int(110 * magnitude),  # added to the dark half
    "color": lambda magnitude, sign: 1 + sign * 0.9 * magnitude,  # factor; 1 changes nothing
    "contrast": lambda magnitude, sign: 1 + sign * 0.9 * magnitude,
    "brightness": lambda magnitude, sign: 1 + sign * 0.9 * magnitude,
    "sharpness": lambda magnitude, sign: 1 + sign * 0.9 * magnitude,
    "shear_x": lambda magnitude, sign: sign * 0.3 * magnitude,
    "shear_y": lambda magnitude, sign: sign * 0.3 * magnitude,
    "translate_x": lambda magnitude, sign: sign * 0.45 * magnitude,  # of the width
    "translate_y": lambda magnitude, sign: sign * 0.45 * magnitude,
}
"""Magnitude 0..1 and a sign to the level of each operation."""


def apply(clip: Float[Tensor, "b c t h w"], draws: Sequence[tuple[Operation, ...]]) -> Float[Tensor, "b c t h w"]:
    """Pixels 0..255 (float) after each clip's operations; the first ones of all clips, then the second ones ..."""
    clip = clip.clone()
    for turn in range(max(map(len, draws), default=0)):
        groups: dict[str, list[int]] = {}
        for place, drawn in enumerate(draws):
            if turn < len(drawn):
                groups.setdefault(drawn[turn].name, []).append(place)
        for name, places in groups.items():
            levels = torch.tensor([draws[place][turn].level for place in places], device=clip.device)
            clip[places] = _OPERATIONS[name](clip[places], levels.view(-1, 1, 1, 1, 1))
    return clip


def _autocontrast(clip: Tensor, level: Tensor) -> Tensor:
    """Each frame's channels stretched to 0..255."""
    low, high = clip.amin((-2, -1), keepdim=True), clip.amax((-2, -1), keepdim=True)
    scale = 255 / (high - low).clamp(min=1e-6)
    return torch.where(high > low, (clip - low) * scale, clip)


def _equalize(clip: Tensor, level: Tensor) -> Tensor:
    """Each frame's channels with a flat histogram, by Pillow's rule."""
    pixels = clip.round().clamp(0, 255).long().flatten(-2)
    counts = torch.zeros(*pixels.shape[:-1], 256, dtype=torch.long, device=clip.device)
    counts.scatter_add_(-1, pixels, torch.ones_like(pixels))
    last = counts.gather(-1, pixels.amax(-1, keepdim=True))
    step = (pixels.shape[-1] - last) // 255
    before = torch.cat((torch.zeros_like(step), counts.cumsum(-1)[..., :-1]), -1)
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    equal = table.gather(-1, pixels)
    return torch.where(step > 0, equal, pixels).view(clip.shape).to(clip.dtype)


def _posterize(clip: Tensor, level: Tensor) -> Tensor:
    step = 2 ** (8 - level)
    return (clip / step).floor() * step


def _solarize(clip: Tensor, level: Tensor) -> Tensor:
    return torch.where(clip >= level, 255 - clip, clip)


def _solarize_add(clip: Tensor, level: Tensor) -> Tensor:
    return torch.where(clip < 128, (clip + level).clamp(max=255), clip)


def _sharpness(clip: Tensor, level: Tensor) -> Tensor:
    """Against a 3 × 3 smoothing that leaves the border as it is."""
    b, c, t, h, w = clip.shape
    kernel = torch.ones(3, 3, device=clip.device, dtype=clip.dtype)
    kernel[1, 1] = 5
    frames = clip.transpose(1, 2).reshape(b * t * c, 1, h, w)
    inner = functional.conv2d(frames, (kernel / kernel.sum()).view(1, 1, 3, 3))
    smooth = frames.clone()
    smooth[..., 1:-1, 1:-1] = inner
    return color.blend(smooth.view(b, t, c, h, w).transpose(1, 2), clip, level)


Theta = Callable[[Tensor, float], tuple[float | Tensor, ...]]


def _moved(theta: Theta) -> Callable[[Tensor, Tensor], Tensor]:
    """A motion of the whole picture around its centre, bilinear; grey where it leaves nothing.

    ``theta(level, aspect)``: the six numbers of the matrix that says where each pixel comes from, in coordinates
    from -1 to 1; ``aspect`` is height over width.
    """

    def operation(clip: Tensor, level: Tensor) -> Tensor:
        b, c, t, h, w = clip.shape
        level = level.flatten()
        numbers = [torch.as_tensor(one, device=clip.device).expand(b) for one in theta(level, h / w)]
        matrix = torch.stack(numbers, 1).view(b, 2, 3).to(clip.dtype)
        grid = functional.affine_grid(matrix, [b, c * t, h, w], align_corners=False)
        pixels = clip.reshape(b, c * t, h, w) - _GREY
        return (functional.grid_sample(pixels, grid, align_corners=False) + _GREY).view(clip.shape)

    return operation


def _rotation(degrees: Tensor, aspect: float) -> tuple[float | Tensor, ...]:
    """Counter-clockwise."""
    angle = torch.deg2rad(degrees)
    sine, cosine = angle.sin(), angle.cos()
    return cosine, -sine * aspect, 0.0, sine / aspect, cosine, 0.0


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda clip, level: 255 - clip,
    "rotate": _moved(_rotation),
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": color.saturation,
    "contrast": color.contrast,
    "brightness": color.brightness,
    "sharpness": _sharpness,
    "shear_x": _moved(lambda level, aspect: (1.0, level * aspect, 0.0, 0.0, 1.0, 0.0)),
    "shear_y": _moved(lambda level, aspect: (1.0, 0.0, 0.0, level / aspect, 1.0, 0.0)),
    "translate_x": _moved(lambda level, aspect: (1.0, 0.0, 2 * level, 0.0, 1.0, 0.0)),
    "translate_y": _moved(lambda level, aspect: (1.0, 0.0, 0.0, 0.0, 1.0, 2 * level)),
}
