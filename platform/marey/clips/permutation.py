"""A permutation of any number of rows that is never written down: row numbers are computed from places.

A Feistel network over the next even power of two (Luby and Rackoff 1988), walked on from numbers that are too large
until one fits (Black and Rogaway 2002). A hundred million rows cost nothing before the first is asked for, and of many
asked for together each costs less than a microsecond, in any order.
"""

import numpy as np

_ROUNDS = 6  # four are enough for a pseudo-random permutation; small domains want a few more
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's


def permuted(places: np.ndarray, rows: int | np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """The rows at ``places`` (int64 [n], each in 0..rows-1) of permutation ``key`` of ``rows``, int64 [n].

    ``rows`` (int64 [n]) and ``key`` (uint64 [n]) may differ from place to place: many permutations at once.
    """
    shape = places.shape
    limit = np.broadcast_to(np.asarray(rows, np.uint64), shape)
    bits = np.frexp(np.maximum(np.asarray(rows) - 1, 1).astype(np.float64))[1]
    half = np.broadcast_to(np.maximum(1, -(-bits // 2)).astype(np.uint64), shape)
    turns = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    keys = np.broadcast_to(_mixed(np.atleast_1d(np.asarray(key, np.uint64)) + turns), (_ROUNDS, *shape))
    found = _scrambled(places.astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(found >= limit)):
        found[outside] = _scrambled(found[outside], half[outside], keys[:, outside])
    return found.astype(np.int64)


def _scrambled(numbers: np.ndarray, half: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A permutation of the numbers below 4 ** half; ``keys`` [rounds, n]."""
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
