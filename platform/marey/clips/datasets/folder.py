"""A folder of videos, with labels from a ``labels.csv`` in it or from its class folders.

    VIDEOS/a.mp4                      no labels
    VIDEOS/boxing/a.mp4               every video one level down, at least two folders: a class a folder
    VIDEOS/train/boxing/a.mp4         first folders are all names of splits: the same, with splits
    VIDEOS/labels.csv                 see `marey.clips.datasets.lists`; videos it does not name have no label

A folder that holds mostly numbered pictures is one video (`marey.clips.frames`), and so is an empty folder beside such.
What is a video is found out later by trying: only text files, NumPy files, and names that begin with a dot, are left
out here.
"""

import os
from dataclasses import replace
from pathlib import Path

from marey.clips.datasets import beside
from marey.clips.datasets.lists import list_sources
from marey.clips.datasets.source import Listing, Source, is_split, number_labels, split_name
from marey.clips.frames import holds_frames
from marey.errors import ClipError

LABELS = "labels.csv"
_TABLES = {".csv", ".tsv", ".txt", ".lst", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".xml"}
_TEXTS = {".html", ".htm", ".md", ".rst", ".log", ".nfo", ".md5", ".sha1", ".sha256", ".py", ".sh"}
_SUBTITLES = {".srt", ".vtt", ".ass", ".ssa"}
_BESIDE_VIDEOS = {*_TABLES, *_TEXTS, *_SUBTITLES, *beside.SUFFIXES}


def reads(path: Path) -> bool:
    """Any folder."""
    return path.is_dir()


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """See `folder_sources`; ``root`` and ``fold`` are for lists."""
    return Listing(folder_sources(path))


def folder_sources(root: Path) -> list[Source]:
    """Every video below ``root``, sorted by source_id (its path below ``root``). `ClipError` if there is none."""
    found = [
        Source(root.name if path == root else path.relative_to(root).as_posix(), str(path)) for path in _videos(root)
    ]
    if not found:
        raise ClipError(f"{root}: holds no videos; give a folder with video files, one video, or a list of them")
    found.sort(key=lambda source: source.source_id)
    if (root / LABELS).is_file():
        listed = {source.source_id: source for source in list_sources(root / LABELS)}
        unlisted = [source for source in found if source.source_id not in listed]
        return sorted([*listed.values(), *unlisted], key=lambda source: source.source_id)
    return _labelled(found)


def _videos(root: Path) -> list[Path]:
    """Files that may be videos, and folders of frames; linked folders are followed, each once."""
    found: list[Path] = []
    empty: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not folders and not names:
            empty.append(Path(folder))
        files = [Path(folder, name) for name in names if not name.startswith(".")]
        files = [path for path in files if path.suffix.lower() not in _BESIDE_VIDEOS]
        frames = holds_frames([path.name for path in files])
        found += [Path(folder)] if frames else [path for path in files if path.is_file()]
    around = {path.parent for path in found if path.is_dir()}
    return [*found, *(path for path in empty if path.parent in around)]


def _labelled(sources: list[Source]) -> list[Source]:
    """Labels and splits where the folders tell them, and then for every video."""
    parts = [source.source_id.split("/")[:-1] for source in sources]
    if all(part and is_split(part[0]) for part in parts):
        sources = [replace(source, split=split_name(part[0])) for source, part in zip(sources, parts, strict=True)]
        parts = [part[1:] for part in parts]
    if all(len(part) == 1 for part in parts) and len({part[0] for part in parts}) > 1:
        sources = [replace(source, label_name=part[0]) for source, part in zip(sources, parts, strict=True)]
    return number_labels(sources)
