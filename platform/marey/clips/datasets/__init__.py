"""Where videos come from: a folder, one file, or a list of files, each with its labels, as a list of `Source`.

A reader is a module of this package with ``reads(path) -> bool``, whether a file or folder is of its kind, and
``sources(path, root) -> list[Source]``. The first of `READERS` that reads a path is asked.
"""

from pathlib import Path
from types import ModuleType

from marey.clips.datasets import folder, lists
from marey.clips.datasets.source import Source
from marey.errors import ClipError

__all__ = ["READERS", "Source", "find_sources"]

READERS: tuple[ModuleType, ...] = (folder, lists)


def find_sources(videos: Path | str, root: Path | str | None = None) -> list[Source]:
    """The videos that ``videos`` means: a folder, a list (.csv, .tsv, .txt), or one video file.

    ``root``: the folder to which paths in a list are relative (default: the list's own). The order is that of the
    list, or sorted by name in a folder. Raises `ClipError` where nothing is found.
    """
    path = Path(videos).expanduser()
    if "://" in str(videos):
        raise ClipError(f"{videos}: only local paths can be prepared; mount the storage or copy the videos first")
    if not path.exists():
        raise ClipError(f"{videos}: no such file or folder; give a folder of videos, one video, or a list of them")
    for reader in READERS:
        if reader.reads(path):
            return list(reader.sources(path.absolute(), Path(root).expanduser() if root is not None else None))
    if path.suffix.lower() in (".json", ".jsonl"):
        raise ClipError(f"{videos}: lists in JSON are not read; write a CSV with the columns path,label,split")
    return [Source(path.name, str(path.absolute()))]
