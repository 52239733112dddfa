"""Joints and boxes of the user reach the frames they belong to; a wrong file costs its video and says why."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from marey.clips import parts
from marey.clips.datasets import Source, find_sources
from marey.clips.prepare import Summary, prepare_all
from marey.clips.row import ClipRow, Quarantined
from marey.clips.segments import prepare_source
from marey.clips.storage import ClipStorage
from marey.clips.streams import load_stream, read_boxes, read_joints
from marey.clips.table import open_table
from marey.clips.video import Refused
from marey.errors import ClipError
from videos import moving_square, rotate_clockwise, write_video

FAST = ClipStorage(preset="ultrafast")
COUNT = 25


def joints(count: int = COUNT) -> npt.NDArray[np.float32]:
    """float32 [count, 2, 3, 3]: x tells the frame, y person and joint; the second person is not always there."""
    made = np.zeros((count, 2, 3, 3), np.float32)
    made[..., 0] = np.arange(count)[:, None, None]
    made[..., 1] = [[10, 11, 12], [20, 21, 22]]
    made[..., 2] = 0.5
    made[::2, 1] = np.nan
    return made


def boxes(count: int = COUNT) -> npt.NDArray[np.float32]:
    """float32 [count, 1, 4]: x1 tells the frame; no scores; nobody in frame 3."""
    made = np.zeros((count, 1, 4), np.float32)
    made[..., 0] = np.arange(count)[:, None]
    made += np.array([0, 5, 30, 40], np.float32)
    made[3] = np.nan
    return made


def rows_of(source: Source, storage: ClipStorage = FAST) -> list[ClipRow]:
    rows = prepare_source(source, storage)
    assert isinstance(rows, list), rows
    return rows


@pytest.fixture
def source(tmp_path: Path) -> Source:
    write_video(tmp_path / "videos/a.mp4", COUNT)
    np.save(tmp_path / "videos/a.joints.npy", joints())
    np.savez_compressed(tmp_path / "videos/a.boxes.npz", boxes())
    (found,) = find_sources(tmp_path / "videos")
    return found


@pytest.mark.parametrize("kind", ["h264", "jpeg", "raw", "source"])
def test_every_storage_has_what_lies_beside_the_video(source: Source, kind: str) -> None:
    storage = FAST.replace(storage=kind, max_seconds=0.5)
    rows = rows_of(source, storage)
    first = 0
    for row in rows:
        frames = list(range(first, first + row.num_frames))
        first += row.num_frames
        indices = [row.num_frames - 1, 0, 2, 0]
        np.testing.assert_array_equal(read_joints(row, indices), joints()[frames][indices])
        found = read_boxes(row, range(row.num_frames))
        np.testing.assert_array_equal(found[..., :4], boxes()[frames])
        np.testing.assert_array_equal(found[..., 4], np.where(np.array(frames) == 3, np.nan, 1)[:, None])
    assert first == COUNT
    bare = replace(source, joints=None, boxes=None)
    assert [replace(row, joints=None, boxes=None) for row in rows] == rows_of(bare, storage)


def test_they_are_scaled_to_the_stored_size_and_follow_the_frames_that_are_kept(source: Source) -> None:
    (row,) = rows_of(source, FAST.replace(short_side=24, fps=12.5))
    assert (row.width, row.height, row.num_frames) == (32, 24, 13)
    np.testing.assert_array_equal(read_joints(row, [1, 4])[:, 0, :, 0], [[1] * 3, [4] * 3])  # frames 2 and 8, halved
    np.testing.assert_array_equal(read_boxes(row, [4])[0, 0], [4, 2.5, 15, 20, 1])


def test_a_turned_video_has_them_in_upright_pixels(tmp_path: Path) -> None:
    path = rotate_clockwise(write_video(tmp_path / "a.mp4", moving_square(COUNT, 48, 96)), 90)
    np.save(tmp_path / "a.joints.npy", joints())
    (source,) = find_sources(path)
    (row,) = rows_of(source, FAST.replace(short_side=24))
    assert (row.width, row.height) == (24, 48)
    np.testing.assert_array_equal(read_joints(row, [8])[0, 0], [[4, 5, 0.5], [4, 5.5, 0.5], [4, 6, 0.5]])


def test_a_list_names_files_in_columns(source: Source, tmp_path: Path) -> None:
    (tmp_path / "poses").mkdir()
    np.save(tmp_path / "poses/other.npy", joints() + 1)
    lines = ["path,label,joints,start_frame,num_frames", "videos/a.mp4,0,poses/other.npy,5,10", "videos/a.mp4,0,,,"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    ranged, whole = find_sources(tmp_path / "list.csv")
    assert ranged.joints == str(tmp_path / "poses/other.npy")
    assert whole.joints == str(tmp_path / "videos/a.joints.npy"), "no file in the list: the one beside the video"
    assert ranged.boxes == whole.boxes == str(tmp_path / "videos/a.boxes.npz")
    (row,) = rows_of(ranged)
    np.testing.assert_array_equal(read_joints(row, [0, 9])[:, 0, 0, 0], [6, 15])
    np.testing.assert_array_equal(read_boxes(row, [0, 9])[:, 0, 0], [5, 14])


def test_folders_of_frames_have_them_beside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "videos/v.1").mkdir(parents=True)
    for number, picture in enumerate(moving_square(10), 1):
        Image.fromarray(picture).save(tmp_path / f"videos/v.1/img_{number:05d}.png")
    np.save(tmp_path / "videos/v.1.joints.npy", joints(10))
    np.save(tmp_path / "videos/v.joints.npy", joints(3))
    (whole,) = find_sources(tmp_path / "videos")
    for storage in (FAST, FAST.replace(storage="source")):
        np.testing.assert_array_equal(read_joints(rows_of(whole, storage)[0], range(10)), joints(10))
    (row,) = rows_of(replace(whole, start_frame=4, num_frames=3))
    np.testing.assert_array_equal(read_joints(row, range(3)), joints(10)[4:7])
    (row,) = rows_of(replace(whole, num_frames=3))
    np.testing.assert_array_equal(read_joints(row, range(3)), joints(10)[:3])


def test_two_files_for_one_video_are_an_error(source: Source, tmp_path: Path) -> None:
    np.savez(tmp_path / "videos/a.joints.npz", joints())
    with pytest.raises(ClipError, match=r"joints of a\.mp4 in two files, a\.joints\.npy and a\.joints\.npz; keep one"):
        find_sources(tmp_path / "videos")


def test_the_whole_name_of_a_video_comes_first(source: Source, tmp_path: Path) -> None:
    write_video(tmp_path / "videos/a.mkv", COUNT)
    np.save(tmp_path / "videos/a.mkv.joints.npy", joints())
    found = {one.source_id: one.joints for one in find_sources(tmp_path / "videos")}
    assert found["a.mkv"] == str(tmp_path / "videos/a.mkv.joints.npy")
    assert found["a.mp4"] == str(tmp_path / "videos/a.joints.npy")


class Harmful:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_wrong(how: str, path: Path) -> None:
    match how:
        case "frames":
            np.save(path, joints(24))
        case "rank":
            np.save(path, joints()[:, 0])
        case "last":
            np.save(path, np.zeros((COUNT, 1, 17, 4), np.float32))
        case "type":
            np.save(path, np.full((COUNT, 1, 17, 2), "x"))
        case "infinite":
            np.save(path, np.full((COUNT, 1, 1, 2), np.inf))
        case "objects":
            np.save(path, np.array([Harmful(path.with_name("touched"))], dtype=object), allow_pickle=True)
        case "archived objects":
            with path.open("wb") as file:
                np.savez(file, joints=np.array([Harmful(path.with_name("touched"))], dtype=object))
        case "pickle":
            path.write_bytes(pickle.dumps(Harmful(path.with_name("touched"))))
        case "text":
            path.write_text("0.1 0.2 0.3")
        case "half":
            np.save(path, joints())
            path.write_bytes(path.read_bytes()[:900])
        case "empty":
            path.write_bytes(b"")
        case "huge":
            np.save(path, np.zeros((1, 1, 1, 1), np.float32))
            path.write_bytes(path.read_bytes().replace(b"(1, 1, 1, 1)", b"(1<<40,1, )").replace(b"1<<40", b"99999"))


WRONG = {
    "frames": r"has 24 frames, shape \[24, 2, 3, 3\], for a video of 25 frames",
    "rank": r"has the shape \[25, 3, 3\]",
    "last": r"has the shape \[25, 1, 17, 4\]",
    "type": r"holds values of type <U1",
    "infinite": "holds infinite values",
    "objects": "holds pickled objects",
    "archived objects": "holds pickled objects",
    "pickle": r"is no NumPy file \(\.npy, \.npz\)",
    "text": r"is no NumPy file \(\.npy, \.npz\)",
    "half": "holds no readable array",
    "empty": "the file is empty",
    "huge": "",
    "gone": "no such file",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_file_is_refused_by_name_with_what_was_expected(how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.joints.npy"
    write_wrong(how, path)
    expected = r".*; expected float32 \[25, people, joints, 2 or 3 \(x, y, score\)\]"
    with pytest.raises(Refused, match=f"joints: {path}: {WRONG[how]}{expected}") as caught:
        load_stream("joints", path, COUNT)
    assert caught.value.stage == "joints"
    assert not (tmp_path / "touched").exists()


def test_boxes_of_width_and_height_are_noticed(tmp_path: Path) -> None:
    wrong = np.zeros((COUNT, 2, 4), np.float32)
    wrong[7, 1] = [100, 50, 20, 60]
    np.save(tmp_path / "b.npy", wrong)
    with pytest.raises(Refused, match=r"boxes: .*box 1 of frame 7 is \[100\.0, 50\.0, 20\.0, 60\.0\], whose end lies"):
        load_stream("boxes", tmp_path / "b.npy", COUNT)


def test_an_archive_has_the_array_of_that_name_or_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", boxes=boxes(), joints=joints())
    assert load_stream("joints", tmp_path / "b.npz", COUNT).shape == (COUNT, 2, 3, 3)
    assert load_stream("boxes", tmp_path / "b.npz", COUNT).shape == (COUNT, 1, 5)
    np.savez(tmp_path / "c.npz", a=boxes(), b=boxes())
    with pytest.raises(Refused, match=r"holds the arrays a, b, of which none is named boxes"):
        load_stream("boxes", tmp_path / "c.npz", COUNT)


def test_other_number_types_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "j.npy", np.nan_to_num(joints()).astype(np.int16)[..., :2])
    found = load_stream("joints", tmp_path / "j.npy", COUNT)
    assert found.dtype == np.float32
    assert (found[..., 2] == 1).all()


def prepare(folder: Path, table: Path) -> Summary:
    return prepare_all(find_sources(folder), FAST, table, max_quarantine=0.6, isolate=False)


def test_a_wrong_file_costs_its_video_alone(source: Source, tmp_path: Path) -> None:
    write_video(tmp_path / "videos/b.mp4", 12)
    write_video(tmp_path / "videos/c.mp4", 12)
    np.save(tmp_path / "videos/b.joints.npy", joints(11))
    prepare(tmp_path / "videos", tmp_path / "t")
    table = open_table(tmp_path / "t")
    assert table.column("source_id") == ["a.mp4", "c.mp4"]
    (refused,) = table.quarantined()
    assert isinstance(refused, Quarantined)
    assert (refused.source_id, refused.stage) == ("b.mp4", "joints")
    assert "b.joints.npy: has 11 frames" in refused.reason
    a, c = table.read([0, 1], streams=("joints", "boxes"))
    np.testing.assert_array_equal(read_joints(a, range(COUNT)), joints())
    with pytest.raises(ClipError, match=r"c\.mp4@0\.000: no joints; prepare .* streams=\(.joints.,\)"):
        read_joints(c, [0])


def test_a_changed_file_is_prepared_again(source: Source, tmp_path: Path) -> None:
    first = prepare(tmp_path / "videos", tmp_path / "t")
    assert prepare(tmp_path / "videos", tmp_path / "t") == first
    np.save(tmp_path / "videos/a.joints.npy", joints() + 1)
    assert prepare(tmp_path / "videos", tmp_path / "t").fingerprint != first.fingerprint


def test_what_is_not_asked_for_is_not_read(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    prepare(tmp_path / "videos", tmp_path / "t")
    table = open_table(tmp_path / "t")
    real = parts.pq.ParquetFile.read_row_group

    def noting(file: object, group: int, columns: list[str], **rest: object) -> object:
        read.append(columns)
        return real(file, group, columns, **rest)

    monkeypatch.setattr(parts.pq.ParquetFile, "read_row_group", noting)
    (bare,) = table.read([0])
    (full,) = table.read([0], streams=("boxes",))
    assert (bare.joints, bare.boxes, full.joints) == (None, None, None)
    assert full.boxes is not None
    assert not {"flow", "joints", "boxes"} & set(read[0])
    assert {"flow", "joints", "boxes"} & set(read[1]) == {"boxes"}
    with pytest.raises(ClipError, match="'depth' is no optional stream of a clip table; there are flow, joints, boxes"):
        table.read([0], streams=("depth",))


@pytest.mark.parametrize("indices", [[], [25], [-1]])
def test_frames_that_are_not_there_are_refused(source: Source, indices: list[int]) -> None:
    (row,) = rows_of(source)
    with pytest.raises(ClipError, match=r"a\.mp4@0\.000: joints of frames .* it has frames 0 to 24"):
        read_joints(row, indices)


def test_damage_names_the_clip(source: Source) -> None:
    (row,) = rows_of(source)
    assert row.joints is not None
    assert row.boxes is not None
    for spoilt in (row.joints[:200], b"", row.joints[:-4], row.boxes):
        with pytest.raises(ClipError, match=r"a\.mp4@0\.000: its joints are damaged"):
            read_joints(replace(row, joints=spoilt), [0])
