"""What rows look like, and which look alike."""

import io

import numpy as np
import pytest
from PIL import Image

from marey.clips.datasets import Source
from marey.clips.looks import Look, look, near_duplicates
from marey.clips.prepare import ClipStorage, prepare_source
from videos import moving_square, write_video


def rows(tmp_path, frames: np.ndarray, name: str, **storage):
    path = write_video(tmp_path / name, frames)
    return prepare_source(Source(name, str(path)), ClipStorage(**storage))


def scene(seed: int) -> np.ndarray:
    """A soft picture over which a square moves."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 160, (6, 8, 3), dtype=np.uint8))
    ground = np.asarray(coarse.resize((320, 240), Image.Resampling.BICUBIC)).astype(int)
    squares = moving_square(40, 240, 320, seed=seed)
    return (ground // 2 + squares.astype(int) // 2).astype(np.uint8)


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> list[Look]:
    """Three scenes; the first also in half the size and a lower quality."""
    folder = tmp_path_factory.mktemp("looks")
    made = [rows(folder, scene(seed), f"{seed}.mp4") for seed in range(3)]
    made.append(rows(folder, scene(0), "again.mp4", short_side=120, crf=28))
    return [look(row) for row, *_ in made]


def test_the_same_film_in_another_size_and_quality_is_found_and_other_films_are_not(looks):
    assert near_duplicates(looks, ["a", "b", "c", "d"]) == [[0, 3]]


def test_rows_of_one_source_are_not_called_duplicates(looks):
    assert near_duplicates(looks, ["a", "b", "c", "a"]) == []


def test_the_same_picture_with_another_motion_is_not_alike(tmp_path):
    frames = scene(0)
    forwards = look(rows(tmp_path, frames, "forwards.mp4")[0])
    backwards = look(rows(tmp_path, frames[::-1], "backwards.mp4")[0])
    assert near_duplicates([forwards, backwards], ["f", "b"]) == []


def test_black_films_are_alike_to_nothing(tmp_path):
    black = np.zeros((12, 48, 64, 3), np.uint8)
    found = [look(rows(tmp_path, black, name)[0]) for name in ("one.mp4", "two.mp4")]
    assert found[0].hashes == ()
    assert near_duplicates(found, ["one", "two"]) == []


def test_the_thumbnail_is_a_small_picture(looks):
    with Image.open(io.BytesIO(looks[0].thumbnail)) as picture:
        assert picture.size == (96, 72)
