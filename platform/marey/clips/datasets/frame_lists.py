"""SlowFast's lists of frames (Charades, AVA): a line a picture, under a header.

    original_vido_id video_id frame_id path labels
    46GP8 0 0 46GP8/46GP8-000001.jpg "11"
    46GP8 0 1 46GP8/46GP8-000002.jpg "11"

The lines of one ``original_vido_id`` are the video of that name, which lies in the folder of its pictures; ``frame_id``
counts these from 0 without gaps. A video has the one label that its lines name, or none; several labels (Charades as
it comes) are an error. Paths are relative to the list's folder, or to ``root``.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from marey.clips.datasets.files import read_lines, wrong
from marey.clips.datasets.source import Listing, Source
from marey.errors import ClipError

_HEADER = ["original_vido_id", "video_id", "frame_id", "path", "labels"]
_SUFFIXES = {".csv", ".txt"}


@dataclass
class _Video:
    """What the lines so far say of a video."""

    folder: PurePosixPath
    first: int
    count: int
    label: str


def reads(path: Path) -> bool:
    """Text files that begin with SlowFast's header."""
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline(1000).split() == _HEADER


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos of the list, in its order."""
    videos: dict[str, _Video] = {}
    lines = iter(read_lines(path))
    next(lines)
    for number, line in lines:
        _add(path, number, line.split(), videos)
    if not videos:
        raise ClipError(f'{path}: names no pictures; expected lines as `46GP8 0 0 46GP8/46GP8-000001.jpg "11"`')
    base = (root or path.parent).absolute()
    return Listing([_source(name, video, base) for name, video in videos.items()])


def _add(path: Path, number: int, row: list[str], videos: dict[str, _Video]) -> None:
    if len(row) != len(_HEADER) or not row[2].isdecimal():
        raise wrong(
            path, number, f"{' '.join(row)!r}", f"{len(_HEADER)} fields, {' '.join(_HEADER)}, frame_id a number"
        )
    name, _, frame, picture, labels = row
    label = labels.strip("\"'")
    if label and not label.isdecimal():
        raise wrong(path, number, f"labels {labels}", 'one label or none ("11" or ""): a row of a table has one')
    place = PurePosixPath(picture).parent
    video = videos.setdefault(name, _Video(place, int(frame), 0, label))
    if int(frame) != video.first + video.count:
        raise wrong(path, number, f"frame_id {frame} of {name}", f"{video.first + video.count}, without gaps")
    if place != video.folder:
        raise wrong(path, number, f"{picture}", f"all pictures of {name} in {video.folder}")
    if label != video.label:
        raise wrong(path, number, f"labels {labels} of {name}", f"the label of its first line, {video.label or 'none'}")
    video.count += 1


def _source(name: str, video: _Video, base: Path) -> Source:
    label = int(video.label) if video.label else None
    return Source(name, str(base / video.folder), label, start_frame=video.first or None, num_frames=video.count)
