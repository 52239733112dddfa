"""Which frames of a row make a clip."""

import numpy as np
from pydantic import Field

from marey.clips.row import ClipRow
from marey.config import Config


class SamplingConfig(Config):
    """Dense sampling: consecutive frames, ``stride`` apart, from a random start."""

    stride: int = Field(4, gt=0)
    """Stored frames from one frame of a clip to the next."""


def sample(row: ClipRow, rng: np.random.Generator, frames: int, stride: int) -> np.ndarray:
    """Indices int64 [T] into the row's frames.

    Where the row is shorter than ``frames * stride`` the frames are spread over the whole of it, so that a short
    video still moves; one with fewer frames than asked for repeats some.
    """
    last = row.num_frames - 1
    span = min(float(stride * (frames - 1)), float(last))
    start = rng.uniform(0, last - span + 1) if last > span else 0.0
    step = span / max(1, frames - 1)
    return np.minimum(np.floor(start + step * np.arange(frames) + 1e-9), last).astype(np.int64)
