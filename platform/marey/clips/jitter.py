"""Colour jitter (Krizhevsky et al. 2012, as MoCo and SlowFast train): one draw for all frames of a clip."""

import numpy as np
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch import Tensor

from marey.clips.operations import Operation, apply
from marey.clips.plan import JITTER_STREAM, rng_of
from marey.config import Config


class JitterConfig(Config):
    """How far colours are moved; off by default."""

    brightness: float = Field(0.0, ge=0, le=1)
    """Largest change of the factor around 1."""
    contrast: float = Field(0.0, ge=0, le=1)
    """Largest change of the factor around 1."""
    saturation: float = Field(0.0, ge=0, le=1)
    """Largest change of the factor around 1."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Largest turn of the colour circle, in either direction."""
    grey: float = Field(0.0, ge=0, le=1)
    """Share of the clips that lose their colours."""

    @property
    def is_off(self) -> bool:
        """Whether nothing is changed."""
        return not (self.brightness or self.contrast or self.saturation or self.hue or self.grey)


def jitter(
    clip: UInt8[Tensor, "b c t h w"], keys: Int64[Tensor, " b"], config: JitterConfig
) -> UInt8[Tensor, "b c t h w"]:
    """Pixels 0..255 with brightness, contrast, saturation and hue moved, in an order of each clip's own.

    ``keys`` on the CPU.
    """
    if config.is_off:
        return clip
    return apply(clip, [draw(config, rng_of(key, JITTER_STREAM)) for key in keys.tolist()])


def draw(config: JitterConfig, rng: np.random.Generator) -> tuple[Operation, ...]:
    """The operations of one clip, in the order in which they are applied."""
    moves = [
        Operation("brightness", 1 + rng.uniform(-1, 1) * config.brightness),
        Operation("contrast", 1 + rng.uniform(-1, 1) * config.contrast),
        Operation("color", 1 + rng.uniform(-1, 1) * config.saturation),
        Operation("hue", rng.uniform(-1, 1) * config.hue),
    ]
    turns_grey = rng.random() < config.grey
    order = [moves[place] for place in rng.permutation(len(moves))]
    moving = [one for one in order if one.level != (0 if one.name == "hue" else 1)]
    return (*moving, Operation("grey", 0)) if turns_grey else tuple(moving)
