"""Frames by index equal those of a sequential decode, whatever the codec, the clock and the order of asking."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from marey.clips.datasets import Source
from marey.clips.decode import decode_frames, read_frames, verify_row
from marey.clips.prepare import ClipStorage, prepare_source
from marey.clips.probe import scan
from marey.clips.row import ClipRow
from marey.clips.video import Refused, open_video
from marey.errors import ClipError
from videos import moving_square, rotate_clockwise, shared_folder, truncate, write_unusable, write_video

SOURCE = ClipStorage(storage="source", fps=1000, max_seconds=1e6)


def rows_of(path: Path, storage: ClipStorage = SOURCE) -> list[ClipRow]:
    rows = prepare_source(Source(path.name, str(path)), storage)
    assert isinstance(rows, list), rows
    return rows


def assert_random_access_is_exact(path: Path, trials: int = 6) -> ClipRow:
    """Compare random reads of a row of storage "source" with a sequential decode."""
    (row,) = rows_of(path)
    times, frames = zip(*decode_frames(path), strict=True)
    assert row.timestamps == list(times)
    rng = np.random.default_rng(3)
    for _ in range(trials):
        indices = rng.integers(0, row.num_frames, 5).tolist()
        assert np.array_equal(read_frames(row, indices), np.stack([frames[i] for i in indices])), indices
    return row


VIDEOS = {
    "h264_bframes.mp4": {"options": {"g": "12", "bf": "3"}},
    "h264_one_gop.mp4": {"options": {"g": "999"}},
    "h264_open_gop.mkv": {"options": {"x264-params": "open-gop=1:keyint=10:bframes=4"}},
    "h264.ts": {"options": {"g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_bframes.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "raw.h264": {"container": "h264", "options": {"g": "12"}},
    "vfr.mp4": {"times": [n / 25 + 0.6 * (n > 20) for n in range(40)], "options": {"g": "10"}},
    "late_start.mkv": {"times": [5 + n / 25 for n in range(40)]},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_random_reads_equal_a_sequential_decode(tmp_path: Path, name: str) -> None:
    assert_random_access_is_exact(write_video(tmp_path / name, 40, **VIDEOS[name]))


def test_seeking_is_used_where_it_is_exact(tmp_path: Path) -> None:
    row = assert_random_access_is_exact(write_video(tmp_path / "a.mp4", 60, options={"g": "12", "bf": "0"}))
    assert row.keyframes == [0, 12, 24, 36, 48]
    unpointed = dataclasses.replace(row, keyframes=[])
    assert np.array_equal(read_frames(row, [50, 13]), read_frames(unpointed, [50, 13]))


def test_times_are_the_sources_own(tmp_path: Path) -> None:
    times = [0, 0.04, 0.12, 0.9, 1.0, 1.3]
    found = scan(write_video(tmp_path / "vfr.mp4", 6, times=times))
    assert found.times == pytest.approx(times, abs=1e-4)
    assert not found.counted


def test_lying_timestamps_are_replaced_by_counting(tmp_path: Path) -> None:
    found = scan(write_video(tmp_path / "a.avi", 30, codec="libx264", options={"bf": "2"}))
    raw = scan(write_video(tmp_path / "raw.h264", 30, container="h264"))
    assert raw.counted
    assert raw.times == pytest.approx([n / 25 for n in range(30)])
    assert len(found.times) == 30


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_come_upright(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    flat = np.stack([frame for _, frame in decode_frames(path)])
    rotate_clockwise(path, degrees)
    (row,) = rows_of(path)
    assert row.rotation == degrees
    assert (row.height, row.width) == ((48, 64) if degrees == 180 else (64, 48))
    assert np.array_equal(read_frames(row, range(10)), np.rot90(flat, -degrees // 90, (1, 2)))


@pytest.mark.parametrize("storage", ["h264", "source"])
def test_order_and_repeats_are_as_asked(tmp_path: Path, storage: str) -> None:
    (row,) = rows_of(write_video(tmp_path / "a.mp4", 40), ClipStorage(storage=storage))
    every = read_frames(row, range(40))
    assert every.shape == (40, 48, 64, 3)
    asked = [39, 3, 3, 20, 0, 39]
    assert np.array_equal(read_frames(row, asked), every[asked])


@pytest.mark.parametrize("indices", [[40], [-1], []])
def test_frames_that_do_not_exist_are_refused(tmp_path: Path, indices: list[int]) -> None:
    (row,) = rows_of(write_video(tmp_path / "a.mp4", 40), ClipStorage())
    with pytest.raises(ClipError, match=r"a\.mp4@0\.000: frames .* it has frames 0 to 39"):
        read_frames(row, indices)


def test_a_changed_source_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40)
    (row,) = rows_of(path)
    verify_row(row)
    read_frames(row, [0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    for read in (verify_row, lambda row: read_frames(row, [0])):
        with pytest.raises(ClipError, match=rf"{path} has changed .* other bytes \(sha256"):
            read(row)
    write_video(path, moving_square(40, 96, 64))
    with pytest.raises(ClipError, match=rf"{path} has changed .* bytes instead of"):
        read_frames(row, [0])
    path.unlink()
    with pytest.raises(ClipError, match=f"{path} has changed"):
        read_frames(row, [0])


def test_a_damaged_payload_is_named(tmp_path: Path) -> None:
    (row,) = rows_of(write_video(tmp_path / "a.mp4", 40), ClipStorage())
    assert row.payload is not None
    verify_row(row)
    broken = dataclasses.replace(row, payload=bytes(len(row.payload)))
    with pytest.raises(ClipError, match=r"a\.mp4@0\.000"):
        read_frames(broken, [5])
    with pytest.raises(ClipError, match="sha256"):
        verify_row(broken)


def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    reasons = {}
    for path in write_unusable(tmp_path):
        with pytest.raises(Refused) as caught:
            scan(path)
        reasons[path.name] = caught.value.reason
    assert "truncated" in reasons["half.mkv"] or "damaged" in reasons["half.mkv"]
    assert "frames readable" in reasons["half.mkv"]
    assert "needs at least 2" in reasons["one_frame.mp4"]
    assert "only audio" in reasons["sound.mp4"]
    assert "LFS" in reasons["lfs.mp4"]
    assert "HTML" in reasons["html.mp4"]
    assert "empty" in reasons["empty.mp4"]
    assert "cannot be opened" in reasons["hls.mp4"] or "not a video" in reasons["hls.mp4"]
    assert "not a video" in reasons["concat.mp4"]


def test_bit_flips_are_noticed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 50, options={"g": "50"})
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 1200
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(content))
    with pytest.raises(Refused, match="damaged"):
        scan(path)


def test_an_mp4_without_its_index_cannot_be_opened(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", 100, codec="mjpeg", pix_fmt="yuvj420p")
    whole = path.read_bytes()
    assert whole.index(b"moov") > whole.index(b"mdat")
    truncate(path, 0.5)
    with pytest.raises(Refused, match="not a video that can be opened"):
        scan(path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 3)
    with pytest.raises(Refused, match="48 exceed the limit of 3000 pixels"), open_video(path, max_pixels=3000):
        raise AssertionError("must not be opened")


# --- reference videos, where they are at hand

SHARED = shared_folder()
HEALTHY = ("codec_", "vfr_", "rotated_", "ts_", "gop_", "nopts_", "fps_", "edit_", "frag_", "interlaced_", "wrongext_")


def _reference_videos() -> list[Path]:
    if SHARED is None:
        return []
    odd = [p for p in sorted((SHARED / "broken/generated").glob("*")) if p.name.startswith(HEALTHY)]
    return [p for p in odd if p.suffix != ".webp"] + sorted((SHARED / "clips").glob("*"))


@pytest.mark.parametrize("path", _reference_videos(), ids=lambda path: path.name)
def test_reference_videos_are_read_exactly(path: Path) -> None:
    assert_random_access_is_exact(path, trials=3)


@pytest.mark.skipif(SHARED is None, reason="no folder of reference videos")
def test_reference_clips_with_lying_clocks_are_counted() -> None:
    assert SHARED is not None
    hmdb = sorted((SHARED / "labelled/hmdb51_mini").glob("*.avi"))
    assert hmdb
    assert all(scan(path).counted for path in hmdb)
    assert len(scan(SHARED / "broken/generated/ts_negative_start.mp4").times) == 50
