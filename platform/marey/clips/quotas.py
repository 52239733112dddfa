"""How often each class, or each of several tables, comes in an epoch: as its rows do, evenly, in between, by weights.

An epoch has as many samples as there are rows; a group's share of them is its quota. The rows of a group come in a
shuffled order of their own that goes on from epoch to epoch, so that each is seen before any is seen again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from marey.clips.mapped import empty, slices
from marey.clips.permutation import permuted
from marey.config import Config, did_you_mean
from marey.errors import ConfigError


class BalanceConfig(Config):
    """Which classes come more often than their rows do."""

    evenness: float = Field(0.0, ge=0, le=1)
    """0: every row as often; 1: every class as often; between: by rows ** (1 - evenness), 0.5 being the square root."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Factors on that by class name; 0 leaves a class out."""

    @property
    def is_off(self) -> bool:
        """Whether every row comes once an epoch."""
        return not self.evenness and not self.weights


@dataclass(frozen=True, eq=False)
class Quotas:
    """The rows by group (a class, a table), and how many samples of an epoch each group gives.

    8 bytes a row, in a mapped file where they are many.
    """

    members: np.ndarray
    """Row numbers int64 [rows], group after group."""
    sizes: np.ndarray
    """Rows of each group, int64 [G]."""
    counts: np.ndarray
    """Samples of each group in an epoch, int64 [G]; they add up to the rows."""

    def rows(self, slots: np.ndarray, epoch: int, key: int) -> np.ndarray:
        """The rows of ``slots`` (int64 [n], each in 0..rows-1) of an epoch, int64 [n]."""
        ends, first = np.cumsum(self.counts), np.cumsum(self.sizes) - self.sizes
        group = np.searchsorted(ends, slots, side="right")
        drawn = epoch * self.counts[group] + slots - (ends - self.counts)[group]
        cycle, place = np.divmod(drawn, self.sizes[group])
        keys = (  # one for each group and turn; wraps around
            np.uint64(key)
            + group.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + cycle.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        )
        return self.members[first[group] + permuted(place, self.sizes[group], keys)]


def quotas(labels: np.ndarray, names: Sequence[str], config: BalanceConfig) -> Quotas:
    """The quotas of rows with these ``labels`` (int [rows]); ``names``: of the classes by label.

    Raises `ConfigError`.
    """
    return mixed(np.broadcast_to(0, len(labels)), [1.0], labels, names, config)


def mixed(
    sections: np.ndarray,
    shares: Sequence[float],
    labels: np.ndarray | None = None,
    names: Sequence[str] = ("",),
    config: BalanceConfig | None = None,
) -> Quotas:
    """The quotas of several tables' rows: ``sections`` int [rows]: whose each is; ``shares``: what each table gives.

    Shares are relative to one another. Within a table the classes come by ``config``, as in `quotas`; without labels
    every row as often. Raises `ConfigError`, also where a table has no rows to give.
    """
    classes = np.broadcast_to(0, len(sections)) if labels is None else labels
    width = len(names)

    def groups(part: slice) -> np.ndarray:
        return sections[part].astype(np.int64) * width + classes[part]

    sizes = np.zeros(len(shares) * width, np.int64)
    for part in slices(len(sections)):
        sizes += np.bincount(groups(part), minlength=len(sizes))
    found = []
    for number, (share, own) in enumerate(zip(shares, sizes.reshape(-1, width), strict=True), 1):
        if not own.sum():
            raise ConfigError(f"shares: table {number} of {len(shares)} has no rows in this split; leave it out")
        found.append(share / sum(shares) * _class_shares(own, names, config or BalanceConfig()))
    counts = _whole(np.concatenate(found) * len(sections))
    return Quotas(_members(groups, sizes), sizes, counts)


def _members(groups: Callable[[slice], np.ndarray], sizes: np.ndarray) -> np.ndarray:
    """Row numbers, group after group, in a group increasing: sorted by counting, a slice of the rows at a time."""
    members = empty(int(sizes.sum()), np.int64)
    places = np.cumsum(sizes) - sizes
    for part in slices(len(members)):
        own = groups(part)
        order = np.argsort(own, kind="stable")
        there = np.bincount(own, minlength=len(sizes))
        starts = np.cumsum(there) - there
        members[(places - starts)[own[order]] + np.arange(len(own))] = order + part.start
        places += there
    return members


def _class_shares(sizes: np.ndarray, names: Sequence[str], config: BalanceConfig) -> np.ndarray:
    """What each class gives, float [K], in all 1; ``sizes``: its rows."""
    for name, weight in config.weights.items():
        if name not in names:
            raise ConfigError(f"balance.weights: the table has no class {name!r}{did_you_mean(name, names)}")
        if weight < 0:
            raise ConfigError(f"balance.weights: {name!r} is given {weight:g}; a factor of 0 or more is needed")
    factors = np.array([config.weights.get(name, 1.0) for name in names])
    shares = np.where(sizes > 0, np.maximum(sizes, 1) ** (1 - config.evenness), 0) * factors
    if not shares.sum():
        raise ConfigError("balance.weights: leaves no class; give at least one that has rows a factor above 0")
    return shares / shares.sum()


def _whole(shares: np.ndarray) -> np.ndarray:
    """Whole numbers with the same sum, each within 1 of its share (largest remainders)."""
    counts = np.floor(shares + 1e-9).astype(np.int64)
    left = round(float(shares.sum())) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    return counts
