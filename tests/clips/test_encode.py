"""Stored segments: closed groups that decode alone, near to the source, never larger than it."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from marey.clips.datasets import Source
from marey.clips.decode import decode_frames, read_frames
from marey.clips.encode import fitted
from marey.clips.prepare import ClipStorage, prepare_source
from marey.clips.row import ClipRow
from marey.clips.segments import cut, keep
from marey.clips.video import open_video, plane, rotation_of
from marey.errors import ClipError
from videos import moving_square, rotate_clockwise, shared_folder, write_video

SHARED = shared_folder()


def rows_of(path: Path, **settings: object) -> list[ClipRow]:
    rows = prepare_source(Source(path.name, str(path)), ClipStorage(**settings))  # type: ignore[arg-type]
    assert isinstance(rows, list), rows
    return rows


def luma(frame: av.VideoFrame) -> np.ndarray:
    return plane(frame, 0, frame.height, frame.width).astype(np.int64)


def luma_psnr(path: Path, row: ClipRow) -> float:
    """dB between the stored frames and the source's, scaled to the same size, in limited range."""
    assert row.payload is not None
    decoder = av.CodecContext.create("h264", "r")
    stored: list[av.VideoFrame] = []
    at = 0
    for length in row.packet_lengths or []:
        stored += decoder.decode(av.Packet(row.payload[at : at + length]))
        at += length
    stored += decoder.decode(None)
    error, count = 0.0, 0
    with open_video(path) as (container, stream):
        for original, kept in zip(container.decode(stream), stored, strict=True):
            turned = rotation_of(original)
            size = (row.height, row.width) if turned in (90, 270) else (row.width, row.height)
            scaled = original.reformat(
                *size, format="yuv420p", interpolation="BICUBIC", dst_color_range="MPEG", threads=1
            )
            difference = np.rot90(luma(scaled), -turned // 90) - luma(kept)
            error += float((difference**2).sum())
            count += difference.size
    return 10 * float(np.log10(255**2 * count / max(error, 1e-9)))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuvj420p", "yuv420p10le"])
def test_stored_frames_are_near_to_the_source(tmp_path: Path, pix_fmt: str) -> None:
    codec = "libx264" if pix_fmt == "yuvj420p" else "ffv1"
    path = write_video(tmp_path / "a.mkv", moving_square(40, 96, 128), codec=codec, pix_fmt=pix_fmt)
    (row,) = rows_of(path)
    assert luma_psnr(path, row) >= 38


def test_scaled_and_turned_frames_are_near_to_the_source(tmp_path: Path) -> None:
    path = rotate_clockwise(write_video(tmp_path / "a.mp4", moving_square(30, 90, 120)), 90)
    (row,) = rows_of(path, short_side=48)
    assert (row.width, row.height) == (48, 64)
    assert luma_psnr(path, row) >= 38


def test_colours_survive(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", np.full((5, 64, 64, 3), (200, 40, 90), np.uint8), codec="ffv1")
    (row,) = rows_of(path)
    assert np.abs(read_frames(row, [4])[0].reshape(-1, 3).mean(0) - (200, 40, 90)).max() < 4


@pytest.mark.parametrize(("storage", "most"), [("raw", 0.0), ("jpeg", 2.0)])
@pytest.mark.parametrize("turn", [0, 90])
def test_frames_stored_one_by_one_are_the_sources(tmp_path: Path, storage: str, most: float, turn: int) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(20, 96, 128))
    path = rotate_clockwise(path, turn) if turn else path
    (row,) = rows_of(path, storage=storage, max_seconds=60)
    assert row.keyframes == list(range(20))
    assert len(row.packet_lengths or []) == 20
    assert sum(row.packet_lengths or []) == len(row.payload or b"")
    original = np.stack([frame for _, frame in decode_frames(path)])
    found = read_frames(row, [3, 19, 3, 0])
    assert found.shape == (4, *original.shape[1:])
    assert np.abs(found.astype(int) - original[[3, 19, 3, 0]]).mean() <= most


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_frames_stored_one_by_one_are_scaled(tmp_path: Path, storage: str) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(10, 96, 128))
    (row,) = rows_of(path, storage=storage, short_side=48)
    assert (row.width, row.height) == (64, 48)
    h264 = read_frames(rows_of(path, short_side=48, crf=1)[0], range(10)).astype(int)
    assert np.abs(read_frames(row, range(10)) - h264).mean() < 3


def test_a_raw_payload_of_the_wrong_size_is_told(tmp_path: Path) -> None:
    (row,) = rows_of(write_video(tmp_path / "a.mp4", 10), storage="raw")
    with pytest.raises(ClipError, match="a payload of 9 bytes"):
        read_frames(replace(row, payload=b"too short"), [0])


def test_jpeg_quality_reaches_the_encoder(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    fine, coarse = (len(rows_of(path, storage="jpeg", jpeg_quality=quality)[0].payload or b"") for quality in (95, 30))
    assert fine > 1.5 * coarse


def test_a_group_decodes_alone_and_one_packet_is_one_frame(tmp_path: Path) -> None:
    (row,) = rows_of(write_video(tmp_path / "a.mp4", 40))
    assert row.payload is not None
    assert row.packet_lengths is not None
    assert row.keyframes == [0, 16, 32]
    assert len(row.packet_lengths) == row.num_frames == 40
    assert sum(row.packet_lengths) == len(row.payload)
    start = sum(row.packet_lengths[:16])
    decoder = av.CodecContext.create("h264", "r")
    alone = decoder.decode(av.Packet(row.payload[start : start + row.packet_lengths[16]])) + decoder.decode(None)
    expected = read_frames(row, [16])[0]
    assert np.array_equal(alone[0].to_ndarray(format="rgb24"), expected)
    assert row.payload[start:].startswith((b"\0\0\0\1\x67", b"\0\0\1\x67"))  # headers before every keyframe


def test_settings_reach_the_encoder(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40)
    fine, coarse = rows_of(path, gop=8, crf=10)[0], rows_of(path, gop=8, crf=40)[0]
    assert fine.keyframes == [0, 8, 16, 24, 32]
    assert len(fine.payload or b"") > 1.5 * len(coarse.payload or b"")


def test_the_same_video_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40)
    first = rows_of(path)
    for number in range(20):
        np.full(60_000 + 1000 * number, number, np.uint8)  # what lies in freed memory must not matter
        assert rows_of(path) == first


@pytest.mark.parametrize(
    ("size", "short", "stored"),
    [
        ((1920, 1080), 256, (456, 256)),
        ((1080, 1920), 256, (256, 456)),
        ((320, 240), 256, (320, 240)),
        ((33, 17), 256, (32, 16)),
        ((2, 2), 256, (2, 2)),
    ],
)
def test_sizes_shrink_to_the_short_side_and_are_even(
    size: tuple[int, int], short: int, stored: tuple[int, int]
) -> None:
    assert fitted(*size, short) == stored


def test_all_frames_of_an_ordinary_source_are_kept() -> None:
    times = [n / 29.97 for n in range(100)]
    assert keep(times, 29.97, None) == (list(range(100)), 29.97)
    assert keep([n / 30.02 for n in range(9)], 30.02, 30.0)[0] == list(range(9))


def test_a_fast_source_is_thinned_to_a_regular_grid() -> None:
    kept, fps = keep([n / 60 for n in range(120)], 60, None)
    assert fps == 30
    assert kept == list(range(0, 120, 2))
    assert keep([n / 25 for n in range(50)], 25, 10)[0] == [n * 5 // 2 for n in range(20)]


def test_thinning_takes_the_frame_on_screen_and_never_one_twice() -> None:
    times = [0.0, 0.01, 0.02, 1.0, 1.01, 1.02, 1.5, 2.0]
    kept, _ = keep(times, 4.0, 2.0)
    assert kept == [0, 2, 3, 6, 7]  # at 0, 0.5, 1.0, 1.5 and 2.0 s


@pytest.mark.parametrize(
    ("seconds", "pieces"), [(1, 1), (10, 1), (10.04, 2), (19.9, 2), (20.0, 2), (20.2, 3), (3600, 360)]
)
def test_long_videos_are_cut_into_equal_pieces(seconds: float, pieces: int) -> None:
    times = [n / 25 for n in range(round(seconds * 25))]
    spans = cut(times, 25, 10)
    lengths = [stop - start for start, stop in spans]
    assert len(spans) == pieces
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert sum(lengths) == len(times)
    assert max(lengths) <= 250
    assert max(lengths) - min(lengths) <= 1


def test_a_lone_frame_joins_its_neighbour() -> None:
    assert cut([0.0, 1.0, 2.0, 30.0], 1, 10) == [(0, 4)]
    assert cut([0.0, 30.0, 31.0, 32.0], 1, 10) == [(0, 4)]


def test_pieces_say_when_they_begin_and_end(tmp_path: Path) -> None:
    rows = rows_of(write_video(tmp_path / "a.mp4", 50), max_seconds=1)
    assert [(row.start_s, row.end_s) for row in rows] == [(0.0, 1.0), (1.0, pytest.approx(2.0))]
    assert [row.num_frames for row in rows] == [25, 25]
    assert rows[1].timestamps[0] == 1.0
    assert rows[1].clip_id == "a.mp4@1.000"


@pytest.mark.skipif(SHARED is None, reason="no folder of reference videos")
def test_reference_videos_keep_their_quality() -> None:
    assert SHARED is not None
    for name in ("clips/carphone_distorted.mp4", "clips/dog.mp4", "broken/torchcodec/nasa_13013_rotated.mp4"):
        (row,) = rows_of(SHARED / name)
        assert luma_psnr(SHARED / name, row) >= 38, name
