"""Where videos come from: a folder, one file, or a list of files, each with its labels, as a list of `Source`."""

from pathlib import Path

from marey.clips.datasets.folder import folder_sources
from marey.clips.datasets.lists import list_sources
from marey.clips.datasets.source import Source
from marey.errors import ClipError

__all__ = ["Source", "find_sources"]

_LISTS = {".csv", ".tsv", ".txt", ".lst", ".list"}


def find_sources(videos: Path | str, root: Path | str | None = None) -> list[Source]:
    """The videos that ``videos`` means: a folder, a list (.csv, .tsv, .txt), or one video file.

    ``root``: the folder to which paths in a list are relative (default: the list's own). The order is that of the
    list, or sorted by name in a folder. Raises `ClipError` where nothing is found.
    """
    path = Path(videos).expanduser()
    if "://" in str(videos):
        raise ClipError(f"{videos}: only local paths can be prepared; mount the storage or copy the videos first")
    if path.is_dir():
        return folder_sources(path.absolute())
    if not path.exists():
        raise ClipError(f"{videos}: no such file or folder; give a folder of videos, one video, or a list of them")
    if path.suffix.lower() in _LISTS:
        return list_sources(path.absolute(), Path(root).expanduser() if root is not None else None)
    if path.suffix.lower() in (".json", ".jsonl"):
        raise ClipError(f"{videos}: lists in JSON are not read; write a CSV with the columns path,label,split")
    return [Source(path.name, str(path.absolute()))]
