"""The sine-cosine table equals its formula."""

import math

import pytest

from marey.nn.position import sincos_table


def test_shape_and_type():
    table = sincos_table(5, 6)
    assert table.shape == (1, 5, 6)
    assert str(table.dtype) == "torch.float32"


@pytest.mark.parametrize(("position", "channel"), [(0, 0), (0, 1), (1, 2), (7, 3), (1567, 0), (1567, 767), (900, 384)])
def test_entries(position: int, channel: int):
    angle = position / 10000 ** (2 * (channel // 2) / 768)
    expected = math.cos(angle) if channel % 2 else math.sin(angle)
    assert sincos_table(1568, 768)[0, position, channel].item() == pytest.approx(expected, abs=1e-7)


def test_no_two_positions_are_alike():
    assert len(sincos_table(1568, 48)[0].unique(dim=0)) == 1568
