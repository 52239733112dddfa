"""Pictures of what a classifier got wrong."""

import numpy as np
import pytest

from marey.tracking.judgements import confusion_picture, mistakes_picture


def test_a_cell_is_the_darker_the_larger_its_share_of_the_row():
    names = ["a", "b", "c"]
    picture = confusion_picture(np.array([[8, 0, 0], [3, 5, 0], [0, 8, 0]]), names).astype(int)
    side = 640 // 3
    left, top = picture.shape[1] - 12 - 3 * side, picture.shape[0] - 40 - 3 * side
    corners = picture[top + 6 :: side, left + 6 :: side].sum(2)[:3, :3]  # beside the counts
    assert corners[0, 0] == corners[2, 1] < corners[1, 1] < corners[1, 0] < corners[0, 1] == 3 * 255


@pytest.mark.parametrize("classes", [2, 20, 60, 400, 700])
def test_it_stays_of_a_size_to_look_at(classes):
    names = [f"a class with a name of some length {number}" for number in range(classes)]
    picture = confusion_picture(np.eye(classes, dtype=int), names)
    assert picture.dtype == np.uint8
    assert 440 < picture.shape[0] < 1100
    assert 440 < picture.shape[1] < 1100


def test_mistaken_clips_stand_one_below_the_other_with_six_frames_at_most():
    clips = [np.full((16, 32, 48, 3), value, np.uint8) for value in (10, 200)]
    picture = mistakes_picture(clips, [("wave", "clap 0.9"), ("jump", "run 0.8")])
    row = picture[12 + 112 // 2]
    assert (picture[12 + 50, -20] == 10).all()
    assert (picture[12 + 112 + 8 + 50, -20] == 200).all()
    assert int((np.diff((row[240:] == 10).all(1).astype(int)) == 1).sum()) in (5, 6)
    assert mistakes_picture(clips[:1], [("wave", "clap")]).shape[0] < picture.shape[0]
