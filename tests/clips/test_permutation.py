"""A permutation that is computed, not stored."""

from collections import Counter

import numpy as np
import pytest

from marey.clips.permutation import permuted


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 100, 4097])
def test_every_row_has_one_place(rows: int):
    assert sorted(permuted(np.arange(rows), rows, 987654321987654321)) == list(range(rows))


def test_places_may_be_asked_for_in_any_order():
    places = np.array([70, 3, 3, 99])
    assert permuted(places, 100, 8).tolist() == permuted(np.arange(100), 100, 8)[places].tolist()


def test_all_orders_are_as_likely():
    orders = Counter(tuple(permuted(np.arange(4), 4, key * 7919 + 1).tolist()) for key in range(2400))
    assert len(orders) == 24
    assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 50  # chi-square, 23 degrees of freedom


def test_rows_and_neighbours_are_where_chance_would_have_them():
    drawn = np.stack([permuted(np.arange(50), 50, key * 977 + 13) for key in range(4000)])
    counts = np.stack([np.bincount(place, minlength=50) for place in drawn.T])
    assert ((counts - 80) ** 2 / 80).sum() / 49**2 == pytest.approx(1, abs=0.15)
    assert (np.diff(drawn, axis=1) == 1).mean() == pytest.approx(1 / 50, abs=0.002)
