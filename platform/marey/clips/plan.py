"""The order of training: which row of a clip table is sample i of an epoch, and the random key of every sample.

A pure function of (rows, seed, epoch), so that any number of workers, a restart in the middle of an epoch, and a
different way of feeding all see the same samples; no list of rows is held. `Plan` strings the epochs together into
one stream: sample g of the stream is sample ``g % length`` of epoch ``g // length``, and step s of a global batch B
takes the samples ``[s·B, (s+1)·B)``, of which each worker takes a contiguous slice.
"""

import hashlib
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

from marey.clips.permutation import permuted
from marey.clips.quotas import Quotas

# What is drawn from a sample's key, each from a stream of its own (`rng_of`). Stream 0: its crop.
MASK_STREAM = 1
RANDAUGMENT_STREAM = 2
MIX_STREAM = 3
ERASE_STREAM = 4
FLIP_STREAM = 5
JITTER_STREAM = 6


class Sample(NamedTuple):
    """One sample of the order. Its keys seed everything that is drawn for it."""

    epoch: int
    """Epoch, from 0."""
    row: int
    """Row of the clip table."""
    key: int
    """63-bit key of (seed, epoch, sample): crop, flip, masks, drop path."""
    decode_key: int
    """63-bit key of (seed, epoch, turn): which frames; the same for all repeats of a row, which decode once."""
    view: int = -1
    """Place in the grid of evaluation views (time, then space); -1: frames and crop are drawn from the keys."""


@dataclass(frozen=True)
class Plan:
    """The stream of samples over all epochs; ``repeats`` samples of a row follow each other (repeated augmentation).

    One epoch is ``rows * repeats`` samples long: every row once, ``repeats`` times augmented (Hoffer et al. 2020;
    VideoMAE V2 counts its epochs so too when it calls 200 passes with 4 repeats "800 epochs").
    """

    rows: int
    seed: int = 0
    repeats: int = 1
    quotas: Quotas | None = None
    """How often each class comes; None: every row once."""

    @property
    def epoch_length(self) -> int:
        """Samples in an epoch."""
        return self.rows * self.repeats

    def num_steps(self, epochs: float, batch: int) -> int:
        """Steps of ``batch`` samples that cover ``epochs``, at least one."""
        return max(1, -(-round(epochs * self.epoch_length) // batch))

    def sample(self, index: int) -> Sample:
        """Sample ``index`` of the stream."""
        return self.samples(index, index + 1)[0]

    def samples(self, first: int, stop: int) -> list[Sample]:
        """Samples ``first`` to ``stop`` (exclusive) of the stream."""
        if stop <= first:
            return []
        epochs, places = np.divmod(np.arange(first, stop), self.epoch_length)
        turns = places // self.repeats
        rows = np.concatenate([self._rows(turns[epochs == one], int(one)) for one in np.unique(epochs)])
        return [
            Sample(epoch, row, key_of(self.seed, epoch, place), key_of(self.seed, epoch, turn, "decode"))
            for epoch, place, turn, row in zip(*(one.tolist() for one in (epochs, places, turns, rows)), strict=True)
        ]

    def _rows(self, turns: np.ndarray, epoch: int) -> np.ndarray:
        """The rows that come at ``turns`` (int64 [n], repeats counted once) of an epoch."""
        slots = permuted(turns, self.rows, key_of(self.seed, epoch, 0, "order"))
        if self.quotas is None:
            return slots
        return self.quotas.rows(slots, epoch, key_of(self.seed, 0, 0, "class"))

    def slice(self, step: int, batch: int, rank: int = 0, world: int = 1) -> list[Sample]:
        """The samples of one worker at one step: its contiguous share of the global batch."""
        share = batch // world
        first = step * batch + rank * share
        return self.samples(first, first + share)


@dataclass(frozen=True)
class EvaluationPlan(Plan):
    """The order of an evaluation: every view of every row once, row by row, views in time before views in space.

    A sample's key is its place, and samples from ``epoch_length`` on are padding: workers that must run equally many
    passes get the first rows again, and whoever collects the scores drops keys that are not below ``epoch_length``.
    """

    temporal: int = 1
    spatial: int = 1

    @property
    def views(self) -> int:
        """Views of a row."""
        return self.temporal * self.spatial

    @property
    def epoch_length(self) -> int:
        """Views in all."""
        return self.rows * self.views

    def samples(self, first: int, stop: int) -> list[Sample]:
        """See `Plan.samples`; the views of one moment share a decode key, and are decoded once."""
        return [self._view(index) for index in range(first, stop)]

    def _view(self, index: int) -> Sample:
        epoch, place = divmod(index, self.epoch_length)
        row, view = divmod(place, self.views)
        return Sample(epoch, row, index, index // self.spatial, view)


@dataclass(frozen=True)
class EpochPlan(Sequence[Sample]):
    """One epoch of a `Plan` as a sequence of samples."""

    stream: Plan
    epoch: int

    def __len__(self) -> int:
        return self.stream.epoch_length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            return self.stream.samples(self.epoch * len(self) + first, self.epoch * len(self) + stop)[::step]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of an epoch of {len(self)}")
        return self.stream.sample(self.epoch * len(self) + index % len(self))


def plan(table: Sized | int, seed: int, epoch: int, repeats: int = 1) -> EpochPlan:
    """``plan(table, seed, epoch)[i]`` is sample i of that epoch's global order."""
    rows = table if isinstance(table, int) else len(table)
    return EpochPlan(Plan(rows, seed, repeats), epoch)


def key_of(seed: int, epoch: int, index: int, what: str = "sample") -> int:
    """A 63-bit key, well mixed: neighbouring samples have unrelated ones."""
    text = f"{what}:{seed}:{epoch}:{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def rng_of(key: int, stream: int = 0) -> np.random.Generator:
    """A generator for one purpose: different streams of one key are independent."""
    return np.random.Generator(np.random.Philox(key=np.array([key, stream], dtype=np.uint64)))
