"""Mask units (Ryali et al. 2023, Hiera): squares of 8 × 8 tokens, kept or hidden whole, and their order of tokens.

Tokens lie in memory as [B, P, U, D]: place within the unit, then unit in (t, h, w) order. A place's leading digit is
the position within the finest 2 × 2 cell, then that of the cell within the next larger one, and so on: so pooling over
2 × 2 is a maximum over four contiguous slices, attention within units is a batch dimension, and hiding a unit drops an
entry.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from marey.nn.tubelet import Grid, gather_tokens

LEVELS = 3  # halvings of a unit's side: 8 tokens
SIDE = 2**LEVELS


def unroll(tokens: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b p u d"]:
    """Tokens in (t, h, w) order over ``grid`` as units; its height and width are multiples of 8."""
    b, _, d = tokens.shape
    units_h, units_w = grid.h // SIDE, grid.w // SIDE
    # [b, t, unit row, coarse .. fine row, unit column, coarse .. fine column, d]
    x = tokens.view(b, grid.t, units_h, *([2] * LEVELS), units_w, *([2] * LEVELS), d)
    rows, columns = range(3, 3 + LEVELS), range(4 + LEVELS, 4 + 2 * LEVELS)
    places = [axis for pair in zip(reversed(rows), reversed(columns), strict=True) for axis in pair]
    x = x.permute(0, *places, 1, 2, 3 + LEVELS, 4 + 2 * LEVELS)
    return x.reshape(b, SIDE**2, grid.t * units_h * units_w, d)


def reroll(x: Float[Tensor, "b p u d"], units: Grid) -> Float[Tensor, "b n d"]:
    """The inverse, also after poolings: tokens in (t, h, w) order; ``units`` are the clip's units."""
    b, p, _, d = x.shape
    levels = (p.bit_length() - 1) // 2
    x = x.view(b, *([2] * (2 * levels)), *units, d)
    rows = [1 + 2 * level for level in reversed(range(levels))]
    columns = [2 + 2 * level for level in reversed(range(levels))]
    first = 1 + 2 * levels
    return x.permute(0, first, first + 1, *rows, first + 2, *columns, first + 3).reshape(b, -1, d)


def unit_maps(x: Float[Tensor, "b p u d"]) -> Float[Tensor, "bu d s s"]:
    """Each unit as a square map of its own: the input of a convolution that must not look into other units."""
    b, p, u, d = x.shape
    side = 2 ** ((p.bit_length() - 1) // 2)
    whole = reroll(x.transpose(1, 2).reshape(b * u, p, 1, d), Grid(1, 1, 1))
    return whole.view(b * u, side, side, d).permute(0, 3, 1, 2)


def keep_units(x: Float[Tensor, "b p u d"], keep: Tensor) -> Float[Tensor, "b p k d"]:
    """The units at indices ``keep`` int64 [B, k], for each clip its own."""
    return gather_tokens(x.transpose(1, 2), keep).transpose(1, 2)


def hide_pixels(clip: Float[Tensor, "b c *size"], mask: Bool[Tensor, "b u"], units: Grid) -> Float[Tensor, "b c *size"]:
    """The clip with zeros in the units that ``mask`` hides."""
    return clip * ~spread(mask, units, clip.shape[2:])


def spread(mask: Bool[Tensor, "b u"], units: Grid, size: tuple[int, ...]) -> Bool[Tensor, "b 1 *size"]:
    """A mask over units as one over pixels, or over anything else whose ``size`` (t, h, w) or (h, w) they divide."""
    shape = tuple(units)[-len(size) :]
    pixels = mask.view(mask.shape[0], 1, *shape)
    for axis, (full, part) in enumerate(zip(size, shape, strict=True), start=2):
        pixels = pixels.repeat_interleave(full // part, axis)
    return pixels
