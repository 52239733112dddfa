"""The moving average of the weights."""

import pytest
import torch

from marey.engine.ema import Ema


def test_it_follows_the_weights_slower_than_they_move():
    weight = {"w": torch.zeros(3)}
    ema = Ema(0.9, weight)
    for step in range(1, 60):
        weight["w"].fill_(float(step))
        ema.update(weight)
    expected = 0.0
    for step in range(1, 60):
        decay = min(0.9, step / (9 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.averages["w"].tolist() == pytest.approx([expected] * 3)
    assert 45 < expected < 59


def test_inside_the_averages_are_in_the_place_of_the_weights_also_after_an_error():
    weight = {"w": torch.ones(2)}
    ema = Ema(0.5, weight)
    weight["w"].fill_(5.0)
    ema.update(weight)
    average = ema.averages["w"].clone()
    with ema.swapped(weight):
        assert torch.equal(weight["w"], average)
    with pytest.raises(RuntimeError), ema.swapped(weight):
        raise RuntimeError
    assert weight["w"].tolist() == [5.0, 5.0]
    assert torch.equal(ema.averages["w"], average)
