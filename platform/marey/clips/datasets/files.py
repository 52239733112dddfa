"""Reading official files: text, CSV and JSON with errors that name file and line; finding videos by their names."""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from marey.clips.frames import holds_frames
from marey.config import did_you_mean
from marey.errors import ClipError


def read_text(path: Path) -> str:
    """A text file, UTF-8 with or without a mark. Raises `ClipError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"{path}: is not a readable list of videos ({error})") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without those that are blank."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield number, line


def read_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Fields of each line, with its number."""
    for number, line in read_lines(path):
        yield number, next(csv.reader([line], delimiter=delimiter))


def read_json(path: Path, kind: type[list[Any]] | type[dict[str, Any]], expected: str) -> Any:
    """A JSON file that holds a ``kind``. Raises `ClipError` with the line where it is no JSON."""
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise wrong(path, error.lineno, error.msg, "JSON") from None
    if not isinstance(found, kind):
        raise ClipError(f"{path}: holds a {type(found).__name__}; expected {expected}")
    return found


def wrong(path: Path, number: int, found: str, expected: str) -> ClipError:
    """The error for a line."""
    return ClipError(f"{path}, line {number}: {found}; expected {expected}")


def number_of(label: str, numbers: Mapping[str, int], path: Path, line: int, index: str) -> int:
    """The number of a class that a line names; ``index``: the file that all classes stand in."""
    if label not in numbers:
        raise wrong(path, line, f"class {label!r}", f"one of {index}{did_you_mean(label, numbers)}")
    return numbers[label]


def in_order(numbers: Mapping[str, int], path: Path) -> tuple[str, ...]:
    """Names by number. `ClipError` where these are not 0, 1, 2 ..., each once."""
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ClipError(f"{path}: the numbers are not 0 to {len(numbers) - 1}, each once; take the official file")
    return tuple(sorted(numbers, key=numbers.__getitem__))


class VideoFinder:
    """Looks up videos anywhere below ``root`` by their name without suffix: files, and folders of frames."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[str, Path] = {}
        for folder, _, names in os.walk(root, followlinks=False):
            if holds_frames(names):
                self._paths.setdefault(Path(folder).name, Path(folder))
                continue
            for name in sorted(names):
                self._paths.setdefault(Path(name).stem, Path(folder, name))

    def find(self, *names: str, suffix: str = ".mp4") -> str:
        """Path of the first of ``names`` that is there, with any suffix; else where the first one would be."""
        found = next((self._paths[name] for name in names if name in self._paths), None)
        return str(found or self._root / f"{names[0]}{suffix}")
