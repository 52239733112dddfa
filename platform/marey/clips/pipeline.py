"""From a row and a sample of the plan to an example: choose frames, decode, crop. Pure, picklable, no state."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from marey.clips.augment import AugmentConfig, Box, apply_box, draw_box, draw_flip, view_box
from marey.clips.batch import Batch
from marey.clips.decode import read_frames, read_planes
from marey.clips.plan import FLIP_STREAM, Sample, rng_of
from marey.clips.row import ClipRow
from marey.clips.sample import SamplingConfig, ViewConfig, sample, view
from marey.clips.table import ClipTable
from marey.clips.yuv import cut_planes
from marey.errors import ClipError

ONE_VIEW = ViewConfig()
_RATE_TOLERANCE = 1.02  # 30 frames a second are to be had from 29.97


class Decoded(NamedTuple):
    """The clips of one row that share their frames."""

    clips: list[np.ndarray]
    """uint8 [T, H, W, C] each."""
    to_rgb: np.ndarray | None
    """What turns their planes into RGB (`marey.clips.planes.Planes`), float32 [T, 3, 4]; None where they are RGB."""
    seconds: float
    """Processor time that they took."""


@dataclass(frozen=True)
class Pipeline:
    """How examples of ``frames`` × ``crop`` × ``crop`` are made."""

    frames: int
    crop: int
    sampling: SamplingConfig
    augment: AugmentConfig
    views: ViewConfig = ONE_VIEW
    mirrored: Mapping[int, int] = field(default_factory=dict)
    """What the label of a flipped clip becomes, where it changes."""

    def check(self, table: ClipTable) -> None:
        """Raise `ClipError` if these clips cannot be made of the table."""
        short_side = int(table.settings["short_side"])
        if table.settings["storage"] != "source" and self.crop > short_side:
            raise ClipError(
                f"clip table {table.path}: frames are stored with a short side of {short_side} pixels, but "
                f"backbone.crop={self.crop}; prepare a fitting one: "
                f"jobs/prepare_clips.py videos=... table=... clips.short_side={self.crop}"
            )
        self._check_rate(table)
        if self.sampling.pixels == "yuv420" and self.crop % 2:
            raise ClipError(f"clips.pixels=yuv420 needs an even backbone.crop, not {self.crop}; or clips.pixels=rgb")

    def _check_rate(self, table: ClipTable) -> None:
        wanted = self.sampling.fps
        if wanted is None:
            return
        slowest = min((pc.min(found.column("fps")).as_py() for found in table.columns("fps")), default=0.0)
        if wanted > slowest * _RATE_TOLERANCE:
            raise ClipError(
                f"clip table {table.path}: has rows of {slowest:g} frames a second, but clips.fps={wanted:g}; ask for "
                "fewer, or where the videos have more, prepare them with more: "
                f"jobs/prepare_clips.py videos=... table=... clips.fps={wanted:g}"
            )

    def examples(self, row: ClipRow, samples: Sequence[Sample]) -> list[Tensor]:
        """One clip uint8 RGB [T, H, W, 3] for each sample of ``row`` that shares a decode key: decoded once."""
        frames = read_frames(row, self._indices(row, samples[0]).tolist())
        return [apply_box(frames, self._box(row, one), self.crop) for one in samples]

    def _indices(self, row: ClipRow, one: Sample) -> np.ndarray:
        if one.view < 0:
            return sample(row, rng_of(one.decode_key), self.frames, self.sampling)
        views = self.views
        return view(row, self.frames, self.sampling, one.view // views.spatial, views.temporal)

    def _box(self, row: ClipRow, one: Sample) -> Box:
        if one.view < 0:
            box = draw_box(self.augment, row.height, row.width, rng_of(one.key))
            return box._replace(flip=self._is_flipped(one))
        return view_box(row.height, row.width, one.view % self.views.spatial, self.views.spatial)

    def _is_flipped(self, one: Sample) -> bool:
        return one.view < 0 and draw_flip(self.augment, rng_of(one.key, FLIP_STREAM))

    def _label(self, row: ClipRow, one: Sample) -> int | None:
        if row.label is None or row.label not in self.mirrored or not self._is_flipped(one):
            return row.label
        return self.mirrored[row.label]

    def decode(self, row: ClipRow, samples: Sequence[Sample]) -> Decoded:
        """`examples`, as arrays, or their planes; and what they cost. Decoding releases the interpreter's lock."""
        began = time.thread_time()
        if self.sampling.pixels == "rgb":
            clips, to_rgb = self.examples(row, samples), None
        else:
            frames = read_planes(row, self._indices(row, samples[0]).tolist())
            clips, to_rgb = [cut_planes(frames, self._box(row, one), self.crop) for one in samples], frames.to_rgb
        return Decoded([clip.numpy() for clip in clips], to_rgb, time.thread_time() - began)

    def batch(self, rows: Sequence[ClipRow], samples: Sequence[Sample]) -> Batch:
        """The batch of ``samples``, where ``rows[i]`` is the row of ``samples[i]``."""
        return self._batch(rows, samples, [self.decode(*group) for group in _repeats(rows, samples)])

    def begin(self, rows: Sequence[ClipRow], samples: Sequence[Sample], decoders: Executor) -> Callable[[], Batch]:
        """Let ``decoders`` begin with a batch; what is returned waits for them, and gives it."""
        begun = [decoders.submit(self.decode, *group) for group in _repeats(rows, samples)]
        return lambda: self._batch(rows, samples, [one.result() for one in begun])

    def _batch(self, rows: Sequence[ClipRow], samples: Sequence[Sample], decoded: Sequence[Decoded]) -> Batch:
        labels = [self._label(row, one) for row, one in zip(rows, samples, strict=True)]
        to_rgb = [one.to_rgb for one in decoded for _ in one.clips if one.to_rgb is not None]
        return Batch(
            clip=torch.from_numpy(np.stack([clip for one in decoded for clip in one.clips])).permute(0, 4, 1, 2, 3),
            key=torch.tensor([one.key for one in samples], dtype=torch.int64),
            clip_ids=tuple(row.clip_id for row in rows),
            label=None if None in labels else torch.tensor(labels, dtype=torch.int64),
            to_rgb=torch.from_numpy(np.stack(to_rgb)) if to_rgb else None,
            decode_seconds=sum(one.seconds for one in decoded),
        )


def _repeats(rows: Sequence[ClipRow], samples: Sequence[Sample]) -> Iterator[tuple[ClipRow, list[Sample]]]:
    """Neighbouring samples that decode the same frames, together."""
    paired = zip(rows, samples, strict=True)
    for _, group in groupby(paired, key=lambda pair: pair[1].decode_key):
        members = list(group)
        yield members[0][0], [one for _, one in members]
