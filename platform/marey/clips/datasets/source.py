"""One video to prepare, and the small rules that folders and lists share: labels, names of splits, duplicates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from marey.config import did_you_mean
from marey.errors import ClipError

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Source:
    """One video: a stable name, where it lies (absolute path: a file, or a folder of pictures), and what is known.

    ``start_frame``: frames to leave out at its beginning, and ``num_frames``: how many it has from there on; None: all
    of it (a video file knows its length: without ``start_frame``, ``num_frames`` says nothing of it). ``fps``: frames a
    second of a folder of pictures, None: as the settings say. ``joints``, ``boxes``: files that tell of people in all
    its frames (`marey.clips.streams`), absolute paths.
    """

    source_id: str
    uri: str
    label: int | None = None
    label_name: str | None = None
    split: str | None = None
    start_frame: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    joints: str | None = None
    boxes: str | None = None


class Listing(NamedTuple):
    """What a reader found: the videos, and the names of all classes by number where the data set fixes them."""

    sources: list[Source]
    classes: tuple[str, ...] = ()
    also_called: Mapping[str, str] = {}
    """Other names of classes, by which a label map may know them."""


def is_split(name: str) -> bool:
    """Whether a folder of this name usually holds one split of a data set."""
    return name.lower() in _SPLITS


def split_name(name: str | None) -> str | None:
    """The one spelling of a split: "train", "validation", "test"; other names stay as they are."""
    return _SPLITS.get(name.strip().lower(), name.strip()) if name and name.strip() else None


def number_labels(sources: Sequence[Source]) -> list[Source]:
    """Give label names without a number the place of the name among all names, sorted."""
    if any(source.label is not None for source in sources):
        return list(sources)
    names = sorted({source.label_name for source in sources if source.label_name is not None})
    number = {name: place for place, name in enumerate(names)}
    return [
        source if source.label_name is None else replace(source, label=number[source.label_name]) for source in sources
    ]


def renumber(listing: Listing, names: Sequence[str], where: str) -> list[Source]:
    """Number the classes by their place in ``names``. `ClipError` for a class that is not there."""
    numbers = {name: number for number, name in enumerate(names)}
    other = {name: also for name, also in listing.also_called.items() if name not in numbers}
    sources = [replace(one, label_name=other.get(one.label_name or "", one.label_name)) for one in listing.sources]
    for source in sources:
        if source.label_name is not None and source.label_name not in numbers:
            near = did_you_mean(source.label_name, names)
            raise ClipError(f"{where}: has no class {source.label_name!r}, which {source.source_id!r} is{near}")
        if source.label_name is None and source.label is not None and source.label >= len(names):
            raise ClipError(f"{where}: has {len(names)} classes, but {source.source_id!r} is of class {source.label}")
    return [_renumbered(source, numbers, names) for source in sources]


def _renumbered(source: Source, numbers: dict[str, int], names: Sequence[str]) -> Source:
    if source.label_name is not None:
        return replace(source, label=numbers[source.label_name])
    return source if source.label is None else replace(source, label_name=names[source.label])


def unique(sources: Iterable[Source], where: str) -> list[Source]:
    """One entry for each source_id, in order of first appearance; `ClipError` where two entries disagree."""
    known: dict[str, Source] = {}
    for source in sources:
        first = known.setdefault(source.source_id, source)
        if first != source:
            raise ClipError(
                f"{where}: {source.source_id!r} appears twice and differently: {_told(first)} and {_told(source)}; "
                "keep one of the entries"
            )
    return list(known.values())


def _told(source: Source) -> str:
    label = source.label_name if source.label_name is not None else source.label
    beside = "".join(f", {kind} {path}" for kind in ("joints", "boxes") if (path := getattr(source, kind)))
    return f"label {label}, split {source.split}, file {source.uri}{beside}"
