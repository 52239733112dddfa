"""UCF101 (Soomro et al. 2012, arXiv:1212.0402), as CRCV distributes it.

    ucfTrainTestlist/classInd.txt       1 ApplyEyeMakeup
    ucfTrainTestlist/trainlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    ucfTrainTestlist/testlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi

There are three splits: ``videos=`` is the folder and ``fold=`` which of them, or ``videos=`` is one of the lists.
Classes are numbered from 0 here.
"""

import re
from pathlib import Path

from marey.clips.datasets.files import VideoFinder, number_of, read_lines, wrong
from marey.clips.datasets.source import Listing, Source
from marey.errors import ClipError

_INDEX = "classInd.txt"
_LIST = re.compile(r"(train|test)list0([123])\.txt")


def reads(path: Path) -> bool:
    """The folder with ``classInd.txt``, or a list beside it."""
    if path.is_dir():
        return (path / _INDEX).is_file()
    return _LIST.fullmatch(path.name) is not None and path.with_name(_INDEX).is_file()


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos of split ``fold``, or of one list."""
    folder = path if path.is_dir() else path.parent
    names = _names(folder / _INDEX)
    lists = [folder / f"{split}list0{fold}.txt" for split in ("train", "test")] if path.is_dir() else [path]
    if missing := [one.name for one in lists if not one.is_file()]:
        raise ClipError(f"{folder}: has no {' and no '.join(missing)}; fold= is 1, 2 or 3")
    finder = VideoFinder((root or folder.parent).absolute())
    return Listing([source for one in lists for source in _read(one, names, finder)], tuple(names))


def _names(path: Path) -> list[str]:
    names: list[str] = []
    for number, line in read_lines(path):
        words = line.split()
        if len(words) != 2 or words[0] != str(len(names) + 1):
            raise wrong(path, number, repr(line.strip()), f"`{len(names) + 1} ClassName`")
        names.append(words[1])
    return names


def _read(path: Path, names: list[str], finder: VideoFinder) -> list[Source]:
    match = _LIST.fullmatch(path.name)
    assert match is not None
    numbers = {name: place for place, name in enumerate(names)}
    found = []
    for number, line in read_lines(path):
        name = line.split()[0]
        label_name = name.split("/")[0]
        label = number_of(label_name, numbers, path, number, _INDEX)
        stem, suffix = Path(name).stem, Path(name).suffix
        uri = finder.find(stem, suffix=suffix)
        found.append(Source(name, uri, label, label_name, match.group(1)))
    return found
