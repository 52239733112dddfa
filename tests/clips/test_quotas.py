"""How often each class comes."""

from collections import Counter

import numpy as np
import pytest

from marey.clips.plan import Plan
from marey.clips.quotas import BalanceConfig, mixed, quotas
from marey.errors import ConfigError

LABELS = np.array([0] * 70 + [1] * 20 + [2] * 10)
NAMES = ["common", "rare", "rarest"]


def drawn(config: BalanceConfig, epochs: int = 1) -> list[int]:
    plan = Plan(len(LABELS), seed=3, quotas=quotas(LABELS, NAMES, config))
    return [one.row for one in plan.samples(0, epochs * len(LABELS))]


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (BalanceConfig(), [70, 20, 10]),
        (BalanceConfig(evenness=1), [34, 33, 33]),
        (BalanceConfig(evenness=0.5), [52, 28, 20]),
        (BalanceConfig(weights={"common": 0}), [0, 67, 33]),
        (BalanceConfig(evenness=1, weights={"rarest": 2}), [25, 25, 50]),
    ],
)
def test_classes_come_as_often_as_asked(config, counts):
    seen = Counter(LABELS[row] for row in drawn(config))
    assert [seen[label] for label in range(3)] == counts


def test_every_row_of_a_class_comes_before_any_comes_again():
    rows = [row for row in drawn(BalanceConfig(evenness=1), epochs=3) if LABELS[row] == 0]
    assert len(rows) == 102
    seen = Counter(rows)
    assert set(seen) == set(range(70))
    assert set(seen.values()) == {1, 2}
    rarest = Counter(row for row in drawn(BalanceConfig(evenness=1), epochs=10) if LABELS[row] == 2)
    assert set(rarest.values()) == {33}


def test_classes_are_mixed_and_their_orders_differ():
    rows = drawn(BalanceConfig(evenness=1))
    labels = np.array([LABELS[row] for row in rows])
    assert 45 < (np.diff(labels) != 0).sum() < 85
    cycles = [row for row in drawn(BalanceConfig(evenness=1)) if LABELS[row] == 2]
    assert cycles[:10] != sorted(cycles[:10])


def test_a_plan_with_quotas_gives_the_same_from_any_place():
    plan = Plan(len(LABELS), seed=3, repeats=2, quotas=quotas(LABELS, NAMES, BalanceConfig(evenness=1)))
    assert [plan.sample(index) for index in range(150, 260)] == plan.samples(150, 260)


def test_unknown_classes_and_impossible_weights_are_refused():
    with pytest.raises(ConfigError, match="no class 'comon'; did you mean 'common'"):
        quotas(LABELS, NAMES, BalanceConfig(weights={"comon": 2}))
    with pytest.raises(ConfigError, match="'rare' is given -1; a factor of 0 or more"):
        quotas(LABELS, NAMES, BalanceConfig(weights={"rare": -1}))
    with pytest.raises(ConfigError, match="leaves no class"):
        quotas(LABELS, NAMES, BalanceConfig(weights=dict.fromkeys(NAMES, 0)))


SECTIONS = np.array([0] * 80 + [1] * 20)


@pytest.mark.parametrize(
    ("shares", "config", "counts"),
    [
        ([1, 1], None, {(0, 0): 50, (1, 0): 50}),
        ([4, 1], None, {(0, 0): 80, (1, 0): 20}),
        ([1, 3], BalanceConfig(evenness=1), {(0, 0): 13, (0, 1): 13, (1, 1): 37, (1, 2): 37}),
    ],
)
def test_tables_come_as_often_as_asked_and_their_classes_too(shares, config, counts):
    made = mixed(SECTIONS, shares) if config is None else mixed(SECTIONS, shares, LABELS, NAMES, config)
    rows = [one.row for one in Plan(len(LABELS), seed=3, quotas=made).samples(0, len(LABELS))]
    assert Counter((SECTIONS[row], LABELS[row] if config else 0) for row in rows) == counts


def test_a_table_without_rows_cannot_give_any():
    with pytest.raises(ConfigError, match="table 3 of 3 has no rows in this split"):
        mixed(SECTIONS, [1, 1, 1])
