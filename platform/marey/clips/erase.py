"""Random erasing (Zhong et al. 2020): a box of noise over all frames of some clips."""

from typing import Annotated

import numpy as np
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor

from marey.clips.plan import ERASE_STREAM, rng_of
from marey.clips.transfer import send
from marey.config import Config

_Share = Annotated[float, Field(gt=0, le=1)]
_TRIES = 10


class EraseConfig(Config):
    """What is erased; off by default."""

    probability: float = Field(0.0, ge=0, le=1)
    """Share of the clips that lose a box."""
    area: tuple[_Share, _Share] = (0.02, 1 / 3)
    """Smallest and largest share of the frame that the box takes."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Smallest and largest ratio of its height to its width."""

    @field_validator("area", "aspect")
    @classmethod
    def _ordered(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if not 0 < pair[0] <= pair[1]:
            raise ValueError(f"{list(pair)}: two numbers above 0 are needed, the smaller one first")
        return pair


def erase(
    clip: Float[Tensor, "b c t h w"], keys: Int64[Tensor, " b"], config: EraseConfig
) -> Float[Tensor, "b c t h w"]:
    """Normalised clips, some with a box of standard normal noise, drawn for each pixel: changed in place.

    ``keys`` on the CPU.
    """
    if config.probability == 0:
        return clip
    _, channels, frames, height, width = clip.shape
    for place, key in enumerate(keys.tolist()):
        rng = rng_of(key, ERASE_STREAM)
        if rng.random() < config.probability and (box := _box(config, height, width, rng)):
            top, left, h, w = box
            noise = send(rng.standard_normal((channels, frames, h, w), np.float32), clip.device)
            clip[place, :, :, top : top + h, left : left + w] = noise
    return clip


def _box(config: EraseConfig, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of area and aspect ratio at random; None after ten draws that do not fit."""
    for _ in range(_TRIES):
        area = rng.uniform(*config.area) * height * width
        ratio = np.exp(rng.uniform(*np.log(config.aspect)))
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return None
