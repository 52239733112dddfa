"""Masks for masked pre-training, over tokens or mask units in (t, h, w) order. True = hidden (or not decoded).

Each function draws one clip's mask, bool [N]. Given numpy's legacy generator in the state of the published code,
the masks are the published ones, bit for bit.
"""

import numpy as np
import torch
from torch import Tensor

from marey.nn.tubelet import Grid

Rng = np.random.Generator | np.random.RandomState

# Running cell: the order in which a queue of decoded and skipped positions fills a 2x2 cell, row by row.
_CELL = 4


def as_rng(generator: Rng | torch.Generator | int | None) -> Rng:
    """Any generator that a caller may hold, as one of numpy; None is a fresh one from torch's global seed."""
    if isinstance(generator, (np.random.Generator, np.random.RandomState)):
        return generator
    if generator is None or isinstance(generator, torch.Generator):
        generator = int(torch.randint(2**62, (), generator=generator))
    return np.random.Generator(np.random.Philox(generator))


def tube(grid: Grid, ratio: float, rng: Rng) -> np.ndarray:
    """Tube masking (VideoMAE, Tong et al. 2022): one random spatial mask, the same in every temporal slot."""
    return np.tile(_shuffled(grid.slot, ratio, rng), grid.t)


def random(grid: Grid, ratio: float, rng: Rng) -> np.ndarray:
    """Random masking (MAE, MAE-ST): every token by itself."""
    return _shuffled(grid.tokens, ratio, rng)


def exactly(size: int, hidden: int, rng: Rng) -> np.ndarray:
    """``hidden`` of ``size`` entries at random (Hiera's mask units)."""
    mask = np.arange(size) >= size - hidden
    rng.shuffle(mask)
    return mask


def running_cell(grid: Grid, ratio: float, rng: Rng) -> np.ndarray:
    """Running-cell masking (VideoMAE V2, Wang et al. 2023, and Qing et al. 2022): which tokens are *not* decoded.

    A 2×2 cell is filled from a queue of ``int(4·ratio)`` skipped and the remaining decoded positions and tiled over
    the frame; the queue turns by one place from slot to slot, so that over four slots every position is decoded
    equally often. The draw is where the queue starts, one of four.
    """
    skipped = int(_CELL * ratio)
    queue = np.arange(_CELL) < skipped
    start = int(rng.integers(_CELL) if isinstance(rng, np.random.Generator) else rng.randint(_CELL))
    slots = [_tile(np.roll(queue, -(start + slot + 1)), grid) for slot in range(grid.t)]
    return np.concatenate(slots)


def _tile(cell: np.ndarray, grid: Grid) -> np.ndarray:
    repeated = np.tile(cell.reshape(2, 2), (-(-grid.h // 2), -(-grid.w // 2)))
    return repeated[: grid.h, : grid.w].reshape(-1)


def _shuffled(size: int, ratio: float, rng: Rng) -> np.ndarray:
    return exactly(size, int(ratio * size), rng)


def indices(mask: Tensor) -> Tensor:
    """Indices of the True entries, int64 [B, k], in order; ``ValueError`` if the clips differ in how many they have."""
    counts = mask.sum(1)
    if mask.device.type != "meta" and int(counts.min()) != int(counts.max()):
        raise ValueError(
            f"clips of one batch need equally many tokens, got {int(counts.min())} to {int(counts.max())}; "
            "with running-cell masking this takes an even grid or a number of slots divisible by 4"
        )
    return mask.nonzero()[:, 1].view(mask.shape[0], -1)
