"""Folders of pictures as videos: the same frames as the video they are of, and what makes one unusable."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from marey.clips import parts
from marey.clips.datasets import Source, find_sources
from marey.clips.decode import decode_frames, read_frames, verify_row
from marey.clips.frames import find_pictures, read_pictures
from marey.clips.prepare import ClipStorage, Limits, Summary, prepare_all, prepare_source
from marey.clips.row import Quarantined, Storage
from marey.clips.table import ClipTable, open_table, verify
from marey.clips.video import Refused
from marey.errors import ClipError
from videos import moving_square, write_video

RAW = ClipStorage(storage="raw")
Pixels = npt.NDArray[np.uint8]


def write_frames(folder: Path, frames: Pixels | int = 8, name: str = "img_{:05d}.png", first: int = 1) -> Path:
    """A folder with a picture a frame; JPEGs lose a little, PNGs nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(moving_square(frames) if isinstance(frames, int) else frames, first):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


def prepared(folder: Path, storage: ClipStorage = RAW, **known: object) -> Pixels:
    """All frames of a source's rows."""
    rows = prepare_source(Source("a", str(folder), **known), storage)
    assert isinstance(rows, list), rows
    return np.concatenate([read_frames(row, range(row.num_frames)) for row in rows])


def reason(folder: Path, storage: ClipStorage = RAW, **known: object) -> tuple[str, str]:
    refused = prepare_source(Source("a", str(folder), **known), storage)
    assert isinstance(refused, Quarantined)
    return refused.stage, refused.reason


@pytest.mark.parametrize(
    "name", ["img_{:05d}.png", "frame{:06d}.png", "{:04d}.png", "v1-{}.png", "{}.bmp", "A_{:03d}.PNG"]
)
def test_pictures_are_frames_in_the_order_of_their_numbers(tmp_path: Path, name: str) -> None:
    frames = moving_square(12)
    folder = write_frames(tmp_path / "a", frames, name, first=9)
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "cover.jpg").write_bytes(b"no frame")
    assert np.array_equal(prepared(folder), frames)


def test_jpegs_are_the_pictures_that_other_decoders_show(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "a", 4, "{}.jpg")
    shown = np.stack([np.asarray(Image.open(folder / f"{number}.jpg")) for number in range(1, 5)])
    assert np.abs(prepared(folder).astype(int) - shown).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_grey_deep_palette_and_transparent_pictures(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    grey = moving_square(3)[..., :1].repeat(3, -1)
    if mode == "P":
        grey = grey // 51 * 51  # of the palette
    for number, picture in enumerate(grey):
        deep = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
        (deep if mode == "I;16" else Image.fromarray(picture).convert(mode)).save(folder / f"{number}.png")
    assert np.abs(prepared(folder).astype(int) - grey).max() <= 1


def film(tmp_path: Path) -> tuple[Path, Pixels]:
    """A lossless video, and its frames as it decodes."""
    path = write_video(tmp_path / "film.mkv", 40, codec="libx264rgb", pix_fmt="rgb24", options={"crf": "0"})
    return path, np.stack([frame for _, frame in decode_frames(path)])


@pytest.mark.parametrize(("storage", "error"), [("raw", 0), ("jpeg", 3), ("h264", 3)])
def test_a_video_and_its_frames_make_the_same_rows(tmp_path: Path, storage: Storage, error: float) -> None:
    path, frames = film(tmp_path)
    folder = write_frames(tmp_path / "frames", frames)
    settings = ClipStorage(storage=storage, max_seconds=1, fps=12.5, preset="ultrafast")
    ours = prepare_source(Source("a", str(folder), 3, "wave", "train", fps=25), settings)
    theirs = prepare_source(Source("a", str(path), 3, "wave", "train"), settings)
    assert isinstance(ours, list)
    assert isinstance(theirs, list)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        verify_row(one)
        assert one.timestamps == pytest.approx(other.timestamps, abs=1e-3)
        assert (one.label, one.label_name, one.split, one.fps) == (3, "wave", "train", 12.5)
        assert (one.width, one.height, one.end_s) == (other.width, other.height, pytest.approx(other.end_s, abs=1e-3))
        pixels = [read_frames(row, range(row.num_frames)).astype(int) for row in (one, other)]
        assert np.abs(pixels[0] - pixels[1]).mean() <= error


def test_the_rate_is_the_lists_or_the_settings(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "a")
    for known, settings, fps in (({}, {}, 30), ({}, {"frames_fps": 12}, 12), ({"fps": 10.0}, {"frames_fps": 12}, 10)):
        rows = prepare_source(Source("a", str(folder), **known), ClipStorage(storage="raw", **settings))
        assert isinstance(rows, list)
        assert rows[0].fps == fps
        assert rows[0].end_s == pytest.approx(8 / fps)


def test_ranges_of_a_folder(tmp_path: Path) -> None:
    frames = moving_square(12)
    one, zero = write_frames(tmp_path / "1", frames), write_frames(tmp_path / "0", frames, "{}.png", first=0)
    late = write_frames(tmp_path / "7", frames, first=7)
    for folder in (one, zero):  # an offset counts from picture 1, or 0 where there is one
        assert np.array_equal(prepared(folder, start_frame=2, num_frames=5), frames[2:7])
        assert np.array_equal(prepared(folder, start_frame=2), frames[2:])
        assert np.array_equal(prepared(folder, num_frames=5), frames[:5])
    assert np.array_equal(prepared(late, start_frame=7, num_frames=5), frames[1:6])
    assert np.array_equal(prepared(late, num_frames=5), frames[:5])
    rows = prepare_source(Source("a", str(one), start_frame=6, num_frames=5), RAW)
    assert isinstance(rows, list)
    assert rows[0].start_s == pytest.approx(6 / 30)


def test_a_gap_outside_the_range_does_not_matter(tmp_path: Path) -> None:
    frames = moving_square(12)
    folder = write_frames(tmp_path / "a", frames)
    (folder / "img_00002.png").unlink()
    assert np.array_equal(prepared(folder, start_frame=4, num_frames=6), frames[4:10])


@pytest.mark.parametrize("storage", ["raw", "source"])
def test_ranges_of_a_video(tmp_path: Path, storage: Storage) -> None:
    path, frames = film(tmp_path)
    settings = ClipStorage(storage=storage, max_seconds=0.5)
    assert np.array_equal(prepared(path, settings, start_frame=5, num_frames=30), frames[5:35])
    assert np.array_equal(prepared(path, settings, start_frame=5), frames[5:])
    assert np.array_equal(prepared(path, settings, num_frames=7), frames), "a video file knows its length"
    stage, why = reason(path, settings, start_frame=20, num_frames=21)
    assert (stage, why[:50]) == ("list", "frames 20 to 40 are asked for; it has 0 to 39, and")
    assert reason(path, settings, start_frame=60)[0] == "list"


def replaced(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return spoil


def wider(folder: Path) -> None:
    Image.fromarray(moving_square(1, 48, 80)[0]).save(folder / "img_00003.png")


def fifo(folder: Path) -> None:
    (folder / "img_00003.png").unlink()
    os.mkfifo(folder / "img_00003.png")


SPOILT = {
    "a gap": (lambda folder: (folder / "img_00003.png").unlink(), "probe", r"picture 3 is missing: img_00002\.png is"),
    "no picture": (replaced("img_00003.png", b"some text"), "probe", r"img_00003\.png: no JPEG, PNG or BMP picture"),
    "a web page": (replaced("img_00003.png", b"<html>"), "probe", r"img_00003\.png: is a web page"),
    "empty file": (replaced("img_00003.png", b""), "probe", r"img_00003\.png: the file is empty"),
    "half a picture": (replaced("img_00003.png", lambda data: data[:200]), "decode", r"img_00003\.png: .*its end"),
    "a flipped bit": (
        replaced("img_00003.png", lambda data: data[:99] + bytes([data[99] ^ 4]) + data[100:]),
        "decode",
        r"img_00003\.png: damaged .*after 2 sound pictures",
    ),
    "another size": (wider, "decode", r"img_00003\.png is 80 x 48 .*before it 64 x 48"),
    "one number twice": (replaced("img_3.png", b""), "probe", r"the number 3: img_00003\.png and img_3\.png"),
    "two films": (replaced("left_1.png", b""), "probe", r"kinds \(img_00001\.png, left_1\.png\).*frames_prefix"),
    "no regular file": (fifo, "probe", r"img_00003\.png: is not a regular file"),
    "a loose link": (lambda folder: (folder / "img_00009.png").symlink_to("x"), "probe", r"_00009\.png: no such file"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_folders_are_refused_with_the_file(tmp_path: Path, how: str) -> None:
    folder = write_frames(tmp_path / "a")
    spoil, stage, message = SPOILT[how]
    spoil(folder)
    refused = prepare_source(Source("a", str(folder)), RAW)
    assert isinstance(refused, Quarantined)
    assert refused.stage == stage
    with pytest.raises(ClipError, match=message):
        raise ClipError(refused.reason)


@pytest.mark.parametrize("name", ["{}.jpg", "{}.png", "{}.bmp"])
def test_pictures_cut_anywhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_frames(tmp_path / "a", 2, name)
    last = folder / name.format(2)
    content = last.read_bytes()
    for length in range(1, len(content) - 12, max(1, len(content) // 20)):
        last.write_bytes(content[:length])
        with pytest.raises(Refused, match=last.name):
            list(read_pictures(find_pictures(folder, 30), 1 << 20))


def test_folders_that_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert reason(tmp_path / "a") == (
        "probe",
        "the folder is empty; as a video it would hold img_00001.jpg, img_00002.jpg, ...",
    )
    (tmp_path / "a/part.mp4").write_bytes(b"")
    assert "holds no numbered pictures" in reason(tmp_path / "a")[1]
    write_frames(tmp_path / "a", 1)
    assert reason(tmp_path / "a") == ("probe", "1 picture, img_00001.png; a clip needs at least 2")
    write_frames(tmp_path / "a", 4)
    expected = ("list", "pictures 3 to 9 are asked for, but img_00004.png is the last")
    assert reason(tmp_path / "a", start_frame=2, num_frames=7) == expected
    assert "pictures from 10 on are asked for" in reason(tmp_path / "a", start_frame=9)[1]


@pytest.mark.parametrize("name", ["{}.jpg", "{}.png", "{}.bmp"])
def test_pictures_may_have_only_so_many_pixels(tmp_path: Path, name: str) -> None:
    folder = write_frames(tmp_path / "a", 2, name)
    small = ClipStorage(storage="raw", limits=Limits(max_pixels=64 * 48 - 1))
    _, why = reason(folder, small)
    assert why.startswith(f"{name.format(1)}: frames of 64 x 48 exceed the limit of 3071 pixels")
    assert len(prepared(folder, ClipStorage(storage="raw", limits=Limits(max_pixels=64 * 48)))) == 2


def test_flow_is_left_out_unless_it_is_chosen(tmp_path: Path) -> None:
    frames = moving_square(6)
    folder = write_frames(tmp_path / "a", frames)
    for name in ("flow_x_{:05d}.png", "flow_y_{:05d}.png"):
        write_frames(folder, frames[::-1], name)
    assert np.array_equal(prepared(folder), frames)
    chosen = ClipStorage(storage="raw", frames_prefix="flow_x_")
    assert np.array_equal(prepared(folder, chosen), frames[::-1])
    _, why = reason(folder, ClipStorage(storage="raw", frames_prefix="rgb_"))
    assert why.startswith("no picture is named rgb_<number> (clips.frames_prefix); there are flow_x_00001.png, flow_y_")


def prepare(videos: Path, table: Path, storage: ClipStorage = RAW, isolate: bool = False) -> Summary:
    return prepare_all(find_sources(videos), storage, table, 0.5, isolate=isolate)


def test_folders_become_a_table_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FEWEST_CHUNKS", 1)
    films = {f"{name}/v{seed}": moving_square(6, seed=seed) for seed, name in enumerate(("wave", "clap", "wave"))}
    for name, frames in films.items():
        write_frames(tmp_path / "videos/train" / name, frames)
    write_video(tmp_path / "videos/val/clap/v9.mp4", 12)
    write_frames(tmp_path / "videos/val/wave/broken", 5)
    (tmp_path / "videos/val/wave/broken/img_00002.png").write_bytes(b"")
    summary = prepare(tmp_path / "videos", tmp_path / "t", isolate=True)
    table: ClipTable = open_table(tmp_path / "t")
    verify(table)
    assert (summary.clips, summary.num_quarantined) == (4, 1)
    (refused,) = table.quarantined()
    assert (refused.source_id, refused.reason) == ("val/wave/broken", "img_00002.png: the file is empty")
    for row in table.read(range(3)):
        assert np.array_equal(read_frames(row, range(6)), films[row.source_id.removeprefix("train/")])
        assert (row.label_name, row.split) == (row.source_id.split("/")[1], "train")
        assert row.label == {"clap": 0, "wave": 1}[row.label_name or ""]
    assert prepare(tmp_path / "videos", tmp_path / "t2").fingerprint == summary.fingerprint


def test_several_ranges_of_one_folder(tmp_path: Path) -> None:
    frames = moving_square(12)
    write_frames(tmp_path / "imgs", frames)
    (tmp_path / "list.txt").write_text("imgs 0 5 1\nimgs 5 7 2\n")
    prepare(tmp_path / "list.txt", tmp_path / "t")
    rows = open_table(tmp_path / "t").read(range(2))
    assert [(row.source_id, row.label) for row in rows] == [("imgs[0:5]", 1), ("imgs[5:12]", 2)]
    assert np.array_equal(np.concatenate([read_frames(row, range(row.num_frames)) for row in rows]), frames)


def test_a_changed_picture_is_prepared_again(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "videos/a")
    first = prepare(tmp_path / "videos", tmp_path / "t")
    assert prepare(tmp_path / "videos", tmp_path / "t") == first
    picture = folder / "img_00003.png"
    Image.fromarray(moving_square(1, seed=3)[0]).save(picture)
    os.utime(picture, ns=(0, picture.stat().st_mtime_ns + 1_000_000))
    assert prepare(tmp_path / "videos", tmp_path / "t").fingerprint != first.fingerprint


@pytest.mark.parametrize("name", ["{}.png", "{}.jpg"])
def test_rows_that_point_to_pictures_read_those_asked_for(tmp_path: Path, name: str) -> None:
    folder = write_frames(tmp_path / "videos/a", 40, name)
    prepare(tmp_path / "videos", tmp_path / "t", ClipStorage(storage="source", fps=15, max_seconds=1))
    rows = open_table(tmp_path / "t").read(range(2))
    shown = prepared(folder)[::2]
    for row, expected in zip(rows, (shown[:10], shown[10:]), strict=True):
        verify_row(row)
        assert np.array_equal(read_frames(row, range(10)), expected)
        assert np.array_equal(read_frames(row, [7, 2, 2]), expected[[7, 2, 2]])
    (folder / name.format(1)).unlink()
    (folder / name.format(3)).write_bytes(b"")
    (folder / name.format(5)).write_bytes(b"longer than that? no")
    (folder / name.format(7)).write_bytes(bytes((folder / name.format(7)).stat().st_size))
    changes = [r"1\.\w+: no such file", r"3\.\w+: the file is empty", r"5\.\w+: other bytes", r"7\.\w+: other bytes"]
    for index, found in enumerate(changes):
        with pytest.raises(ClipError, match=rf"a@0\.000.*{found}"):
            read_frames(rows[0], [index])
    assert np.array_equal(read_frames(rows[0], [4]), shown[4:5])
    with pytest.raises(ClipError, match=r"1\.\w+: no such file"):
        verify_row(rows[0])
    (folder / name.format(39)).write_bytes(b"another")
    with pytest.raises(ClipError, match=r"39\.\w+: other bytes"):
        verify_row(rows[1])
