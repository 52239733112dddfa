"""Which frames of a row make a clip: drawn at random for training, in a fixed grid of views for evaluation."""

from typing import Literal

import numpy as np
from pydantic import Field

from marey.clips.row import ClipRow
from marey.config import Config


class SamplingConfig(Config):
    """Dense sampling: consecutive frames, ``stride`` apart, from a random start."""

    stride: int = Field(4, gt=0)
    """Stored frames from one frame of a clip to the next."""


class ViewConfig(Config):
    """The views of an evaluation (Feichtenhofer et al. 2019 test with 10 × 3, VideoMAE with 5 × 3)."""

    temporal: int = Field(1, gt=0)
    """Clips spread evenly over each row; 1: its middle."""
    spatial: Literal[1, 3] = 1
    """Crops of each clip: 1: the centre; 3: both ends and the centre of the longer side."""


def sample(row: ClipRow, rng: np.random.Generator, frames: int, stride: int) -> np.ndarray:
    """Indices int64 [T] into the row's frames.

    Where the row is shorter than ``frames * stride`` the frames are spread over the whole of it, so that a short
    video still moves; one with fewer frames than asked for repeats some.
    """
    span = _span(row, frames, stride)
    last = row.num_frames - 1
    start = rng.uniform(0, last - span + 1) if last > span else 0.0
    return _spread(row, start, span, frames)


def view(row: ClipRow, frames: int, stride: int, place: int, temporal: int) -> np.ndarray:
    """Indices int64 [T] of clip ``place`` of ``temporal`` that are spread evenly from the row's start to its end."""
    span = _span(row, frames, stride)
    share = place / (temporal - 1) if temporal > 1 else 0.5
    return _spread(row, (row.num_frames - 1 - span) * share, span, frames)


def _span(row: ClipRow, frames: int, stride: int) -> float:
    """Frames between the first and the last of a clip."""
    return min(float(stride * (frames - 1)), float(row.num_frames - 1))


def _spread(row: ClipRow, start: float, span: float, frames: int) -> np.ndarray:
    step = span / max(1, frames - 1)
    return np.minimum(np.floor(start + step * np.arange(frames) + 1e-9), row.num_frames - 1).astype(np.int64)
