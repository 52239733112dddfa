"""Moments in Time (Monfort et al. 2019, arXiv:1801.03150), as MIT distributes it.

    moments_categories.txt    clapping,0
    trainingSet.csv           clapping/flickr-0-0-0-1.mp4,clapping,5,0        (path, class, votes for, votes against)
    validationSet.csv         the same
    training/, validation/    the videos, in a folder a class

``videos=`` is the folder of these files, or one of the two lists.
"""

from pathlib import Path

from marey.clips.datasets.files import in_order, number_of, read_rows, wrong
from marey.clips.datasets.source import Listing, Source

_CLASSES = "moments_categories.txt"
_LISTS = {"trainingSet.csv": ("training", "train"), "validationSet.csv": ("validation", "validation")}


def reads(path: Path) -> bool:
    """The folder with ``moments_categories.txt``, or a list beside it."""
    folder = path if path.is_dir() else path.parent
    return (folder / _CLASSES).is_file() and (path.is_dir() or path.name in _LISTS)


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos of one list or of both."""
    folder = path if path.is_dir() else path.parent
    numbers = _numbers(folder / _CLASSES)
    lists = [folder / name for name in _LISTS if (folder / name).is_file()] if path.is_dir() else [path]
    found = [source for one in lists for source in _read(one, numbers, (root or folder).absolute())]
    return Listing(found, in_order(numbers, folder / _CLASSES))


def _numbers(path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, row in read_rows(path):
        if len(row) != 2 or not row[1].strip().isdecimal():
            raise wrong(path, number, ",".join(row), "class,number")
        numbers[row[0].strip()] = int(row[1])
    return numbers


def _read(path: Path, numbers: dict[str, int], root: Path) -> list[Source]:
    folder, split = _LISTS[path.name]
    found = []
    for number, row in read_rows(path):
        if len(row) < 2:
            raise wrong(path, number, ",".join(row), "path,class,votes,votes")
        name, label = row[0].strip(), row[1].strip()
        place = number_of(label, numbers, path, number, _CLASSES)
        found.append(Source(f"{folder}/{name}", str(root / folder / name), place, label, split))
    return found
