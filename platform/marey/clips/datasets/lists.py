"""Lists of videos as people have them: CSV, TSV or lines of words, with or without a header, labelled or not.

    clips/a.mp4                                     a path a line
    clips/a.mp4 3                                   path and label, by number or by name; comma, tab or blank between
                                                    (MMAction2's, SlowFast's and VideoMAE's lists of videos)
    frames/a 120 3                                  a folder of frames with their number; and other forms with three or
                                                    four fields, all told in `marey.clips.datasets.counts`
    path,label,split                                a header: any order, more columns are ignored; start_frame,
                                                    num_frames or end_frame, fps as in `marey.clips.datasets.counts`;
                                                    joints, boxes: NumPy files (`marey.clips.streams`), or nothing

Paths are relative to the list's folder (or to ``root``), and lead to a video or a folder of frames. A range of frames
becomes part of the source's name, ``a[30:90]``, so that a list may take several of one video. A file that a list names
and that is not there is no error here: it ends in quarantine. A line that cannot be understood is a `ClipError` with
the file and the line's number.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from marey.clips.datasets.counts import by_column, with_range
from marey.clips.datasets.files import read_text, wrong
from marey.clips.datasets.source import Listing, Source, number_labels, split_name, unique
from marey.errors import ClipError

_PATH = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "clip", "frame_dir"),
    "frame_folder",
)
_NUMBER = ("label", "label_id", "class_id", "class_index", "target")
_NAME = ("label_name", "class", "class_name", "action", "category", "label")
_SPLIT = ("split", "subset", "partition", "set")
_FILES = ("joints", "boxes")
_SUFFIXES = {".csv", ".tsv", ".txt", ".lst", ".list"}


@dataclass(frozen=True)
class _Line:
    """A line of a list: its number and its fields by column name."""

    number: int
    fields: Mapping[str, str]

    def first(self, columns: tuple[str, ...]) -> str | None:
        """The first of ``columns`` that is there and not empty."""
        return next((value for column in columns if (value := self.fields.get(column, "").strip())), None)


def reads(path: Path) -> bool:
    """Files whose suffix says that they are lists."""
    return path.suffix.lower() in _SUFFIXES


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """See `list_sources`."""
    return Listing(list_sources(path, root))


def list_sources(path: Path, root: Path | None = None) -> list[Source]:
    """The videos that the list at ``path`` names, in its order. Raises `ClipError`."""
    base = (root or path.parent).absolute()
    lines = list(_lines(path, read_text(path), base))
    if not lines:
        raise ClipError(f"{path}: names no videos; expected one a line, e.g. `clips/a.mp4 3` or a CSV path,label")
    sources = [_source(path, line, base) for line in lines]
    _check_labels(path, sources)
    return number_labels(unique(sources, str(path)))


def _lines(path: Path, text: str, base: Path) -> Iterator[_Line]:
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        return
    separator = "\t" if "\t" in lines[0][1] else "," if "," in lines[0][1] else None
    rows = [(number, _split(line, separator)) for number, line in lines]
    header = [field.strip().lower() for field in rows[0][1]]
    if any(name in header for name in _PATH):
        for number, row in rows[1:]:
            if len(row) != len(header):
                raise wrong(path, number, f"{len(row)} fields", f"{len(header)} ({', '.join(header)})")
            yield _Line(number, dict(zip(header, row, strict=True)))
        return
    split = [(number, row if separator else _words(row[0], base)) for number, row in rows]
    yield from (_Line(number, fields) for number, fields in by_column(path, split, base))


def _split(line: str, separator: str | None) -> list[str]:
    return next(csv.reader(io.StringIO(line), delimiter=separator)) if separator else [line.strip()]


def _words(line: str, base: Path) -> list[str]:
    """A path and the numbers behind it, or one name, where blanks separate and may also be part of the path.

    The longest path that is there; where none is, all numbers at the end of the line are taken for fields.
    """
    words = line.split()
    path, numbers = line, list[str]()
    while len(words) > len(numbers) + 1 and not (base / path).exists():
        last = words[-1 - len(numbers)]
        if not last.removeprefix("-").isdecimal():
            break
        numbers.insert(0, last)
        path = path[: -len(last)].rstrip()
    return [path, *numbers] if numbers or len(words) != 2 or (base / line).exists() else words


def _source(path: Path, line: _Line, base: Path) -> Source:
    name = line.first(_PATH)
    if name is None:
        raise wrong(path, line.number, "no path", f"one in the column {' or '.join(_PATH[:4])}")
    source = Source(name, str(base / name), *_label(path, line), split_name(line.first(_SPLIT)))
    joints, boxes = (str(base / file) if (file := line.first((kind,))) else None for kind in _FILES)
    source = replace(source, joints=joints, boxes=boxes)
    return with_range(source, line.first, path, line.number)


def _label(path: Path, line: _Line) -> tuple[int | None, str | None]:
    """(number, name) of a line's label, either of which may be missing."""
    texts = [line.fields.get(column, "").strip() for column in _NUMBER]
    number = next((int(text) for text in texts if text.isdecimal()), None)
    name = line.first(_NAME)
    if name is not None and name.lstrip("-").isdecimal():
        if name.startswith("-"):
            raise wrong(path, line.number, f"label {name}", "a class number from 0 on, or a class name")
        name = None
    return number, name


def _check_labels(path: Path, sources: list[Source]) -> None:
    """Numbers and names must belong together one to one; mixing bare numbers and bare names makes no sense."""
    numbers: dict[str, int] = {}
    for source in sources:
        if source.label is None or source.label_name is None:
            continue
        first = numbers.setdefault(source.label_name, source.label)
        if first != source.label:
            raise ClipError(
                f"{path}: class {source.label_name!r} is numbered both {first} and {source.label}; keep one"
            )
    bare_number = any(source.label is not None and source.label_name is None for source in sources)
    bare_name = next((one for one in sources if one.label is None and one.label_name is not None), None)
    if bare_number and bare_name:
        raise ClipError(
            f"{path}: labels are numbers, except {bare_name.label_name!r} of {bare_name.source_id!r}; use one"
        )
