"""Diving48 (Li et al. 2018, ECCV), as UCSD's SVCL distributes it; its second version mended the labels.

    Diving48_vocab.json       [["Back", "15som", "05Twis", "FREE"], ...]: the parts of each class, in order
    Diving48_V2_train.json    [{"vid_name": "-mkd5yBTaQ_00044", "label": 22, "start_frame": 0, "end_frame": 92}, ...]
    Diving48_V2_test.json     the same
    rgb/<vid_name>.mp4        the videos, anywhere below the root

``videos=`` is the folder of these files, or one of the two lists. The videos are cut already.
"""

import re
from pathlib import Path
from typing import Any

from marey.clips.datasets.files import VideoFinder, read_json
from marey.clips.datasets.source import Listing, Source
from marey.errors import ClipError

_VOCABULARY = "Diving48_vocab.json"
_LIST = re.compile(r"Diving48(?:_V2)?_(train|test)\.json")


def reads(path: Path) -> bool:
    """The folder with the vocabulary, or a list beside it."""
    folder = path if path.is_dir() else path.parent
    return (folder / _VOCABULARY).is_file() and (path.is_dir() or _LIST.fullmatch(path.name) is not None)


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos of one list or of both."""
    folder = path if path.is_dir() else path.parent
    vocabulary = read_json(folder / _VOCABULARY, list, "a list of lists of words")
    names = tuple("+".join(map(str, parts)) for parts in vocabulary)
    lists = [one for one in sorted(folder.iterdir()) if _LIST.fullmatch(one.name)] if path.is_dir() else [path]
    finder = VideoFinder((root or folder).absolute())
    return Listing([source for one in lists for source in _read(one, names, finder)], names)


def _read(path: Path, names: tuple[str, ...], finder: VideoFinder) -> list[Source]:
    match = _LIST.fullmatch(path.name)
    assert match is not None
    entries = enumerate(read_json(path, list, 'a list of {"vid_name": ..., "label": ...}'), 1)
    return [_source(path, place, entry, names, finder, match.group(1)) for place, entry in entries]


def _source(path: Path, place: int, entry: Any, names: tuple[str, ...], finder: VideoFinder, split: str) -> Source:
    if not isinstance(entry, dict) or "vid_name" not in entry or not isinstance(entry.get("label"), int):
        raise ClipError(f"{path}, entry {place}: expected vid_name and label, a number of {_VOCABULARY}")
    label = int(entry["label"])
    if not 0 <= label < len(names):
        raise ClipError(f"{path}, entry {place}: label {label}; {_VOCABULARY} has classes 0 to {len(names) - 1}")
    if entry.get("start_frame", 0) != 0:
        raise ClipError(
            f"{path}, entry {place}: start_frame {entry['start_frame']}; the official videos are cut and start at 0"
        )
    name = str(entry["vid_name"])
    return Source(name, finder.find(name), label, names[label], split)
