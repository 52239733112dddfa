"""A permutation of any number of rows that is never written down: row numbers are computed from places.

A Feistel network over the next even power of two (Luby and Rackoff 1988), walked on from numbers that are too large
until one fits (Black and Rogaway 2002). A hundred million rows cost nothing before the first is asked for, and of many
asked for together each costs less than a microsecond, in any order.
"""

import numpy as np

_ROUNDS = 6  # four are enough for a pseudo-random permutation; small domains want a few more
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's


def permuted(places: np.ndarray, rows: int, key: int) -> np.ndarray:
    """The rows at ``places`` (int64 [n], each in 0..rows-1) of permutation ``key`` of ``rows``, int64 [n]."""
    if rows <= 1:
        return np.zeros(len(places), np.int64)
    half = np.uint64(max(1, -(-(rows - 1).bit_length() // 2)))
    keys = _mixed(np.uint64(key) + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    found = _scrambled(places.astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(found >= np.uint64(rows))):
        found[outside] = _scrambled(found[outside], half, keys)
    return found.astype(np.int64)


def _scrambled(numbers: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """A permutation of the numbers below 4 ** half."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Each 64-bit number well mixed (splitmix64's finish); wraps around."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX[1]
    return numbers ^ (numbers >> np.uint64(31))
