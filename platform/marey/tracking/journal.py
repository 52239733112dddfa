"""The record beside a run: two files of JSON lines, how they are written whole and how they are read.

    metrics.jsonl   {"step": 12, "time": 1767225600.25, "values": {"train/loss": 0.31, "train/grad_norm": "NaN"}}
    events.jsonl    {"event": "start", "time": ..., "name": ..., "parameters": {...}, "tags": {...}}
                    {"event": "picture", "time": ..., "step": 12, "key": "reconstruction", "file": "pictures/..."}
                    {"event": "end", "time": ..., "status": "finished", "message": ""}

Times are unix seconds. Plain JSON has no word for numbers that are not finite: they stand as the strings "NaN",
"Infinity" and "-Infinity", which ``float()`` reads back. A line counts once its newline is there; whatever a killed
process left behind the last newline is cut off before the next one writes.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
PICTURES = "pictures"


class Point(NamedTuple):
    """The numbers of one step."""

    step: int
    time: float
    values: dict[str, float]


def point_line(point: Point) -> dict[str, Any]:
    """A point as plain JSON data."""
    return {"step": point.step, "time": point.time, "values": {key: _plain(v) for key, v in point.values.items()}}


def _plain(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def read_point(line: Mapping[str, Any]) -> Point:
    """The inverse of `point_line`."""
    return Point(line["step"], line["time"], {key: float(value) for key, value in line["values"].items()})


def read_points(directory: Path) -> Iterator[Point]:
    """The points of the run in ``directory``, in the order of their recording."""
    return (read_point(line) for line, _ in read_lines(directory / METRICS))


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line from byte ``offset`` on, with the offset behind it. A missing file has no lines.

    A line that is not JSON (a disk's doing, never ours) is passed over.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for text in file:
            offset += len(text)
            if not text.endswith(b"\n"):
                return
            try:
                yield json.loads(text), offset
            except ValueError:
                continue


class AppendFile:
    """A file that grows by whole lines and has no torn one, whatever happened to its last writer."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._end = _whole_bytes(path)
        self._file.truncate(self._end)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, or raise ``OSError`` (a full disk) and leave the file as it was."""
        text = json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file.write(text) != len(text):
                raise OSError(f"{self._file.name}: only a part of a line could be written")
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(text)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _whole_bytes(path: Path, block: int = 1 << 16) -> int:
    """The length of ``path`` up to its last newline, in bytes."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        while end > 0:
            begin = max(0, end - block)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0
