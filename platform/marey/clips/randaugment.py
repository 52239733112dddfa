"""RandAugment (Cubuk et al. 2020) on clips, batched on any device: one draw for all frames of a clip.

The operations and how a magnitude of 0 to 10 becomes a level are those of the "increasing" variants that the video
papers train with (``rand-m7-n4-mstd0.5-inc1`` in their scripts): a level grows with the magnitude, its sign is drawn
where there is one, the magnitude itself is drawn around its mean, and each of the n operations is applied to half of
the clips.

A clip's operations become passes over its pixels, which are whole numbers between them, as Pillow's are: neighbours
that move the picture are one warp (`marey.clips.warp`), neighbours that change a pixel by its own value are one table
(`marey.clips.pointwise`), color and sharpness are passes of their own. Nothing changes places: the grey where a picture
was moved away is inverted, stretched and counted by what comes after it, and not by what came before. (The two that a
warp could pass without a visible difference, color and invert, would save less than 1 % of the passes.) So the result
is that of Pillow's operations one after another, but for what two warps in a row would blur.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from marey.clips import color
from marey.clips.pointwise import FIXED, MEASURED, look_up, to_bytes
from marey.clips.transfer import send
from marey.clips.warp import MOTIONS, warp
from marey.config import Config

_FRAMES = 4  # of one clip: what a pass needs for them fits into a processor's caches


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


class _Pass(NamedTuple):
    """Operations that are done by going over the pixels once."""

    kind: str
    run: tuple[Operation, ...]


def apply(clip: UInt8[Tensor, "b c t h w"], draws: Sequence[tuple[Operation, ...]]) -> UInt8[Tensor, "b c t h w"]:
    """Pixels 0..255 after each clip's operations; what is read and what is returned are not the same memory."""
    programs = [_compiled(drawn) for drawn in draws]
    if clip.device.type != "cpu":
        return _run(clip, programs)
    done = torch.empty(clip.shape, dtype=torch.uint8)
    for place, program in enumerate(programs):
        for start in range(0, clip.shape[2], _FRAMES):
            frames = slice(start, start + _FRAMES)
            done[place, :, frames] = _run(clip[place : place + 1, :, frames], [program])[0]
    return done


def _run(clip: Tensor, programs: Sequence[Sequence[_Pass]]) -> Tensor:
    """Passes of one kind are done for all clips that can take them together."""
    clips, left = list(clip.clone(memory_format=torch.contiguous_format)), [list(program) for program in programs]
    while waiting := [passes[0].kind for passes in left if passes]:
        kind = max(_PASSES, key=waiting.count)
        places = [place for place, passes in enumerate(left) if passes and passes[0].kind == kind]
        runs = [left[place].pop(0).run for place in places]
        for place, done in zip(places, _PASSES[kind](torch.stack([clips[p] for p in places]), runs), strict=True):
            clips[place] = done
    return torch.stack(clips)


def _compiled(drawn: Sequence[Operation]) -> list[_Pass]:
    """The passes of one clip in their order: neighbours of one kind together where that kind can be merged."""
    passes: list[_Pass] = []
    for operation in drawn:
        kind = _KINDS.get(operation.name, operation.name)
        if passes and passes[-1].kind == kind and kind in _KINDS.values():
            passes[-1] = _Pass(kind, (*passes[-1].run, operation))
        else:
            passes.append(_Pass(kind, (operation,)))
    return passes


def _color(clip: Tensor, runs: Sequence[Sequence[Operation]]) -> Tensor:
    """Against grey, in whole numbers."""
    pixels = clip.float()
    return to_bytes(color.blend(color.grey(pixels).round_(), pixels, _levels(runs, clip.device)))


def _sharpness(clip: Tensor, runs: Sequence[Sequence[Operation]]) -> Tensor:
    """Against a 3 × 3 smoothing (its centre counts five times) that leaves the border as it is."""
    pixels = clip.short()  # holds 13 × 255, and is added fast
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    inner = pixels[..., 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    sharp = clip.clone()
    smooth = (total / 13).round_()
    sharp[..., 1:-1, 1:-1] = to_bytes(color.blend(smooth, inner, _levels(runs, clip.device)))
    return sharp


def _levels(runs: Sequence[Sequence[Operation]], device: torch.device) -> Tensor:
    return send(np.array([run[0].level for run in runs], np.float32), device).view(-1, 1, 1, 1, 1)


_KINDS = dict.fromkeys(MOTIONS, "warp") | dict.fromkeys((*FIXED, *MEASURED), "table")
"""The kind of an operation that is merged with its neighbours; others are kinds of their own."""
_PASSES: dict[str, Callable[[Tensor, Sequence[Sequence[Operation]]], Tensor]] = {
    "warp": warp,
    "table": look_up,
    "color": _color,
    "sharpness": _sharpness,
}
