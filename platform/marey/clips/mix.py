"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) between partners that the plan names.

Neighbours of the global order are partners, so that the result does not depend on how a batch is spread over workers
and passes; of repeated augmentation, each repeat of a row is paired with the same repeat of the next row. Whatever is
drawn for a pair comes from the key of its first member, and both members mirror each other.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from marey.clips.plan import MIX_STREAM, rng_of
from marey.config import Config


class MixConfig(Config):
    """How clips are mixed; off by default."""

    mixup: float = Field(0.0, ge=0)
    """Mixup's alpha: shares are drawn from Beta(alpha, alpha); 0: no mixup."""
    cutmix: float = Field(0.0, ge=0)
    """CutMix's alpha; 0: no CutMix."""
    probability: float = Field(1.0, ge=0, le=1)
    """Share of the pairs that are mixed at all."""
    switch: float = Field(0.5, ge=0, le=1)
    """Of the mixed pairs, the share that gets CutMix where both are on."""

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


class _Draw(NamedTuple):
    """One pair's: the share that each keeps of itself, and a box (top, bottom, left, right) if it is CutMix."""

    share: float
    box: tuple[int, int, int, int] | None


def partners(num: int, repeats: int = 1) -> Int64[Tensor, " b"]:
    """Each sample's partner among ``num`` neighbours; ``ValueError`` unless they are whole pairs of rows."""
    if num % (2 * repeats):
        raise ValueError(f"{num} clips are no multiple of 2 × {repeats} repeats: mixing needs whole pairs in a pass")
    return torch.arange(num).view(-1, 2, repeats).flip(1).reshape(-1)


def mix(
    clip: Float[Tensor, "b c t h w"],
    targets: Float[Tensor, "b k"],
    keys: Int64[Tensor, " b"],
    config: MixConfig,
    repeats: int = 1,
) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "b k"]]:
    """Mixed clips and targets; ``keys`` are on the CPU, the tensors on any device."""
    if not config.on:
        return clip, targets
    other = partners(len(keys), repeats)
    firsts = torch.minimum(torch.arange(len(keys)), other)
    drawn = {int(first): _draw(config, int(keys[first]), clip.shape[-2:]) for first in firsts.unique()}
    draws = [drawn[int(first)] for first in firsts]
    partner_clip = clip[other.to(clip.device)]
    blend = torch.tensor([1.0 if draw.box else draw.share for draw in draws], device=clip.device)
    mixed = torch.lerp(partner_clip, clip, blend.to(clip.dtype).view(-1, 1, 1, 1, 1))
    for place, draw in enumerate(draws):
        if draw.box:
            top, bottom, left, right = draw.box
            mixed[place, :, :, top:bottom, left:right] = partner_clip[place, :, :, top:bottom, left:right]
    share = torch.tensor([draw.share for draw in draws], device=targets.device, dtype=targets.dtype).unsqueeze(1)
    return mixed, torch.lerp(targets[other.to(targets.device)], targets, share)


def _draw(config: MixConfig, key: int, size: torch.Size) -> _Draw:
    rng = rng_of(key, MIX_STREAM)
    mixes, cuts = rng.random(2)
    if mixes >= config.probability:
        return _Draw(1.0, None)
    if config.cutmix and (not config.mixup or cuts < config.switch):
        return _cut(rng.beta(config.cutmix, config.cutmix), rng, *size)
    return _Draw(float(rng.beta(config.mixup, config.mixup)), None)


def _cut(share: float, rng: np.random.Generator, height: int, width: int) -> _Draw:
    """A box of ``1 - share`` of the area around a random point, cut off at the edge; the share follows the true box."""
    half = np.sqrt(1 - share) / 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = (int(np.clip(round(y + sign * half * height), 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(round(x + sign * half * width), 0, width)) for sign in (-1, 1))
    return _Draw(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))
