"""RandAugment's draws."""

import pytest

from marey.clips.plan import rng_of
from marey.clips.pointwise import FIXED, MEASURED
from marey.clips.randaugment import LEVELS, RandAugmentConfig, draw
from marey.clips.warp import MOTIONS


def test_draws_follow_the_key_and_half_of_the_operations_are_applied():
    config = RandAugmentConfig(ops=4, magnitude=7)
    assert draw(config, rng_of(5, 2)) == draw(config, rng_of(5, 2))
    drawn = [draw(config, rng_of(key, 2)) for key in range(500)]
    assert sum(map(len, drawn)) / 500 == pytest.approx(2, abs=0.2)
    assert (
        {one.name for each in drawn for one in each}
        == set(LEVELS)
        == {*FIXED, *MEASURED, *MOTIONS, "color", "sharpness"}
    )
    assert draw(RandAugmentConfig(), rng_of(5, 2)) == ()


def test_a_stronger_magnitude_does_more():
    weak, strong = (abs(LEVELS["rotate"](magnitude, 1.0)) for magnitude in (0.2, 0.9))
    assert weak < strong
    assert LEVELS["posterize"](0.9, 1.0) < LEVELS["posterize"](0.2, 1.0)
