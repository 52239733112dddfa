"""Kinetics-400, 600, 700 and their union: CSV files that name clips by YouTube id and seconds.

    label,youtube_id,time_start,time_end,split[,is_cc]      (DeepMind's releases; a test list may lack the label)

Downloaders name the files ``<id>_<start:06d>_<end:06d>.*`` or ``<id>.*``; they are looked for anywhere below the root.
``videos=`` is one list, or a folder of several, read together: a clip that several of them name comes once, and is not
trained on if any of them validates or tests with it. That, with ``classes=`` the map of 710 names, is the union that
VideoMAE V2 fine-tunes on (Kinetics-710: Li et al. 2022, arXiv:2211.09552).
"""

import csv
from pathlib import Path

from marey.clips.datasets.files import VideoFinder, read_rows, wrong
from marey.clips.datasets.source import Listing, Source, number_labels, split_name
from marey.errors import ClipError

_ID = "youtube_id"
# Kinetics-400's names of classes that later releases renamed, as VideoMAE V2's maps pair them.
_ALSO_CALLED = {
    "balloon blowing": "inflating balloons",
    "changing wheel": "changing wheel (not on bike)",
    "cooking sausages": "cooking sausages (not on barbeque)",
    "drinking": "sipping cup",
    "dying hair": "dyeing hair",
    "garbage collecting": "person collecting garbage",
    "hugging": "hugging baby",
    "making bed": "making the bed",
    "opening bottle": "opening wine bottle",
    "passing american football (not in game)": "passing American football (not in game)",
    "picking fruit": "picking apples",
    "skiing (not slalom or crosscountry)": "skiing mono",
    "sniffing": "smelling feet",
    "tying tie": "tying necktie",
}
_CAUTION = {"test": 0, "validation": 1, "train": 2}


def reads(path: Path) -> bool:
    """A CSV whose first line names ``youtube_id``, or a folder with one."""
    if path.is_dir():
        return any(_is_list(one) for one in path.glob("*.csv"))
    return _is_list(path)


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The clips of one list or of all lists in a folder."""
    lists = sorted(one for one in path.glob("*.csv") if _is_list(one)) if path.is_dir() else [path]
    finder = VideoFinder((root or lists[0].parent).absolute())
    clips: dict[str, Source] = {}
    for one in lists:
        for source in _read(one, finder):
            known = clips.get(source.source_id)
            if known is None or _caution(source) < _caution(known):
                clips[source.source_id] = source
    if not clips:
        raise ClipError(f"{path}: names no videos; expected lines label,youtube_id,time_start,time_end,split")
    return Listing(number_labels(list(clips.values())), also_called=_ALSO_CALLED)


def _is_list(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return _ID in next(csv.reader(file), [])


def _caution(source: Source) -> int:
    return _CAUTION.get(source.split or "", 3)


def _read(path: Path, finder: VideoFinder) -> list[Source]:
    rows = read_rows(path)
    header = next(rows)[1]
    found = []
    for number, row in rows:
        if len(row) != len(header):
            raise wrong(path, number, f"{len(row)} fields", f"{len(header)} ({', '.join(header)})")
        found.append(_source(path, number, dict(zip(header, row, strict=True)), finder))
    return found


def _source(path: Path, number: int, fields: dict[str, str], finder: VideoFinder) -> Source:
    name = fields[_ID].strip()
    if not name:
        raise wrong(path, number, "no youtube_id", "label,youtube_id,time_start,time_end,split")
    try:
        start, end = (int(float(fields[column])) for column in ("time_start", "time_end"))
    except (KeyError, ValueError):
        raise wrong(path, number, "no times", "seconds in the columns time_start and time_end") from None
    clip = f"{name}_{start:06d}_{end:06d}"
    label = fields.get("label", "").strip() or None
    return Source(clip, finder.find(clip, name), None, label, split_name(fields.get("split")))
