"""Joints and boxes in files beside the videos: ``a.joints.npy`` and ``a.boxes.npz`` belong to ``a.mp4``.

Of a folder of frames they lie beside the folder, under its name. Where two videos have one name, the whole of it
(``a.mp4.joints.npy``) says whose they are. A list's own columns ``joints`` and ``boxes`` come first.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from marey.clips.datasets.source import Source
from marey.errors import ClipError

SUFFIXES = (".npy", ".npz")
_KINDS = ("joints", "boxes")


def with_files_beside(sources: Iterable[Source]) -> list[Source]:
    """The sources, each with the files that lie beside it. `ClipError` where there are two of one kind."""
    folders: dict[Path, frozenset[str]] = {}
    return [_with_files(source, folders) for source in sources]


def _with_files(source: Source, folders: dict[Path, frozenset[str]]) -> Source:
    path = Path(source.uri)
    if path.parent not in folders:
        folders[path.parent] = _names(path.parent)
    if not folders[path.parent]:
        return source
    names = folders[path.parent]
    joints, boxes = (getattr(source, kind) or _beside(path, kind, names) for kind in _KINDS)
    return replace(source, joints=joints, boxes=boxes)


def _names(folder: Path) -> frozenset[str]:
    """Names in ``folder`` that may be such files."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.name.endswith(SUFFIXES))
    except OSError:
        return frozenset()


def _beside(path: Path, kind: str, names: frozenset[str]) -> str | None:
    # A folder of frames may have a dot in its name ("v.1") without that being the suffix of a file.
    stems = [path.name, path.stem] if path.suffix[1:2].isalpha() else [path.name]
    for stem in stems:
        found = [name for suffix in SUFFIXES if (name := f"{stem}.{kind}{suffix}") in names]
        if len(found) > 1:
            raise ClipError(f"{path.parent}: {kind} of {path.name} in two files, {' and '.join(found)}; keep one")
        if found:
            return str(path.parent / found[0])
    return None
