"""Heatmaps are PoseConv3D's."""

import math

import numpy as np
import pytest

from marey.clips.heatmaps import pose_heatmaps


def drawn(joints: np.ndarray, height: int, width: int, sigma: float) -> np.ndarray:
    """The definition, pixel by pixel."""
    maps = np.zeros((joints.shape[0], joints.shape[2], height, width), np.float32)
    for t, p, k in np.ndindex(joints.shape[:3]):
        x, y, score = joints[t, p, k]
        if not score >= 1e-4 or not np.isfinite([x, y]).all():
            continue
        for row in range(max(int(y - 3 * sigma), 0), min(int(y + 3 * sigma) + 1, height)):
            for column in range(max(int(x - 3 * sigma), 0), min(int(x + 3 * sigma) + 1, width)):
                value = score * math.exp(-((column - x) ** 2 + (row - y) ** 2) / 2 / sigma**2)
                maps[t, k, row, column] = max(maps[t, k, row, column], value)
    return maps


@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_maps_are_as_defined(sigma: float) -> None:
    random = np.random.default_rng(0)
    joints = random.uniform(-4, 24, (3, 2, 5, 3))
    joints[..., 2] = random.uniform(0, 1, (3, 2, 5))
    joints[0, 0, 0], joints[1, 1, 2, 2], joints[2, 0, 1, 2] = np.nan, 0, 1e-5
    maps = pose_heatmaps(joints.astype(np.float32), 16, 20, sigma)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, drawn(joints.astype(np.float32), 16, 20, sigma), atol=1e-6)


def test_a_joint_on_a_pixel_gives_its_score_there_and_the_surer_person_wins() -> None:
    joints = np.array([[[[5, 3, 0.5]], [[5, 3, 0.9]]]], np.float32)
    maps = pose_heatmaps(joints, 8, 10)
    assert maps.shape == (1, 1, 8, 10)
    assert maps[0, 0, 3, 5] == np.float32(0.9)
    assert maps.argmax() == 3 * 10 + 5
    assert maps[0, 0, 3, 4] == pytest.approx(0.9 * math.exp(-1 / 0.72), rel=1e-5)


def test_nobody_gives_empty_maps() -> None:
    assert pose_heatmaps(np.zeros((2, 0, 17, 3), np.float32), 8, 8).shape == (2, 17, 8, 8)
    assert not pose_heatmaps(np.full((2, 1, 17, 3), np.nan, np.float32), 8, 8).any()


def test_joints_without_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[2, 1, 17, 2\]; expected \[frames, people, joints, 3\]"):
        pose_heatmaps(np.zeros((2, 1, 17, 2), np.float32), 8, 8)
