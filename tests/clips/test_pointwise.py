"""Runs of pointwise operations as one table."""

import numpy as np
import pytest
import torch
from PIL import Image

from clips.pillow_peer import as_clip, smooth_picture
from marey.bench.augment_pillow import OPERATIONS
from marey.clips.pointwise import FIXED, MEASURED, look_up, to_bytes

RAMP = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
LEVELS = {"posterize": (1, 4, 8), "solarize": (0, 77, 256), "solarize_add": (0, 50, 110), "brightness": (0.1, 1.0, 1.9)}


@pytest.mark.parametrize("name", FIXED)
def test_all_256_values_are_pillows(name):
    for level in LEVELS.get(name, (0,)):
        found = look_up(as_clip(RAMP), [[(name, level)]])[0, 0, 0].numpy()
        assert (found == np.asarray(OPERATIONS[name](RAMP, level))[..., 0]).all(), level


@pytest.mark.parametrize("name", MEASURED)
def test_a_frame_of_one_grey_stays_as_pillow_leaves_it(name):
    flat = Image.new("RGB", (8, 8), (90, 90, 90))
    found = look_up(as_clip(flat), [[(name, 1.5)]])[0, :, 0].permute(1, 2, 0).numpy()
    assert (found == np.asarray(OPERATIONS[name](flat, 1.5))).all()


def test_no_bits_kept_is_black():
    assert (look_up(as_clip(RAMP), [[("posterize", 0)]]) == 0).all()


def test_a_measured_operation_sees_what_those_before_it_did():
    picture = smooth_picture()
    run = [("solarize", 120.0), ("equalize", 0.0), ("posterize", 3.0), ("autocontrast", 0.0)]
    at_once = look_up(as_clip(picture), [run])
    clip = as_clip(picture)
    for each in run:
        clip = look_up(clip, [[each]])
    assert torch.equal(at_once, clip)


def test_floats_are_cut_off():
    assert to_bytes(torch.tensor([0.0, 0.99, 127.5, 254.999, 255.0])).tolist() == [0, 0, 127, 254, 255]
