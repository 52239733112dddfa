"""Lists and folders of frames: which number of a line means what, and which folder is a video."""

from pathlib import Path

import pytest

from marey.clips.datasets import find_sources
from marey.errors import ClipError

Found = list[tuple[str, int | None, int | None, int | None]]


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not yet looked at")


def listed(tmp_path: Path, text: str, name: str = "list.txt") -> Found:
    (tmp_path / name).write_text(text)
    found = find_sources(tmp_path / name)
    return [(one.source_id, one.start_frame, one.num_frames, one.label) for one in found]


LISTS: dict[str, tuple[str, Found]] = {
    "MMAction2": ("imgs 5 127\nmore 9 0\n", [("imgs", None, 5, 127), ("more", None, 9, 0)]),
    "MMAction2, offset": (
        "imgs 2 5 127\nimgs 7 5 1\n",
        [("imgs[2:7]", 2, 5, 127), ("imgs[7:12]", 7, 5, 1)],
    ),
    "one offset of 1": ("imgs 1 5 127\n", [("imgs[1:6]", 1, 5, 127)]),
    "one folder, several clips": ("a 1 5 0\na 1 8 0\n", [("a[1:6]", 1, 5, 0), ("a[1:9]", 1, 8, 0)]),
    "VideoMAE, frames": ("SomethingV2/100218 42 5\n", [("SomethingV2/100218", None, 42, 5)]),
    "VideoMAE V2, pre-training": (
        "k400/a.mp4 0 -1\nssv2/7 1 38\n",
        [("k400/a.mp4", None, None, None), ("ssv2/7", None, 38, None)],
    ),
    "VideoMAE V2, commas": ("a.mp4,0,-1\nssv2/7,0,38\n", [("a.mp4", None, None, None), ("ssv2/7", None, 38, None)]),
    "VideoMAE V2, four fields": (
        "a.mp4 0 -1 3\nssv2/7 1 38 4\nssv2/8 1 40 5\n",
        [("a.mp4", None, None, 3), ("ssv2/7", None, 38, 4), ("ssv2/8", None, 40, 5)],
    ),
    "ranges of videos": ("a.mp4 1 60 3\nb.mp4 1 50 4\n", [("a.mp4[1:61]", 1, 60, 3), ("b.mp4[1:51]", 1, 50, 4)]),
    "blanks in a path": ("my frames 5 3\n", [("my frames", None, 5, 3)]),
    "a header": (
        "path,label,start_frame,num_frames\na,3,10,20\nb,4,,\nc.mp4,5,10,-1\n",
        [("a[10:30]", 10, 20, 3), ("b", None, None, 4), ("c.mp4[10:]", 10, None, 5)],
    ),
    "a header with ends": (
        "path,label,start_frame,end_frame\na,3,10,30\nb,4,,6\n",
        [("a[10:30]", 10, 20, 3), ("b[0:6]", 0, 6, 4)],
    ),
    "a header as in MMAction2": ("frame_dir,total_frames,label\na,9,3\n", [("a", None, 9, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("dialect", LISTS)
def test_numbers_of_frames(tmp_path: Path, dialect: str) -> None:
    text, expected = LISTS[dialect]
    assert listed(tmp_path, text, "l.csv" if "," in text else "l.txt") == expected


def test_a_folder_may_be_named_like_a_file_or_end_in_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "v_1.avi/0001.png", "take 2/0001.png")
    assert listed(tmp_path, "v_1.avi 9 3\n") == [("v_1.avi", None, 9, 3)]
    assert listed(tmp_path, "take 2 9 3\n") == [("take 2", None, 9, 3)]


def test_rates_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,fps,label\na,12,0\nb,29.97,0\nc,,0\n")
    assert [one.fps for one in find_sources(tmp_path / "l.csv")] == [12, 29.97, None]


WRONG = {
    "several labels": ("imgs 5 1\nimgs 5 3 5\n", r"l\.txt, line 2: 4 fields; .* line 1 has 3"),
    "two kinds of list": ("imgs 5 1\nmore 0 9\n", r"line 2: 0 9 after the path; expected `path total_frames label`"),
    "the other way round": ("imgs 1 5\nmore 7 9\n", r"line 2: 7 9 after the path; expected `path start total_frames`"),
    "several labels of a video": ("a.mp4 0 3\n", r"line 1: 3 fields; .* a row has one label"),
    "five fields": ("imgs 1 2 3 4\n", r"line 1: 5 fields"),
    "no frames": ("imgs 3 0 5\n", r"line 1: total_frames 0; expected 2 or more, or -1"),
    "a negative offset": ("imgs -3 9 5\n", r"line 1: offset -3; expected 0 or more"),
    "unknown labels": ("imgs 50 -1\n", r"line 1: label -1; expected a class number"),
    "unknown labels of videos": ("a.mp4 50 -1\n", r"line 1: label -1; expected a class number"),
    "a negative label": ("imgs 9 -3\n", r"line 1: label -3"),
    "a range too short": ("path,start_frame,num_frames\na,3,1\n", r"line 2: 1 frames; expected 2 or more"),
    "an end before the start": ("path,start_frame,end_frame\na,9,3\n", r"line 2: -6 frames"),
    "an end and a number": (
        "path,end_frame,num_frames\na,9,3\n",
        r"line 2: num_frames 3 and end_frame 9; expected one",
    ),
    "seconds": ("path,start_frame\na,1.5\n", r"line 2: start_frame '1\.5'; expected a whole number of frames"),
    "no rate": ("path,fps\na,fast\n", r"line 2: fps 'fast'; expected frames a second"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_lines_are_named(tmp_path: Path, mistake: str) -> None:
    text, message = WRONG[mistake]
    with pytest.raises(ClipError, match=message):
        listed(tmp_path, text, "l.txt")


HEADER = "original_vido_id video_id frame_id path labels\n"


def test_slowfasts_lists_of_frames(tmp_path: Path) -> None:
    lines = [f'46GP8 0 {n} 46GP8/46GP8-00000{n + 1}.jpg "11"\n' for n in range(3)]
    lines += [f'5KQ66 1 {n} 5KQ66/5KQ66_00000{n + 1}.jpg ""\n' for n in range(2)]
    assert listed(tmp_path, HEADER + "".join(lines), "train.csv") == [("46GP8", None, 3, 11), ("5KQ66", None, 2, None)]
    assert find_sources(tmp_path / "train.csv", tmp_path / "v")[0].uri == str(tmp_path / "v/46GP8")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('a 0 1 a/2.jpg "1,5"', r'line 3: labels "1,5"; expected one label or none'),
        ('a 0 1 a/2.jpg "5"', r'line 3: labels "5" of a; expected the label of its first line, 11'),
        ('a 0 2 a/3.jpg "11"', r"line 3: frame_id 2 of a; expected 1, without gaps"),
        ('a 0 1 b/2.jpg "11"', r"line 3: b/2\.jpg; expected all pictures of a in a"),
        ("a 0 1 a/2.jpg", r"line 3: 'a 0 1 a/2\.jpg'; expected 5 fields"),
    ],
)
def test_wrong_lines_of_slowfasts_lists_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ClipError, match=message):
        listed(tmp_path, f'{HEADER}a 0 0 a/1.jpg "11"\n{line}\n', "train.csv")


def test_a_list_of_frames_without_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="names no pictures"):
        listed(tmp_path, HEADER, "train.csv")


def test_folders_of_frames_are_videos_of_their_class(tmp_path: Path) -> None:
    for name in ("wave/a", "wave/b", "clap/c"):
        touch(tmp_path, *(f"{name}/{kind}_{n:05d}.jpg" for kind in ("img", "flow_x", "flow_y") for n in range(3)))
    touch(tmp_path, "clap/c/Thumbs.db", "clap/one/0001.png", "clap/film.mp4")
    (tmp_path / "wave/empty").mkdir()
    found = [(one.source_id, one.label_name) for one in find_sources(tmp_path)]
    assert found == [
        ("clap/c", "clap"),
        ("clap/film.mp4", "clap"),
        ("clap/one", "clap"),
        ("wave/a", "wave"),
        ("wave/b", "wave"),
        ("wave/empty", "wave"),
    ]


def test_a_folder_of_frames_is_one_video(tmp_path: Path) -> None:
    touch(tmp_path, "take/0001.png", "take/0002.png")
    assert [(one.source_id, one.uri) for one in find_sources(tmp_path / "take")] == [("take", str(tmp_path / "take"))]


def test_labels_csv_names_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/0001.png", "a/0002.png", "b/0001.png", "b/0002.png")
    (tmp_path / "labels.csv").write_text("path,label\na,3\n")
    assert [(one.source_id, one.label) for one in find_sources(tmp_path)] == [("a", 3), ("b", None)]


def test_pictures_beside_videos_are_no_frames(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "cover1.jpg")
    assert [one.source_id for one in find_sources(tmp_path)] == ["a.mp4", "b.mp4", "cover1.jpg"]


def test_official_lists_find_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, "frames/1/00001.jpg", "frames/1/00002.jpg", "frames/2/00001.jpg", "frames/2/00002.jpg")
    (tmp_path / "jester-v1-labels.csv").write_text("Swiping Left\nNo gesture\n")
    (tmp_path / "jester-v1-train.csv").write_text("2;Swiping Left\n1;No gesture\n")
    found = [(one.source_id, one.uri, one.label) for one in find_sources(tmp_path)]
    assert found == [("2", str(tmp_path / "frames/2"), 0), ("1", str(tmp_path / "frames/1"), 1)]
