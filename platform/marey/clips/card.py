"""What is in a clip table: the figures that a person wants to see before training on it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marey.clips.looks import Look, near_duplicates
from marey.clips.table import ClipTable

_BINS = 12
_SHOWN = 24  # clips of the contact sheet


@dataclass(frozen=True)
class Histogram:
    """Counts of ``len(edges) - 1`` bins."""

    title: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Alike:
    """Rows of different sources that look alike, as "source_id (class, split)"."""

    rows: tuple[str, ...]
    leak: bool
    """Whether they are of different splits: what is tested was trained on."""
    labels_differ: bool


@dataclass(frozen=True)
class Card:
    """A table's data card."""

    path: str
    fingerprint: str
    rows: int
    sources: int
    hours: float
    payload_bytes: int
    settings: dict[str, object]
    splits: tuple[str, ...]
    classes: tuple[tuple[str, tuple[int, ...]], ...]
    """Each class with its sources in each split."""
    histograms: tuple[Histogram, ...]
    quarantine: tuple[tuple[str, int], ...]
    """Reasons, the most frequent first."""
    alike: tuple[Alike, ...]
    warnings: tuple[str, ...]
    contact_sheet: tuple[tuple[str, bytes], ...]
    """Captions and JPEGs."""


def describe(table: ClipTable, looks: Sequence[Look]) -> Card:
    """The card of ``table``; ``looks``: of its rows, in order (`marey.clips.looks.look`)."""
    sources, splits = table.column("source_id"), [split or "no split" for split in table.column("split")]
    names = _names(table)
    seconds = np.array(table.column("end_s")) - np.array(table.column("start_s"))
    classes, order = _classes(sources, splits, names)
    alike = _alike(looks, sources, splits, names)
    return Card(
        path=str(table.path),
        fingerprint=table.fingerprint,
        rows=len(table),
        sources=len(set(sources)),
        hours=float(seconds.sum() / 3600),
        payload_bytes=sum(sum(lengths or [0]) for lengths in table.column("packet_lengths")),
        settings=dict(table.settings),
        splits=order,
        classes=classes,
        histograms=_histograms(table, sources, seconds),
        quarantine=tuple(Counter(f"{one.stage}: {one.reason}" for one in table.quarantined()).most_common()),
        alike=alike,
        warnings=_warnings(classes, order, alike),
        contact_sheet=_contact_sheet(looks, names, sources),
    )


def _names(table: ClipTable) -> list[str]:
    pairs = zip(table.column("label"), table.column("label_name"), strict=True)
    return [name if name is not None else "no label" if label is None else str(label) for label, name in pairs]


def _classes(
    sources: Sequence[str], splits: Sequence[str], names: Sequence[str]
) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[str, ...]]:
    usual = {"train": 0, "validation": 1, "test": 2}
    order = tuple(sorted(set(splits), key=lambda split: (usual.get(split, 3), split)))
    counts = Counter((name, split) for _, split, name in set(zip(sources, splits, names, strict=True)))
    return tuple((name, tuple(counts[name, split] for split in order)) for name in sorted(set(names))), order


def _histograms(table: ClipTable, sources: Sequence[str], seconds: np.ndarray) -> tuple[Histogram, ...]:
    whole: defaultdict[str, float] = defaultdict(float)
    for source, length in zip(sources, seconds, strict=True):
        whole[source] += length
    shorter = np.minimum(table.column("width"), table.column("height"))
    return (
        _histogram("seconds of a source", np.array(list(whole.values()))),
        _histogram("seconds of a row", seconds),
        _histogram("frames a second", np.array(table.column("fps"))),
        _histogram("shorter side in pixels", shorter),
    )


def _histogram(title: str, values: np.ndarray) -> Histogram:
    values = values.round(2)  # 29.97 and 29.970002 frames a second are one rate
    counts, edges = np.histogram(values, _BINS if np.ptp(values) > 0 else 1)
    return Histogram(title, tuple(edges.tolist()), tuple(counts.tolist()))


def _alike(
    looks: Sequence[Look], sources: Sequence[str], splits: Sequence[str], names: Sequence[str]
) -> tuple[Alike, ...]:
    found = [
        Alike(
            tuple(f"{sources[row]} ({names[row]}, {splits[row]})" for row in rows),
            len({splits[row] for row in rows}) > 1,
            len({names[row] for row in rows}) > 1,
        )
        for rows in near_duplicates(looks, sources)
    ]
    return tuple(sorted(found, key=lambda one: (not one.leak, not one.labels_differ, -len(one.rows))))


def _warnings(
    classes: Sequence[tuple[str, tuple[int, ...]]], splits: Sequence[str], alike: Sequence[Alike]
) -> tuple[str, ...]:
    found = []
    for place, split in enumerate(splits):
        empty = [name for name, counts in classes if not counts[place]]
        if empty and len(classes) > 1:
            found.append(f"classes without a video in {split}: {len(empty)} ({', '.join(empty[:8])})")
    totals = [sum(counts) for _, counts in classes]
    if len(totals) > 1 and max(totals) > 10 * min(totals):
        found.append(
            f"the largest class has {max(totals)} videos, the smallest {min(totals)}; balance.evenness= evens them out"
        )
    if leaks := sum(one.leak for one in alike):
        found.append(f"look-alikes in more than one split: {leaks}; what is tested may have been trained on")
    if differ := sum(one.labels_differ for one in alike):
        found.append(f"look-alikes with different labels: {differ}")
    return tuple(found)


def _contact_sheet(
    looks: Sequence[Look], names: Sequence[str], sources: Sequence[str]
) -> tuple[tuple[str, bytes], ...]:
    """Clips of as many classes as there is room for, class after class."""
    by_class: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_class.setdefault(name, []).append(row)
    rounds = [
        rows[turn] for turn in range(max(map(len, by_class.values()))) for rows in by_class.values() if turn < len(rows)
    ]
    chosen = sorted(rounds[:_SHOWN], key=lambda row: names[row])
    return tuple((names[row] if names[row] != "no label" else sources[row], looks[row].thumbnail) for row in chosen)
