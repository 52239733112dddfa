"""Which number means what in a list without a header whose lines have three or four fields.

    path total_frames label                 the first total_frames pictures of a folder (MMAction2's and VideoMAE's
                                            lists of frames); every total_frames is 2 or more
    path start total_frames                 no label (VideoMAE V2, pre-training); the folder's first picture is number
                                            start, 0 or 1 in every line; total_frames -1: the whole folder or video file
    path offset total_frames label          total_frames pictures after the first offset ones (MMAction2, with_offset),
                                            or that range of a video file's frames; total_frames -1: all of it
    path 1 total_frames label               all offsets 1, and two paths or more, none twice: start as above (VideoMAE
                                            V2's form with four fields), so the folder's first total_frames pictures

All lines of a list have one form. A list that means something else says so in a header: path, label, start_frame or
offset (frames left out at the beginning), num_frames or total_frames, end_frame (the first one no longer taken), fps
(of pictures).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from marey.clips.datasets.files import wrong
from marey.clips.datasets.source import Source

START = ("start_frame", "offset")
COUNT = ("num_frames", "total_frames")
END = ("end_frame",)
FPS = ("fps",)

_WHOLE = re.compile(r"-?[0-9]+")
_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")
_FORMS = (
    "a path, or a path and one label; for frames `path total_frames label` or `path offset total_frames label` "
    "(other columns need a header; a row has one label)"
)

Row = tuple[int, list[str]]


def by_column(path: Path, rows: Sequence[Row], base: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines of a list without header, (number, fields), with their fields by column. `ClipError` for a wrong one."""
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) == 3 and row[2].strip() != "-1" and _is_file(base / row[0]):
            raise wrong(path, number, "3 fields", _FORMS)
        if len(row) != width and max(len(row), width) > 2:
            raise wrong(
                path, number, f"{len(row)} fields", f"{_FORMS}; all lines alike, and line {rows[0][0]} has {width}"
            )
        if not 1 <= len(row) <= 4 or (len(row) > 2 and not all(_WHOLE.fullmatch(field.strip()) for field in row[1:])):
            raise wrong(path, number, f"{len(row)} fields", _FORMS)
        if not row[0].strip():
            raise wrong(path, number, "no path", "a path first")
    if width < 3:
        return [(number, dict(zip(("path", "label"), row, strict=False))) for number, row in rows]
    read = _three if width == 3 else _four
    return read(path, [(number, [field.strip() for field in row]) for number, row in rows], base)


def _three(path: Path, rows: Sequence[Row], base: Path) -> list[tuple[int, dict[str, str]]]:
    starts = [int(row[1]) in (0, 1) for _, row in rows]
    found = []
    for (number, row), is_start in zip(rows, starts, strict=True):
        if is_start != starts[0]:
            form = "start total_frames`, start 0 or 1" if starts[0] else "total_frames label`, 2 frames or more"
            raise wrong(path, number, f"{' '.join(row[1:])} after the path", f"`path {form}, as line {rows[0][0]} has")
        name, first, second = row
        count, label = (second, "") if is_start else (first, second)
        _check_count(path, number, count)
        found.append((number, {"path": name, "label": label, "num_frames": "" if count == "-1" else count}))
    return found


def _four(path: Path, rows: Sequence[Row], base: Path) -> list[tuple[int, dict[str, str]]]:
    from_one = _from_one([row for _, row in rows if row[2] != "-1" and not _is_file(base / row[0])])
    found = []
    for number, (name, start, count, label) in rows:
        if start.startswith("-"):
            raise wrong(path, number, f"offset {start}", "0 or more frames to leave out, in `path offset frames label`")
        _check_count(path, number, count)
        whole = count == "-1"
        told = {"path": name, "label": label, "num_frames": "" if whole else count}
        plain = whole or (from_one and not _is_file(base / name))
        found.append((number, told if plain else told | {"start_frame": start}))
    return found


def _from_one(folders: list[list[str]]) -> bool:
    """Whether the second fields of these lines number first pictures: an offset of 1 everywhere would be no offset."""
    return len({row[0] for row in folders}) == len(folders) > 1 and all(row[1] == "1" for row in folders)


def _check_count(path: Path, number: int, count: str) -> None:
    if count != "-1" and int(count) < 2:
        raise wrong(path, number, f"total_frames {count}", "2 or more, or -1 for all")


def _is_file(path: Path) -> bool:
    """Whether a path is no folder; where nothing is there, by its name."""
    return not path.is_dir() and (path.is_file() or _FILE.fullmatch(path.suffix) is not None)


def with_range(source: Source, first: Callable[[tuple[str, ...]], str | None], path: Path, number: int) -> Source:
    """``source`` with the range of frames and the rate of its line; ``first``: the first of some columns' fields."""
    start, count, end = (_whole(first(names), names[0], path, number) for names in (START, COUNT, END))
    if end is not None:
        if count is not None:
            raise wrong(path, number, f"num_frames {count} and end_frame {end}", "one of them")
        start = start or 0
        count = end - start
    if count is not None and count < 2:
        raise wrong(path, number, f"{count} frames", "2 or more; empty or -1 for all from start_frame on")
    name = source.source_id
    if start is not None and (start, count) != (0, None):
        name = f"{name}[{start}:{'' if count is None else start + count}]"
    return replace(source, source_id=name, start_frame=start, num_frames=count, fps=_rate(first(FPS), path, number))


def _whole(text: str | None, column: str, path: Path, number: int) -> int | None:
    if text is None or (text == "-1" and column != START[0]):
        return None
    if not text.isdecimal():
        raise wrong(path, number, f"{column} {text!r}", "a whole number of frames, counted from 0")
    return int(text)


def _rate(text: str | None, path: Path, number: int) -> float | None:
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1000:
        raise wrong(path, number, f"fps {text!r}", "frames a second, e.g. 29.97, or nothing")
    return rate
