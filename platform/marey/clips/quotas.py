"""How often each class comes in an epoch: as its rows do, evenly, in between, or by weights.

An epoch has as many samples as the table has rows; a class's share of them is its quota. The rows of a class come in
a shuffled order of their own that goes on from epoch to epoch, so that each is seen before any is seen again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

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
    """8 bytes a row: the rows by class, and how many samples of an epoch each class gives."""

    members: np.ndarray
    """Row numbers int64 [rows], class after class."""
    sizes: np.ndarray
    """Rows of each class, int64 [K]."""
    counts: np.ndarray
    """Samples of each class in an epoch, int64 [K]; they add up to the rows."""

    def rows(self, slots: np.ndarray, epoch: int, key: int) -> np.ndarray:
        """The rows of ``slots`` (int64 [n], each in 0..rows-1) of an epoch, int64 [n]."""
        ends, first = np.cumsum(self.counts), np.cumsum(self.sizes) - self.sizes
        group = np.searchsorted(ends, slots, side="right")
        drawn = epoch * self.counts[group] + slots - (ends - self.counts)[group]
        cycle, place = np.divmod(drawn, self.sizes[group])
        found = np.empty(len(slots), np.int64)
        for one, turn in set(zip(group.tolist(), cycle.tolist(), strict=True)):
            chosen = (group == one) & (cycle == turn)
            its_key = (key + one * 0x9E3779B97F4A7C15 + turn * 0xD1B54A32D192ED03) % 2**64
            found[chosen] = first[one] + permuted(place[chosen], int(self.sizes[one]), its_key)
        return self.members[found]


def quotas(labels: Sequence[int], names: Sequence[str], config: BalanceConfig) -> Quotas:
    """The quotas of rows with these ``labels``; ``names``: of the classes by label. Raises `ConfigError`."""
    for name, weight in config.weights.items():
        if name not in names:
            raise ConfigError(f"balance.weights: the table has no class {name!r}{did_you_mean(name, names)}")
        if weight < 0:
            raise ConfigError(f"balance.weights: {name!r} is given {weight:g}; a factor of 0 or more is needed")
    array = np.asarray(labels, np.int64)
    sizes = np.bincount(array, minlength=len(names))
    factors = np.array([config.weights.get(name, 1.0) for name in names])
    shares = np.where(sizes > 0, np.maximum(sizes, 1) ** (1 - config.evenness), 0) * factors
    if not shares.sum():
        raise ConfigError("balance.weights: leaves no class; give at least one that has rows a factor above 0")
    return Quotas(np.argsort(array, kind="stable"), sizes, _whole(shares / shares.sum() * len(array)))


def _whole(shares: np.ndarray) -> np.ndarray:
    """Whole numbers with the same sum, each within 1 of its share (largest remainders)."""
    counts = np.floor(shares + 1e-9).astype(np.int64)
    left = round(float(shares.sum())) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    return counts
