"""The synthetic set: motion tells the classes apart, a frame does not."""

import itertools

import numpy as np
import pytest

from marey.clips.datasets import find_sources
from marey.clips.motion_shapes import CLASSES, REVERSED, draw_clip, write_motion_shapes


def steps(frames: list[np.ndarray], axis: int) -> np.ndarray:
    """Direction of the shapes' steps along an axis (0 down, 1 right), by the shift that fits best."""
    clip = [frame.mean(2) - np.median(frame.mean(2)) for frame in frames]
    shifts = range(-6, 7)
    best = [max(shifts, key=lambda d: (np.roll(a, d, axis) * b).sum()) for a, b in itertools.pairwise(clip)]
    return np.sign(best)


DIRECTIONS = [("translate_right", 1, 1), ("translate_left", 1, -1), ("translate_down", 0, 1), ("translate_up", 0, -1)]


@pytest.mark.parametrize(("kind", "axis", "sign"), DIRECTIONS)
def test_shapes_move_where_its_class_says_and_backwards_where_its_partner_says(kind, axis, sign):
    clips = [list(draw_clip(kind, seed, size=64, frames=8)) for seed in range(8)]
    assert np.concatenate([steps(clip, axis) == sign for clip in clips]).mean() > 0.8
    assert np.concatenate([steps(clip[::-1], axis) == -sign for clip in clips]).mean() > 0.8
    assert (REVERSED[kind], axis, -sign) in DIRECTIONS


def test_classes_are_pairs_of_each_others_reversal():
    assert {REVERSED[REVERSED[kind]] for kind in CLASSES} == set(CLASSES)
    assert REVERSED["grow"] == "shrink"


def test_a_single_frame_has_the_same_statistics_in_all_classes():
    means = {}
    for place in (0, 7):
        for kind in CLASSES:
            frames = [list(draw_clip(kind, seed, size=48, frames=8))[place] for seed in range(1000, 1060)]
            means[kind, place] = np.stack(frames).mean()
    assert np.std(list(means.values())) < 6  # of 255; the seeds are the same, so only the place in the motion differs


def test_labels_and_splits_are_read_and_a_second_call_writes_nothing(tmp_path):
    said = []
    write_motion_shapes(tmp_path, 6, seed=1, size=32, progress=lambda done, total: said.append((done, total)))
    sources = find_sources(tmp_path)
    assert len(sources) == 48 == said[-1][0]
    assert {source.label_name for source in sources} == set(CLASSES)
    assert [source.split for source in sources[:6]] == ["train"] * 4 + ["validation"] + ["test"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    write_motion_shapes(tmp_path, 6, seed=1, size=32)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
