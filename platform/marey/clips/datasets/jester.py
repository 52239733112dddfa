"""Jester (Materzynska et al. 2019, ICCV workshops), as 20BN and Qualcomm distribute it.

    jester-v1-labels.csv        a class a line, in the order of the classes
    jester-v1-train.csv         34870;Drumming Fingers
    jester-v1-validation.csv    the same; jester-v1-test.csv: ids alone
    <id>/00001.jpg ...          the videos, as folders of frames, anywhere below the root; or <id>.webm, <id>.mp4

``videos=`` is one of the lists, or the folder. The frames are 12 a second: ``clips.frames_fps=12``.
"""

import re
from pathlib import Path

from marey.clips.datasets.files import VideoFinder, number_of, read_lines, read_rows, wrong
from marey.clips.datasets.source import Listing, Source

_LIST = re.compile(r"jester-v1-(train|validation|test)\.csv")
_LABELS = "jester-v1-labels.csv"


def reads(path: Path) -> bool:
    """A list named as officially, or a folder with the labels."""
    return (path / _LABELS).is_file() if path.is_dir() else _LIST.fullmatch(path.name) is not None


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos of one list or of all."""
    folder = path if path.is_dir() else path.parent
    names = [line.strip() for _, line in read_lines(folder / _LABELS)]
    numbers = {name: number for number, name in enumerate(names)}
    finder = VideoFinder((root or folder).absolute())
    lists = [one for one in sorted(path.iterdir()) if _LIST.fullmatch(one.name)] if path.is_dir() else [path]
    found = [source for one in lists for source in _read(one, numbers, finder)]
    return Listing(found, tuple(names))


def _read(path: Path, numbers: dict[str, int], finder: VideoFinder) -> list[Source]:
    match = _LIST.fullmatch(path.name)
    assert match is not None
    found = []
    for number, row in read_rows(path, ";"):
        name, label = row[0].strip(), row[1].strip() if len(row) > 1 else None
        if not name or len(row) > 2:
            raise wrong(path, number, f"{len(row)} fields", "id;class, e.g. 34870;Drumming Fingers")
        place = None if label is None else number_of(label, numbers, path, number, _LABELS)
        found.append(Source(name, finder.find(name), place, label, match.group(1)))
    return found
