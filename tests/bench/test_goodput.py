"""The bench of faults: its figures follow from the record and the kills."""

import pytest

from marey.bench.goodput import Kill, measure
from marey.errors import ConfigError
from marey.tracking.goodput import Goodput


def test_the_restart_is_what_is_left_of_an_interruption_without_what_was_done_again():
    # 100 steps of 2 s, saved every 10 of them for 0.5 s; two faults, after 4 and 6 steps that were not saved.
    found = Goodput(200.0, 30.0, 5.0, 0.0, (10.0 + 8.0, 12.0 + 12.0), 0.0)
    measured = measure(found, [Kill(4), Kill(6)], every=10, steps=100)
    assert measured.restart == 11.0
    assert (measured.between_saves, measured.stall, measured.kills) == (20.0, 0.5, 2)
    assert measured.between_faults == 247.0 / 2
    assert measured.goodput == 200 / 247
    assert measured.predicted == pytest.approx(1 - 0.5 / 20 - (10 + 11) / 123.5)
    assert measured.predicted == pytest.approx(measured.goodput, abs=0.01)


def test_without_faults_nothing_is_measured():
    with pytest.raises(ConfigError, match="no worker was killed"):
        measure(Goodput(200.0, 30.0, 5.0, 0.0, (), 0.0), [], every=10, steps=100)
