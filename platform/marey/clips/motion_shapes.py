"""A synthetic set whose eight classes differ only by motion, to prove that a model sees time.

A few shapes all move to the right or left, down or up, turn one way or the other, grow or shrink. Any single frame has
the same distribution in all classes: places are uniform on a picture that wraps around, angles uniform, and sizes run
through the same sawtooth in both directions. The classes are pairs of each other's time reversal, so a model that does
not see the order of frames cannot tell more than the four kinds of motion apart, and one that sees a single frame
nothing: 1/2 and 1/8 at best, in expectation.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw

CLASSES = (
    "translate_right", "translate_left", "translate_down", "translate_up",
    "rotate_clockwise", "rotate_counterclockwise", "grow", "shrink",
)  # fmt: skip
REVERSED = {one: CLASSES[place ^ 1] for place, one in enumerate(CLASSES)}
"""The class that a clip of another, played backwards, belongs to."""
SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}
LABELS = "labels.csv"

_SIZE = 96  # pixels
_FRAMES = 32
_FPS = 15
_SHAPES = 4
_FINE = 3  # pixels drawn for each pixel kept, along each side
_SAWTOOTH_FRAMES = 20  # of one run through all sizes
# Corners of shapes without any symmetry that would hide a turn, around (0, 0), within the unit circle.
_OUTLINES = (
    ((0.95, 0.0), (-0.6, 0.7), (-0.3, 0.0), (-0.6, -0.7)),
    ((-0.5, -0.85), (0.0, -0.85), (0.0, 0.4), (0.75, 0.4), (0.75, 0.65), (-0.5, 0.65)),
    ((-0.25, -0.9), (0.85, -0.5), (0.2, -0.2), (0.2, 0.9), (-0.25, 0.9)),
    ((-0.8, -0.3), (0.1, -0.8), (0.8, 0.1), (0.3, 0.2), (0.1, 0.9), (-0.3, 0.1)),
)


class _Shape(NamedTuple):
    """One shape before it moves; lengths in pixels."""

    outline: np.ndarray
    place: np.ndarray
    angle: float
    speed: float
    """Pixels a frame, where the class is a translation."""
    turn: float
    """Radians a frame, where it is a rotation."""
    phase: float
    """Place in the sawtooth of sizes, where it grows or shrinks."""
    ink: np.ndarray


def draw_clip(kind: str, seed: int, size: int = _SIZE, frames: int = _FRAMES) -> Iterator[np.ndarray]:
    """The frames of one clip, uint8 [size, size, 3]; everything but ``kind`` of the motion comes from ``seed``."""
    rng = np.random.default_rng(seed)
    shapes = [_draw_shape(rng, size) for _ in range(_SHAPES)]
    paper = rng.uniform(20, 90, 3) + _clouds(rng, size)
    sign = 1.0 if CLASSES.index(kind) % 2 == 0 else -1.0
    motion = kind.split("_")[0]
    for frame in range(frames):
        pixels = paper
        for shape in shapes:
            cover = _cover(*_moved(shape, motion, kind.endswith(("right", "left")), sign * frame), size)[..., None]
            pixels = pixels * (1 - cover) + shape.ink * cover
        noise = rng.normal(0, 1, (size, size, 1))
        yield (pixels + noise).clip(0, 255).astype(np.uint8)


def _draw_shape(rng: np.random.Generator, size: int) -> _Shape:
    return _Shape(
        outline=np.array(_OUTLINES[rng.integers(len(_OUTLINES))]) * rng.uniform(0.13, 0.21) * size,
        place=rng.uniform(0, size, 2),
        angle=rng.uniform(0, 2 * math.pi),
        speed=rng.uniform(0.016, 0.042) * size,
        turn=rng.uniform(0.1, 0.25),
        phase=rng.uniform(0, 1),
        ink=rng.uniform(90, 255, 3),
    )


def _moved(shape: _Shape, motion: str, sideways: bool, time: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Outline, angle and place of a shape after ``time`` frames, which may be negative."""
    if motion == "translate":
        step = np.array([shape.speed, 0.0] if sideways else [0.0, shape.speed])
        return shape.outline, shape.angle, shape.place + step * time
    if motion == "rotate":
        return shape.outline, shape.angle + shape.turn * time, shape.place
    scale = 0.55 + 0.9 * ((shape.phase + time / _SAWTOOTH_FRAMES) % 1.0)
    return shape.outline * scale, shape.angle, shape.place


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft light and dark, [size, size, 1]."""
    coarse = Image.fromarray(rng.normal(0, 18, (5, 5)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))[..., None]


def _cover(outline: np.ndarray, angle: float, place: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel a turned shape at ``place`` covers, 0..1, on a picture that wraps around."""
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = outline @ rotation.T + size / 2
    image = Image.new("L", (size * _FINE, size * _FINE))
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners * _FINE], fill=255)
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float64) / 255
    dx, dy = np.rint(place - size / 2).astype(int)
    return np.roll(small, (dy, dx), (0, 1))


def write_motion_shapes(
    folder: Path,
    per_class: int,
    seed: int = 0,
    size: int = _SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """``per_class`` videos of each class and a ``labels.csv`` with their splits; nothing if they are there already.

    Videos of different splits have different seeds. ``progress(done, total)`` is called after every video.
    """
    lines = [("path", "class", "split")]
    total = per_class * len(CLASSES)
    for place, kind in enumerate(CLASSES):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number, split in enumerate(_splits(per_class)):
            path = folder / kind / f"{number:05d}.mp4"
            if not path.exists():
                _write(path, draw_clip(kind, (seed * len(CLASSES) + place) * 1_000_003 + number, size), size)
            lines.append((f"{kind}/{path.name}", kind, split))
            if progress:
                progress(len(lines) - 1, total)
    with (folder / LABELS).open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def _splits(total: int) -> Sequence[str]:
    """The split of each of ``total`` videos."""
    ends = np.rint(np.cumsum(list(SPLITS.values())) * total)
    return [next(name for name, end in zip(SPLITS, ends, strict=True) if number < end) for number in range(total)]


def _write(path: Path, frames: Iterator[np.ndarray], size: int) -> None:
    """One H.264 file, there whole or not at all."""
    temporary = path.with_suffix(".writing")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"crf": "23", "preset": "veryfast", "threads": "1"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    temporary.rename(path)
