"""Where videos come from: a folder, one video, a list of them, or a data set's official files, as `Source`s.

A video is a file, or a folder of frames.

A reader is a module of this package with ``reads(path) -> bool``, whether a file or folder is of its kind, and
``sources(path, root, fold) -> Listing``. The first of `READERS` that reads a path is asked.
"""

from pathlib import Path
from types import ModuleType

from marey.clips.datasets import (
    diving48,
    folder,
    frame_lists,
    hmdb51,
    jester,
    kinetics,
    lists,
    moments_in_time,
    something_something,
    ucf101,
)
from marey.clips.datasets.beside import with_files_beside
from marey.clips.datasets.files import read_lines
from marey.clips.datasets.source import Listing, Source, renumber, unique
from marey.errors import ClipError

__all__ = ["READERS", "Listing", "Source", "find_listing", "find_sources"]

READERS: tuple[ModuleType, ...] = (
    something_something,
    jester,
    hmdb51,
    ucf101,
    moments_in_time,
    diving48,
    kinetics,
    frame_lists,
    folder,
    lists,
)


def find_sources(videos: Path | str, root: Path | str | None = None, fold: int = 1) -> list[Source]:
    """The videos that ``videos`` means; see `find_listing`."""
    return find_listing(videos, root, fold).sources


def find_listing(
    videos: Path | str, root: Path | str | None = None, fold: int = 1, classes: Path | str | None = None
) -> Listing:
    """The videos that ``videos`` means: a folder, a list, official files of a data set, or one video.

    ``root``: the folder in which videos of a list are looked for (default: the list's own). ``fold``: which of a data
    set's official splits, where it has several. ``classes``: a label map, one name a line, whose order numbers the
    classes. The order is that of the list, or sorted by name in a folder. Joints and boxes are files that a list names,
    or that lie beside the videos (`marey.clips.datasets.beside`). Raises `ClipError` where nothing is found.
    """
    path = Path(videos).expanduser()
    if "://" in str(videos):
        raise ClipError(f"{videos}: only local paths can be prepared; mount the storage or copy the videos first")
    if not path.exists():
        raise ClipError(f"{videos}: no such file or folder; give a folder of videos, one video, or a list of them")
    found = _read(path, Path(root).expanduser() if root is not None else None, fold)
    found = found._replace(sources=with_files_beside(found.sources))
    if classes is None:
        return found
    names = tuple(line.strip() for _, line in read_lines(Path(classes)))
    return Listing(renumber(found, names, str(classes)), names)


def _read(path: Path, root: Path | None, fold: int) -> Listing:
    for reader in READERS:
        if reader.reads(path):
            listing: Listing = reader.sources(path.absolute(), root, fold)
            return listing._replace(sources=unique(listing.sources, str(path)))
    if path.suffix.lower() in (".json", ".jsonl"):
        raise ClipError(
            f"{path}: no list in JSON that is known here (Something-Something's and Diving48's are read with the "
            "official files of their classes beside them); write a CSV with the columns path,label,split"
        )
    return Listing([Source(path.name, str(path.absolute()))])
