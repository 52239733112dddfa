"""Operations on clips, batched on any device: the whole of what RandAugment and colour jitter do, one draw a clip.

A clip's operations become passes over its pixels, which are whole numbers between them, as Pillow's are: neighbours
that move the picture are one warp (`marey.clips.warp`), neighbours that change a pixel by its own value are one table
(`marey.clips.pointwise`), the others are passes of their own. Nothing changes places: the grey where a picture was
moved away is inverted, stretched and counted by what comes after it, and not by what came before. (The two that a warp
could pass without a visible difference, color and invert, would save less than 1 % of RandAugment's passes.) So the
result is that of Pillow's operations one after another, but for what two warps in a row would blur.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from marey.clips import color
from marey.clips.pointwise import FIXED, MEASURED, look_up, to_bytes
from marey.clips.transfer import send
from marey.clips.warp import MOTIONS, warp

_FRAMES = 4  # of one clip: what a pass needs for them fits into a processor's caches


class Operation(NamedTuple):
    """An operation by name, and its level (the meaning depends on the operation)."""

    name: str
    level: float


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


def _hue(clip: Tensor, runs: Sequence[Sequence[Operation]]) -> Tensor:
    """Moved by a share of the colour circle, to the nearest whole numbers."""
    return to_bytes(color.hue(clip.float(), _levels(runs, clip.device)) + 0.5)


def _grey(clip: Tensor, runs: Sequence[Sequence[Operation]]) -> Tensor:
    """Without colours, whatever the level."""
    return to_bytes(color.grey(clip.float()).round_()).expand_as(clip)


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
    "hue": _hue,
    "grey": _grey,
}
