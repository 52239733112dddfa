"""Something-Something V2 (Goyal et al. 2017, arXiv:1706.04261), as Qualcomm distributes it.

    something-something-v2-labels.json       {"Approaching something with your camera": "0", ...}
    something-something-v2-train.json        [{"id": "78687", "template": "Holding [something] next to ..."}, ...]
    something-something-v2-validation.json   the same; -test.json: ids alone
    <id>.webm                                the videos, anywhere below the root; or folders of frames, <id>/

The newer release calls the files labels.json, train.json, validation.json and test.json. ``videos=`` is one of the
lists, with the labels beside it, or the folder that holds them all.
"""

from pathlib import Path
from typing import Any

from marey.clips.datasets.files import VideoFinder, in_order, read_json
from marey.clips.datasets.source import Listing, Source
from marey.config import did_you_mean
from marey.errors import ClipError

_PREFIXES = ("something-something-v2-", "")
_SPLITS = ("train", "validation", "test")


def reads(path: Path) -> bool:
    """A list of entries with ``id``, or a folder with labels and such a list."""
    if path.is_dir():
        return _labels(path) is not None and bool(_lists(path))
    return path.suffix == ".json" and _split(path) is not None and _labels(path.parent) is not None


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos of one list or of all."""
    folder = path if path.is_dir() else path.parent
    labels = _labels(folder)
    assert labels is not None, "read only where they are"
    numbers = _numbers(labels)
    finder = VideoFinder((root or folder).absolute())
    found = []
    for one in _lists(path) if path.is_dir() else [path]:
        for place, entry in enumerate(read_json(one, list, 'a list of {"id": ..., "template": ...}'), 1):
            found.append(_source(one, place, entry, numbers, finder))
    return Listing(found, in_order(numbers, labels))


def _labels(folder: Path) -> Path | None:
    return next((path for prefix in _PREFIXES if (path := folder / f"{prefix}labels.json").is_file()), None)


def _lists(folder: Path) -> list[Path]:
    return [path for split in _SPLITS for path in sorted(folder.glob("*.json")) if _split(path) == split]


def _split(path: Path) -> str | None:
    """The split that a file is named after, alone or with more behind it."""
    for prefix in _PREFIXES:
        rest = path.stem.removeprefix(prefix)
        if path.stem.startswith(prefix) and (split := next((one for one in _SPLITS if rest.startswith(one)), None)):
            return split
    return None


def _numbers(path: Path) -> dict[str, int]:
    labels = read_json(path, dict, "a mapping of templates to numbers")
    try:
        numbers = {str(name): int(number) for name, number in labels.items()}
    except (TypeError, ValueError) as error:
        raise ClipError(f"{path}: {error}; expected a mapping of templates to numbers") from None
    return numbers


def _source(path: Path, place: int, entry: Any, numbers: dict[str, int], finder: VideoFinder) -> Source:
    if not isinstance(entry, dict) or not str(entry.get("id", "")).strip():
        raise ClipError(f"{path}, entry {place}: no id; expected {{'id': '78687', 'template': 'Holding [something]'}}")
    name = str(entry["id"])
    template = str(entry.get("template", "")).replace("[", "").replace("]", "") or None
    if template is not None and template not in numbers:
        raise ClipError(
            f"{path}, entry {place}: template {template!r} is not in the labels{did_you_mean(template, numbers)}"
        )
    label = None if template is None else numbers[template]
    return Source(name, finder.find(name, suffix=".webm"), label, template, _split(path))
