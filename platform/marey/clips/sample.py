"""Which frames of a row make a clip: drawn at random for training, in a fixed grid of views for evaluation."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from marey.clips.row import ClipRow
from marey.config import Config

_DEFAULT_STRIDE = 4.0


class SamplingConfig(Config):
    """How the frames of a clip lie in its row, and as what they are handed over.

    Dense clips (Carreira and Zisserman 2017, Feichtenhofer et al. 2019) are frames at one distance, from a random
    start; ``stride``, ``fps`` and ``duration`` are three ways to say that distance, of which one is given. The other
    kinds spread over the whole row, whatever its length, and need none.
    """

    kind: Literal["dense", "segments", "uniform"] = "dense"
    """dense; segments: a random frame of each of T equal parts (TSN); uniform: the same place in each, jittered."""
    stride: float | None = Field(None, gt=0)
    """dense: stored frames from one frame of a clip to the next; 4 where fps and duration are not given either."""
    fps: float | None = Field(None, gt=0)
    """dense: frames of a clip in a second of the video, at most the stored ones."""
    duration: float | None = Field(None, gt=0)
    """dense: seconds that a clip covers."""
    start: Literal["any", "keyframe"] = "any"
    """dense, in training: any frame, or, cheaper to decode, one that needs no other: of storage h264 every 16th."""
    pixels: Literal["rgb", "yuv420"] = "rgb"
    """yuv420: as they are decoded, and RGB only on the device: cheaper, and half the bytes."""

    @model_validator(mode="after")
    def _one_distance(self) -> "SamplingConfig":
        given = [f"{name}={value:g}" for name, value in self._distances().items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; keep one, and set the other to none")
        if given and self.kind != "dense":
            raise ValueError(
                f"{given[0]} has no meaning for kind={self.kind}, which spreads over the row; set it to none"
            )
        if self.start != "any" and self.kind != "dense":
            raise ValueError(f"start={self.start} has no meaning for kind={self.kind}, which spreads over the row")
        return self

    def _distances(self) -> dict[str, float | None]:
        return {"stride": self.stride, "fps": self.fps, "duration": self.duration}

    def step(self, fps: float, frames: int) -> float:
        """Stored frames, at ``fps`` a second, from one of a dense clip's ``frames`` to the next."""
        if self.fps is not None:
            return fps / self.fps
        if self.duration is not None:
            return fps * self.duration / frames
        return self.stride or _DEFAULT_STRIDE


class ViewConfig(Config):
    """The views of an evaluation (Feichtenhofer et al. 2019 test with 10 × 3, VideoMAE with 5 × 3, TSN with 1 × 10)."""

    temporal: int = Field(1, gt=0)
    """Clips spread evenly over each row; 1: its middle."""
    spatial: Literal[1, 3, 10] = 1
    """Crops: 1: the centre; 3: both ends and the centre of the longer side; 10: corners and centre, and mirrored."""


def sample(row: ClipRow, rng: np.random.Generator, frames: int, config: SamplingConfig) -> np.ndarray:
    """Indices int64 [T] into the row's frames.

    Where the row is shorter than a dense clip the frames are spread over the whole of it, so that a short video
    still moves; one with fewer frames than asked for repeats some.
    """
    if config.kind == "segments":
        return _of_parts(row, rng.random(frames))
    if config.kind == "uniform":
        return _of_parts(row, np.full(frames, rng.random()))
    span = _span(row, frames, config)
    last = row.num_frames - 1
    start = rng.uniform(0, last - span + 1) if last > span else 0.0
    if config.start == "keyframe" and (fitting := [key for key in row.keyframes or () if key <= last - span]):
        start = float(rng.choice(fitting))
    return _spread(row, start, span, frames)


def view(row: ClipRow, frames: int, config: SamplingConfig, place: int, temporal: int) -> np.ndarray:
    """Indices int64 [T] of clip ``place`` of ``temporal``.

    Dense clips are spread evenly from the row's start to its end; of the other kinds, view p of P takes the frame at
    (p + 1/2) / P of each part: the middle where there is one view.
    """
    if config.kind != "dense":
        return _of_parts(row, np.full(frames, (place + 0.5) / temporal))
    span = _span(row, frames, config)
    share = place / (temporal - 1) if temporal > 1 else 0.5
    return _spread(row, (row.num_frames - 1 - span) * share, span, frames)


def _of_parts(row: ClipRow, places: np.ndarray) -> np.ndarray:
    """One frame of each of T equal parts of the row; ``places`` [T], 0..1, say where in its part each lies."""
    edges = (np.arange(len(places)) + places) * row.num_frames / len(places)
    return np.minimum(np.floor(edges + 1e-9), row.num_frames - 1).astype(np.int64)


def _span(row: ClipRow, frames: int, config: SamplingConfig) -> float:
    """Frames between the first and the last of a dense clip."""
    return min(config.step(row.fps, frames) * (frames - 1), float(row.num_frames - 1))


def _spread(row: ClipRow, start: float, span: float, frames: int) -> np.ndarray:
    step = span / max(1, frames - 1)
    return np.minimum(np.floor(start + step * np.arange(frames) + 1e-9), row.num_frames - 1).astype(np.int64)
