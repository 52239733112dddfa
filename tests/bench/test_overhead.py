"""The bench of the platform's overhead: all rows train on the same, and the goals are told from what was measured."""

import pytest
from rich.console import Console

from marey.bench.overhead import (
    ALONE,
    BARE,
    RAY,
    OverheadBench,
    Row,
    Turn,
    _bare,
    _marey,
    prepare,
    ratio,
    show,
    verdicts,
)
from marey.errors import ConfigError

SMALL = OverheadBench(
    backbone="videomae_v2_tiny_pretrain", crop=32, workers=1, batch=4, repeats=2, warm_up=1, steps=2, rounds=1
)


@pytest.mark.slow
def test_the_bare_loop_trains_as_the_platform_does(tmp_path):
    training = prepare(SMALL, tmp_path)
    bare, ours = (turn(SMALL, training, tmp_path / name, False) for name, turn in (("bare", _bare), ("ours", _marey)))
    assert bare.losses == pytest.approx(ours.losses, rel=1e-4)
    assert len(bare.losses) == 3
    assert bare.seconds > 0 < ours.seconds
    assert 0 < ours.tracking < ours.seconds


def rows(step: float, tracking: float) -> list[Row]:
    return [Row(BARE, [Turn(0.3, [1.0])] * 2), Row(RAY, [Turn(0.3 * step, [1.0], tracking)] * 2)]


def test_goals_are_judged_by_medians_of_the_ratios():
    assert [line.rsplit(" ", 1)[1] for line in verdicts(rows(1.02, 0.001))] == ["ok", "ok"]
    assert [line.rsplit(" ", 1)[1] for line in verdicts(rows(1.06, 0.01))] == ["MISSED", "MISSED"]
    uneven = [Row(BARE, [Turn(s, []) for s in (1.0, 2.0, 4.0)]), Row(ALONE, [Turn(s, []) for s in (1.1, 2.0, 9.0)])]
    assert ratio(uneven[1], uneven[0]) == pytest.approx(1.1)


def test_short_steps_are_not_judged():
    short = [Row(BARE, [Turn(0.05, [1.0])]), Row(RAY, [Turn(0.09, [1.0], 0.0)])]
    assert "too short for the goals" in verdicts(short)[0]
    console = Console(record=True, width=150)
    show(SMALL, short, console)
    assert "1.800" in console.export_text()


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch=4"):
        prepare(SMALL.replace(workers=3), tmp_path)
