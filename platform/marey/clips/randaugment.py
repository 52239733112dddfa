"""RandAugment (Cubuk et al. 2020) on clips, batched on any device: one draw for all frames of a clip.

The operations and how a magnitude of 0 to 10 becomes a level are those of the "increasing" variants that the video
papers train with (``rand-m7-n4-mstd0.5-inc1`` in their scripts): a level grows with the magnitude, its sign is drawn
where there is one, the magnitude itself is drawn around its mean, and each of the n operations is applied to half of
the clips. What they do to pixels is in `marey.clips.operations`.
"""

from collections.abc import Callable

import numpy as np
from pydantic import Field

from marey.clips.operations import Operation
from marey.config import Config


class RandAugmentConfig(Config):
    """How much is done to a clip; off by default."""

    ops: int = Field(0, ge=0)
    """Operations for each clip, each applied with probability 1/2; 0: none."""
    magnitude: float = Field(7.0, ge=0, le=10)
    """Mean strength."""
    deviation: float = Field(0.5, ge=0)
    """Standard deviation of the strength."""


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
