"""Runs of motions as one warp."""

import numpy as np
import torch

from clips.pillow_peer import as_clip, in_turn, smooth_picture
from marey.clips.warp import GREY, warp

PICTURE = smooth_picture()


def test_opposite_motions_restore_every_pixel_that_stayed_in_the_frame_and_no_other():
    done = warp(as_clip(PICTURE), [[("translate_x", 0.25), ("translate_x", -0.25)]])
    expected = in_turn(PICTURE, [("translate_x", 0.25), ("translate_x", -0.25)])
    assert (done[0, :, 0].permute(1, 2, 0).numpy() == expected).all()
    assert (done[..., :16] == GREY).all()
    assert torch.equal(done[..., 16:], as_clip(PICTURE)[..., 16:])


def test_turning_forth_and_back_does_not_blur():
    middle = (slice(None), slice(None), slice(None), slice(16, 32), slice(20, 44))
    done = warp(as_clip(PICTURE), [[("rotate", 20.0), ("shear_y", 0.2), ("shear_y", -0.2), ("rotate", -20.0)]])
    assert (done[middle].int() - as_clip(PICTURE)[middle].int()).abs().max() <= 1


def test_runs_of_different_length_are_warped_together():
    runs = [[("rotate", 20.0)], [("shear_x", 0.2), ("translate_y", 0.1), ("rotate", -5.0)], [("translate_x", 0.3)]]
    clips = as_clip(PICTURE).repeat(3, 1, 2, 1, 1)
    together = warp(clips, runs)
    for place, run in enumerate(runs):
        assert torch.equal(together[place : place + 1], warp(clips[:1], [run]))
    assert torch.equal(together[:, :, 0], together[:, :, 1])


def test_order_matters():
    one, other = ("rotate", 25.0), ("translate_x", 0.2)
    forth, back = (warp(as_clip(PICTURE), [run])[0, :, 0] for run in ([one, other], [other, one]))
    expected = in_turn(PICTURE, [one, other]).astype(int)
    assert np.quantile(np.abs(forth.permute(1, 2, 0).numpy() - expected), 0.7) <= 8
    assert (forth.int() - back.int()).abs().float().mean() > 5
