"""What changes a pixel by its own value alone: a run of such operations is one table of 256 entries, looked up once.

The tables hold what Pillow's operations give, whole numbers after each, cut off as Pillow cuts them. Contrast,
autocontrast and equalize look at each frame as it is when their turn comes. One histogram at the start of a run is
enough for all of them: what the operations before them did to the pixels, they did to the histogram. The tables are
computed where the pixels are, so that no device is waited for.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from marey.clips.color import LUMA
from marey.clips.transfer import send

_VALUES = np.arange(256)

FIXED: dict[str, Callable[[float], np.ndarray]] = {
    "invert": lambda level: 255 - _VALUES,
    "posterize": lambda level: _VALUES & (255 << (8 - int(level))),
    "solarize": lambda level: np.where(level <= _VALUES, 255 - _VALUES, _VALUES),
    "solarize_add": lambda level: np.where(_VALUES < 128, np.minimum(_VALUES + int(level), 255), _VALUES),
    "brightness": lambda level: (_VALUES.astype(np.float32) * np.float32(level)).clip(0, 255).astype(np.int64),
}
"""Tables that are the same for every picture, from the level."""


def look_up(
    clip: UInt8[Tensor, "b c t h w"], runs: Sequence[Sequence[tuple[str, float]]]
) -> UInt8[Tensor, "b c t h w"]:
    """Pixels after each clip's run: operations of `FIXED` and `MEASURED` with their levels, in their order."""
    pixels = clip.flatten(-2).long()
    fixed = _fixed(runs, clip.device)
    tables = [_table(run, one, pixels[place]) for place, (run, one) in enumerate(zip(runs, fixed, strict=True))]
    table = torch.stack([one.expand(*clip.shape[1:3], 256) for one in tables]).to(torch.uint8)
    return table.gather(-1, pixels).view(clip.shape)


def _fixed(runs: Sequence[Sequence[tuple[str, float]]], device: torch.device) -> list[list[Tensor]]:
    """Each run's fixed tables [256]; all of them travel to the device together."""
    made = [[FIXED[name](level) for name, level in run if name in FIXED] for run in runs]
    flat = [table for tables in made for table in tables]
    sent = iter(send(np.stack(flat), device) if flat else ())
    return [[next(sent) for _ in tables] for tables in made]


def to_bytes(pixels: Tensor) -> UInt8[Tensor, "*size"]:
    """Floats 0..255 cut off to whole numbers; by way of int16, which processors have vector instructions for."""
    return pixels.to(torch.int16).to(torch.uint8)


def _table(run: Sequence[tuple[str, float]], fixed: Sequence[Tensor], pixels: Tensor) -> Tensor:
    """int64 [C, T, 256], or [256] if no operation of the run looks at the frames; ``pixels``: int64 [C, T, H * W]."""
    left, counts = iter(fixed), None
    table: Tensor | None = None
    for name, level in run:
        if name in FIXED:
            step = next(left)
            table = step if table is None else step[table]
            continue
        if counts is None:
            counts = _counts(pixels)
        if table is None:
            table = torch.arange(256, device=pixels.device)
        table = MEASURED[name](table.expand(counts.shape), counts, level)
    assert table is not None, "a run has operations"
    return table


def _counts(pixels: Tensor) -> Int64[Tensor, "c t 256"]:
    counts = torch.zeros(*pixels.shape[:-1], 256, dtype=torch.int32, device=pixels.device)
    return counts.scatter_add_(-1, pixels, torch.ones_like(pixels, dtype=torch.int32)).long()


def _autocontrast(table: Tensor, counts: Tensor, level: float) -> Tensor:
    """Each frame's channels stretched to 0..255."""
    low = table.where(counts > 0, 255).amin(-1, keepdim=True)
    high = table.where(counts > 0, 0).amax(-1, keepdim=True)
    # A quotient, a product and a sum of doubles, as Pillow's are rounded; "255 / ..." would be a reciprocal's product.
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1).double()
    return (table * scale - low * scale).long().clamp(0, 255).where(high > low, table)


def _equalize(table: Tensor, counts: Tensor, level: float) -> Tensor:
    """Each frame's channels with a flat histogram."""
    now = torch.zeros_like(counts).scatter_add_(-1, table, counts)
    last = now.gather(-1, table.where(counts > 0, 0).amax(-1, keepdim=True))
    step = (now.sum(-1, keepdim=True) - last) // 255
    before = now.cumsum(-1) - now
    equal = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    return equal.gather(-1, table).where(step > 0, table)


def _contrast(table: Tensor, counts: Tensor, level: float) -> Tensor:
    """Against each frame's mean grey, a whole number."""
    means = (table * counts).sum(-1).double() / counts.sum(-1)
    if len(means) == len(LUMA):
        grey = sum(weight * mean for weight, mean in zip(LUMA, means, strict=True))
    else:
        grey = means.mean(0)
    middle = (grey + 0.5).floor().float().unsqueeze(-1)
    return (middle + level * (table - middle)).clamp(0, 255).long()


MEASURED: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "contrast": _contrast,
}
"""A table so far and how often each pixel value is in each channel and frame, int64 [C, T, 256] both, and a level:
the table with one more operation."""
