"""Colour jitter (Krizhevsky et al. 2012, as MoCo and SlowFast train): one draw for all frames of a clip."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from marey.clips import color
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


_OPERATIONS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("brightness", color.brightness),
    ("contrast", color.contrast),
    ("saturation", color.saturation),
    ("hue", color.hue),
)


def jitter(
    clip: Float[Tensor, "b c t h w"], keys: Int64[Tensor, " b"], config: JitterConfig
) -> Float[Tensor, "b c t h w"]:
    """Pixels 0..255 with brightness, contrast, saturation and hue moved, in an order of each clip's own.

    ``keys`` on the CPU.
    """
    if config.is_off:
        return clip
    return torch.cat([_one(clip[place : place + 1], key, config) for place, key in enumerate(keys.tolist())])


def _one(clip: Tensor, key: int, config: JitterConfig) -> Tensor:
    rng = rng_of(key, JITTER_STREAM)
    moves = {name: rng.uniform(-1, 1) * getattr(config, name) for name, _ in _OPERATIONS}
    turns_grey = rng.random() < config.grey
    for place in rng.permutation(len(_OPERATIONS)):
        name, operation = _OPERATIONS[place]
        if moves[name]:
            level = moves[name] if name == "hue" else 1 + moves[name]
            clip = operation(clip, torch.full((1, 1, 1, 1, 1), level, device=clip.device, dtype=clip.dtype))
    return color.grey(clip).expand_as(clip) if turns_grey else clip
