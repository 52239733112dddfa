"""Frames in YUV 4:2:0 show what the same frames in RGB show, cut, turned and mirrored alike."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from marey.clips.augment import AugmentConfig, Box, apply_box
from marey.clips.datasets import Source
from marey.clips.decode import read_frames, read_planes
from marey.clips.loader import FeedOrder, feed
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan
from marey.clips.planes import Planes, matrix
from marey.clips.prepare import ClipStorage, prepare_source
from marey.clips.row import ClipRow
from marey.clips.sample import SamplingConfig
from marey.clips.video import to_rgb
from marey.clips.yuv import cut_planes, to_pixels
from marey.errors import ClipError
from videos import moving_square, rotate_clockwise, write_video

CPU = torch.device("cpu")
SOURCE = ClipStorage(storage="source", fps=1000, max_seconds=1e6)


def row_of(path: Path, storage: ClipStorage = SOURCE) -> ClipRow:
    [row] = prepare_source(Source(path.name, str(path)), storage)
    return row


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return 10 * math.log10(255**2 / (one.float() - other.float()).square().mean().item())


def shown(frames: Planes, box: Box, crop: int) -> torch.Tensor:
    """What a model sees of planes: uint8 RGB [T, crop, crop, 3]."""
    packed = cut_planes(frames, box, crop).permute(3, 0, 1, 2)[None]
    return to_pixels(packed, torch.from_numpy(frames.to_rgb)[None])[0].permute(1, 2, 3, 0)


def patches(rng: np.random.Generator, low: int, high: int, size: int) -> np.ndarray:
    """8 × 8 patches of one value each, uint8 [8 × size, 8 × size]."""
    return np.kron(rng.integers(low, high, (8, 8)), np.ones((size, size))).astype(np.uint8)


@pytest.mark.parametrize("colorspace", [0, 1, 2, 4, 5, 6, 7, 9])
@pytest.mark.parametrize(("layout", "color_range"), [("yuv420p", 0), ("yuv420p", 1), ("yuv420p", 2), ("yuvj420p", 0)])
def test_the_matrix_is_ffmpegs(colorspace: int, layout: str, color_range: int) -> None:
    rng = np.random.default_rng(0)
    luma, blue, red = patches(rng, 115, 140, 16), patches(rng, 80, 176, 8), patches(rng, 80, 176, 8)
    packed = np.concatenate([one.reshape(-1) for one in (luma, blue, red)]).reshape(-1, 128)
    frame = VideoFrame.from_ndarray(packed, format=layout)
    frame.colorspace, frame.color_range = colorspace, color_range
    found = Planes.empty(1, 128, 128)
    assert found.put(0, frame) == (128, 128)
    expected = to_rgb(frame)[8::16, 8::16]
    ours = shown(found, Box(0, 0, 128, 128), 128)[0, 8::16, 8::16].numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 3, "FFmpeg cuts off what we round"


def test_black_and_white_are_where_the_range_has_them() -> None:
    for full, black, white in ((True, 0, 255), (False, 16, 235)):
        factors = matrix(1, full)
        assert factors @ (black, 128, 128, 1) == pytest.approx([0, 0, 0], abs=1e-3)
        assert factors @ (white, 128, 128, 1) == pytest.approx([255, 255, 255], abs=1e-3)


LAYOUTS = {
    "limited.mp4": {},
    "odd.mkv": {"frames": moving_square(12, 47, 63), "codec": "ffv1", "pix_fmt": "yuv420p"},
    "full.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "every_pixel.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
    "rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "deep.mkv": {"codec": "ffv1", "pix_fmt": "yuv420p10le"},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_looks_as_in_rgb(tmp_path: Path, name: str) -> None:
    row = row_of(write_video(tmp_path / name, **{"frames": 12, **LAYOUTS[name]}))
    indices = [3, 0, 3, 11]
    frames = read_frames(row, indices)
    box = Box(0, 0, *(side // 2 * 2 for side in frames.shape[1:3]))
    made = shown(read_planes(row, indices), box, 32)
    assert made.shape == (4, 32, 32, 3)
    assert psnr(made, apply_box(frames, box, 32)) > 32  # saturated edges: colour has half the pixels
    assert torch.equal(made[0], made[2])


@pytest.mark.parametrize("storage", ["h264", "jpeg", "raw", "source"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_every_storage_and_rotation_looks_as_in_rgb(tmp_path: Path, storage: str, degrees: int) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    if degrees:
        rotate_clockwise(path, degrees)
    row = row_of(path, ClipStorage(storage=storage))
    frames, found = read_frames(row, range(0, 12, 2)), read_planes(row, range(0, 12, 2))
    for flip in (False, True):
        box = Box(8, 4, 36, 40, flip)
        assert psnr(shown(found, box, 24), apply_box(frames, box, 24)) > 32


def test_a_box_between_colour_samples_is_moved_to_one() -> None:
    frames = Planes.empty(2, 20, 20)
    frames.luma[:] = np.arange(20)[:, None] + 10 * np.arange(20)
    frames.chroma[:] = np.arange(10)[:, None] + 10 * np.arange(10)
    assert torch.equal(cut_planes(frames, Box(3, 5, 9, 9), 8), cut_planes(frames, Box(2, 4, 8, 8), 8))
    packed = cut_planes(frames, Box(2, 4, 8, 8), 8)
    assert packed.shape == (2, 12, 8, 1)
    assert np.array_equal(packed[0, :8, :, 0], frames.luma[0, 2:10, 4:12])
    assert np.array_equal(packed[0, 8:].reshape(2, 4, 4), frames.chroma[0, :, 1:5, 2:6])
    mirrored = cut_planes(frames, Box(2, 4, 8, 8, flip=True), 8)
    assert np.array_equal(mirrored[0, 8:].reshape(2, 4, 4), frames.chroma[0, :, 1:5, 5:1:-1])


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_planes_are_resized_as_single_pictures_are(count: int) -> None:
    frames = Planes.empty(count, 40, 52)
    rng = np.random.default_rng(count)
    for held in (frames.luma, frames.chroma):
        held[:] = rng.integers(0, 256, held.shape)
    whole = cut_planes(frames, Box(0, 2, 40, 48), 24)
    for number in range(count):
        assert torch.equal(whole[number], cut_planes(frames[[number]], Box(0, 2, 40, 48), 24)[0])
    luma = torch.from_numpy(frames.luma[:, None, :, 2:50])
    alone = torch.nn.functional.interpolate(luma, size=(24, 24), mode="bilinear", antialias=True)
    assert (whole[:, :24, :, 0].int() - alone[:, 0].int()).abs().max() <= 1


def fed(table, pixels: str) -> FeedOrder:
    pipeline = Pipeline(8, 32, SamplingConfig(stride=2, pixels=pixels), AugmentConfig(flip=0.5))
    return FeedOrder(table, Plan(len(table), seed=1, repeats=2), pipeline, batch=4, micro_batch=4)


def test_a_batch_in_planes_is_the_rgb_batch_on_the_device(table) -> None:
    [ours] = feed(fed(table, "yuv420"), 0, 1)
    [expected] = feed(fed(table, "rgb"), 0, 1)
    assert ours.clip.shape == (4, 1, 8, 48, 32)
    assert ours.clip.nbytes * 2 == expected.clip.nbytes
    there = ours.to(CPU)
    assert there.clip.shape == expected.clip.shape
    assert there.clip.dtype == torch.uint8
    assert there.to(CPU) is there
    assert there.clip_ids == expected.clip_ids
    # Boxes are drawn alike, and moved by a pixel where they begin between colour samples.
    assert psnr(there.clip, expected.clip) > 20
    again = next(iter(feed(fed(table, "yuv420"), 0, 1)))
    assert torch.equal(again.clip, ours.clip)


def test_a_crop_that_halves_to_no_whole_pixels_is_refused(table) -> None:
    pipeline = fed(table, "yuv420").pipeline
    pipeline.check(table)
    with pytest.raises(ClipError, match=r"clips.pixels=yuv420 needs an even backbone.crop, not 33"):
        replace(pipeline, crop=33).check(table)
