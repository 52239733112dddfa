import numpy as np
import pytest

from marey.tracking.pictures import evenly_spaced, reconstruction_strip


def clips(frames: int = 16, side: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    original = rng.random((frames, side, side, 3), dtype=np.float32)
    return original, np.full_like(original, 0.5), original + 2.0


def test_three_rows_of_eight_frames() -> None:
    strip = reconstruction_strip(*clips())
    assert strip.dtype == np.uint8
    assert strip.shape[0] > 3 * 128
    assert strip.shape[1] > 8 * 128
    assert strip.shape[2] == 3
    rows = np.array_split(strip[:, -20:-13].astype(int), 3)
    assert np.ptp(rows[0]) > 100
    assert (np.median(rows[1]), np.median(rows[2])) == (128, 255)  # what is above 1 is cut off


def test_uint8_and_float_give_the_same_picture() -> None:
    pixels = (clips()[0] * 255).round().astype(np.uint8)
    same = pixels.astype(np.float64) / 255
    assert np.array_equal(reconstruction_strip(pixels, pixels, pixels), reconstruction_strip(same, same, same))


def test_pixels_are_enlarged_by_a_whole_factor() -> None:
    pixel = np.zeros((1, 16, 16, 1), np.uint8)
    pixel[0, 3, 5] = 200
    strip = reconstruction_strip(pixel, pixel, pixel)
    assert (strip == 200).all(-1).sum() >= 3 * 7 * 7
    assert reconstruction_strip(*clips(side=224)).shape[0] < 3 * 224 + 60


def test_captions_stand_at_the_left() -> None:
    blank = np.full((2, 32, 32, 3), 255, np.uint8)
    ink = (reconstruction_strip(blank, blank, blank) < 160).any(-1)
    assert all(part.any() for part in np.array_split(ink, 3))
    assert not ink[:, -64:].any()


@pytest.mark.parametrize(("total", "wanted"), [(16, 8), (8, 8), (3, 8), (1, 8), (17, 2)])
def test_frames_are_evenly_spaced(total: int, wanted: int) -> None:
    which = evenly_spaced(total, wanted)
    assert len(which) == min(total, wanted)
    assert (which[0], which[-1]) == (0, total - 1)


def test_nothing_finite_is_needed() -> None:
    broken = np.full((4, 32, 32, 3), np.nan, np.float32)
    assert reconstruction_strip(broken, broken, broken).dtype == np.uint8
