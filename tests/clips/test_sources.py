"""Folders and lists of videos, in the dialects that people have."""

from pathlib import Path

import pytest

from marey.clips.datasets import Source, find_listing, find_sources
from marey.errors import ClipError
from videos import shared_folder

SHARED = shared_folder()


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not yet looked at")


def listed(tmp_path: Path, text: str, name: str = "list.txt") -> list[tuple[str, int | None, str | None, str | None]]:
    (tmp_path / name).write_text(text)
    return [(one.source_id, one.label, one.label_name, one.split) for one in find_sources(tmp_path / name)]


def test_a_single_video(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert find_sources(tmp_path / "a.mp4") == [Source("a.mp4", str(tmp_path / "a.mp4"))]


def test_a_folder_is_searched_for_whatever_may_be_a_video(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a", "deep/er/c.MKV", ".hidden.mp4", ".git/x.mp4", "notes.txt", "list.csv", "c.json")
    (tmp_path / "named.mp4").mkdir()
    assert [one.source_id for one in find_sources(tmp_path)] == ["a", "b.mp4", "deep/er/c.MKV"]
    assert all(one.label is None for one in find_sources(tmp_path))


def test_class_folders_give_labels(tmp_path: Path) -> None:
    touch(tmp_path, "wave/a.mp4", "clap/b.mp4", "clap/notes.txt", "push/c")
    assert [(one.source_id, one.label, one.label_name) for one in find_sources(tmp_path)] == [
        ("clap/b.mp4", 0, "clap"),
        ("push/c", 1, "push"),
        ("wave/a.mp4", 2, "wave"),
    ]


@pytest.mark.parametrize("stray", ["a.mp4", "wave/left/a.mp4"])
def test_one_video_elsewhere_means_that_folders_are_no_classes(tmp_path: Path, stray: str) -> None:
    touch(tmp_path, "wave/a.mp4", "clap/b.mp4", stray)
    assert all(one.label_name is None for one in find_sources(tmp_path))


def test_a_single_folder_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4")
    assert all(one.label is None for one in find_sources(tmp_path))


def test_folders_named_after_splits_are_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/wave/a.mp4", "val/wave/b.mp4", "val/clap/c.mp4")
    assert [(one.label_name, one.label, one.split) for one in find_sources(tmp_path)] == [
        ("wave", 1, "train"),
        ("clap", 0, "validation"),
        ("wave", 1, "validation"),
    ]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path / "videos")
    assert [one.source_id for one in find_sources(tmp_path / "videos")] == ["link/a.mp4"]


def test_labels_csv_in_a_folder_gives_labels(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "x/b.mp4", "x/extra.mp4")
    (tmp_path / "labels.csv").write_text("path,class,label,subject\nx/b.mp4,wave,7,1\nx/a.mp4,clap,3,2\n")
    found = find_sources(tmp_path)
    assert [(one.source_id, one.label, one.label_name) for one in found] == [
        ("x/a.mp4", 3, "clap"),
        ("x/b.mp4", 7, "wave"),
        ("x/extra.mp4", None, None),
    ]


LISTS = {
    "paths": ("a.mp4\n\nsub/b.mp4\n", [("a.mp4", None), ("sub/b.mp4", None)]),
    "blank and number": ("a.mp4 3\nb.mp4 0\n", [("a.mp4", 3), ("b.mp4", 0)]),
    "comma and number": ("a.mp4,3\nb.mp4,0\n", [("a.mp4", 3), ("b.mp4", 0)]),
    "tab and number": ("my a.mp4\t3\nb.mp4\t0\n", [("my a.mp4", 3), ("b.mp4", 0)]),
    "names are numbered in order": ("a.mp4 wave\nb.mp4 clap\n", [("a.mp4", 1), ("b.mp4", 0)]),
    "blanks in paths": ("my clip a.mp4 3\nmy clip b.mp4 0\n", [("my clip a.mp4", 3), ("my clip b.mp4", 0)]),
    "header": ("label,path,mood\n3,a.mp4,good\n0,b.mp4,bad\n", [("a.mp4", 3), ("b.mp4", 0)]),
    "header, quotes": ('path,label\n"a, b.mp4","air, drum"\n', [("a, b.mp4", 0)]),
    "Windows": ("\ufeffpath,label\r\na.mp4,3\r\n", [("a.mp4", 3)]),
    "comments": ("# my videos\na.mp4 3\n", [("a.mp4", 3)]),
    "duplicates": ("a.mp4 3\na.mp4 3\n", [("a.mp4", 3)]),
}


@pytest.mark.parametrize("dialect", LISTS)
def test_lists(tmp_path: Path, dialect: str) -> None:
    text, expected = LISTS[dialect]
    assert [(name, label) for name, label, _, _ in listed(tmp_path, text)] == expected


def test_paths_are_relative_to_the_list_or_to_a_given_folder(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4\n/abs/b.mp4\n")
    assert [one.uri for one in find_sources(tmp_path / "list.txt")] == [str(tmp_path / "a.mp4"), "/abs/b.mp4"]
    assert find_sources(tmp_path / "list.txt", tmp_path / "v")[0].uri == str(tmp_path / "v/a.mp4")


def test_splits_have_one_spelling(tmp_path: Path) -> None:
    text = "path,split\na.mp4,val\nb.mp4,Training\nc.mp4,test\nd.mp4,\ne.mp4,fold3\n"
    assert [split for *_, split in listed(tmp_path, text, "l.csv")] == ["validation", "train", "test", None, "fold3"]


WRONG = {
    "several labels": (
        "l.txt",
        "a.mp4 1\nb.mp4 0 3\n",
        r"l\.txt, line 2: 3 fields; expected a path, or a path and one",
    ),
    "columns without header": ("l.csv", "a.mp4,1,train\n", r"l\.csv, line 1: 3 fields; .* need a header"),
    "a field short": (
        "l.csv",
        "path,label\na.mp4,1\n\nb.mp4\n",
        r"l\.csv, line 4: 1 fields; expected 2 \(path, label\)",
    ),
    "no path": ("l.csv", "path,label\n,1\n", r"l\.csv, line 2: no path"),
    "negative label": ("l.txt", "a.mp4 0\nb.mp4 -1\n", r"line 2: label -1; expected a class number from 0 on"),
    "numbers and names": ("l.txt", "a.mp4 0\nb.mp4 wave\n", r"labels are numbers, except 'wave' of 'b\.mp4'"),
    "one name, two numbers": ("l.csv", "path,class,label\na,x,1\nb,x,2\n", r"class 'x' is numbered both 1 and 2"),
    "two labels for a video": ("l.txt", "a.mp4 0\na.mp4 1\n", r"'a\.mp4' appears twice and differently"),
    "nothing": ("l.txt", "\n# only this\n", r"names no videos"),
    "header only": ("l.csv", "path,label\n", r"names no videos"),
    "JSON": ("l.json", "[]", r"no list in JSON that is known"),
    "not text": ("l.txt", b"\xff\xfe\x00\xd8", r"not a readable list"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_lists_are_refused_by_line(tmp_path: Path, mistake: str) -> None:
    name, text, message = WRONG[mistake]
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ClipError, match=message):
        find_sources(tmp_path / name)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="no such file or folder"):
        find_sources(tmp_path / "gone")
    with pytest.raises(ClipError, match="holds no videos"):
        find_sources(tmp_path)
    with pytest.raises(ClipError, match="only local paths"):
        find_sources("s3://bucket/videos")


@pytest.mark.skipif(SHARED is None, reason="no folder of reference videos")
def test_a_reference_folder() -> None:
    assert SHARED is not None
    depth = find_sources(SHARED / "labelled/utd_depth10")
    assert len(depth) == 239
    assert len({one.label for one in depth}) == 10
    assert all(Path(one.uri).is_file() for one in depth)


def test_a_new_kind_of_set_is_one_module_and_one_entry(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from marey.clips import datasets

    def sources(path, root, fold):
        names = path.read_text().split()
        return datasets.Listing([Source(name, str(path.parent / name), label_name="wave") for name in names])

    reader = SimpleNamespace(reads=lambda path: path.name.endswith(".waves"), sources=sources)
    monkeypatch.setattr(datasets, "READERS", (reader, *datasets.READERS))
    (tmp_path / "set.waves").write_text("a.mp4 b.mp4")
    assert [one.source_id for one in datasets.find_sources(tmp_path / "set.waves")] == ["a.mp4", "b.mp4"]


def test_a_label_map_numbers_the_classes_and_is_kept(tmp_path: Path) -> None:
    touch(tmp_path, "wave/a.mp4", "clap/b.mp4")
    (tmp_path / "map.txt").write_text("jump\nwave\nclap\n")
    found = find_listing(tmp_path, classes=tmp_path / "map.txt")
    assert found.classes == ("jump", "wave", "clap")
    assert {one.label_name: one.label for one in found.sources} == {"wave": 1, "clap": 2}
    (tmp_path / "map.txt").write_text("wawe\nclap\n")
    with pytest.raises(ClipError, match=r"map\.txt: has no class 'wave', which .* did you mean 'wawe'"):
        find_listing(tmp_path, classes=tmp_path / "map.txt")


def test_a_label_map_names_numbers(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a.mp4 2\nb.mp4 0\n")
    (tmp_path / "map.txt").write_text("jump\nwave\nclap\n")
    found = find_listing(tmp_path / "l.txt", classes=tmp_path / "map.txt")
    assert [one.label_name for one in found.sources] == ["clap", "jump"]
    (tmp_path / "map.txt").write_text("jump\nwave\n")
    with pytest.raises(ClipError, match=r"has 2 classes, but 'a.mp4' is of class 2"):
        find_listing(tmp_path / "l.txt", classes=tmp_path / "map.txt")
