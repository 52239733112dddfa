"""A clip table: a directory of Parquet files and a manifest that names them, in a folder or at a URI.

    TABLE/data/*.parquet         rows (`marey.clips.row.SCHEMA`), payload uncompressed, small row groups
    TABLE/quarantine/*.parquet   sources that gave no rows, and why
    TABLE/finished/*.json        at a URI only: notes of what is done (`marey.clips.parts.upload`)
    TABLE/manifest.json          which of those files are the table: rows, bytes, sha256 of each

The manifest is written last, and is there whole or not at all (`marey.clips.location`): a reader sees the old table or
the new one, and never a file that the manifest does not name.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marey.clips.groups import RowGroups
from marey.clips.location import (
    Place,
    at_once,
    in_order,
    located,
    missing_bucket,
    read_bytes,
    sizes,
    write,
)
from marey.clips.mapped import gather, slices
from marey.clips.part_file import PartFile, check, describe, read
from marey.clips.row import QUARANTINE_SCHEMA, SCHEMA, SCHEMA_VERSION, STREAMS, ClipRow, Quarantined, from_arrow
from marey.errors import ClipError

FORMAT = "marey-clip-table"
MANIFEST = "manifest.json"
HEAVY_COLUMNS = ("payload", *STREAMS)
T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """What a table consists of; ``fingerprint`` names its content wherever it lies and whenever it was made."""

    files: list[PartFile]
    quarantine: list[PartFile]
    rows: int
    settings: dict[str, Any]
    counts: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    """Names of all classes by label, where the data set fixes them; also of those without a row."""
    fingerprint: str = ""
    format: str = FORMAT
    schema_version: int = SCHEMA_VERSION


def publish(
    table_dir: Place,
    parts: Sequence[PartFile],
    settings: Mapping[str, Any],
    *,
    quarantine: Sequence[PartFile] = (),
    counts: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> Manifest:
    """Make ``parts``, in this order, the content of the table: from here on readers see them and nothing else."""
    manifest = Manifest(
        files=list(parts),
        quarantine=list(quarantine),
        rows=sum(part.rows for part in parts),
        settings=dict(settings),
        counts=dict(counts or {}),
        classes=list(classes),
        fingerprint=_fingerprint(parts),
    )
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True)
    write(table_dir / MANIFEST, text.encode())
    return manifest


def _fingerprint(parts: Sequence[PartFile]) -> str:
    hashes = sorted(part.sha256 for part in parts if part.rows)
    return hashlib.sha256("\n".join([f"schema {SCHEMA_VERSION}", *hashes]).encode()).hexdigest()


def read_manifest(path: Place) -> Manifest:
    """The manifest of the table at ``path``. Raises `ClipError` where there is none or it is of another version."""
    file = path / MANIFEST
    try:
        record = json.loads(read_bytes(file))
    except FileNotFoundError:
        bucket = missing_bucket(path)
        raise ClipError(
            f"{path}: no clip table here ("
            + (f"there is no bucket {bucket!r}" if bucket else f"{MANIFEST} is missing")
            + "); prepare one with jobs/prepare_clips.py"
        ) from None
    except (OSError, ValueError) as error:
        raise ClipError(f"{file}: is not a readable manifest ({error}); prepare the table again") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ClipError(f"{file}: is not the manifest of a clip table (format must be {FORMAT!r})")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ClipError(
            f"{file}: schema version {record.get('schema_version')}, this Marey reads version {SCHEMA_VERSION}; "
            "prepare the table again or use the Marey that made it"
        )
    try:
        record["files"] = [PartFile(**part) for part in record["files"]]
        record["quarantine"] = [PartFile(**part) for part in record["quarantine"]]
        return Manifest(**record)
    except (KeyError, TypeError) as error:
        raise ClipError(f"{file}: is not a readable manifest ({error}); prepare the table again") from None


class ClipTable:
    """An open table: rows by number, in the order of its manifest. Safe to share between threads and to pickle."""

    def __init__(self, path: Place, manifest: Manifest, chosen: np.ndarray | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._chosen = chosen
        self._groups = RowGroups([(self._place(part), part.rows) for part in manifest.files])

    def __len__(self) -> int:
        return self.manifest.rows if self._chosen is None else len(self._chosen)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.manifest, self._chosen)

    def select(self, rows: Sequence[int]) -> Self:
        """The table of these rows alone, numbered anew in this order."""
        return type(self)(self.path, self.manifest, np.array([self._number(row) for row in rows], np.int64))

    def split(self, name: str | None) -> Self:
        """The rows of one split (None: all rows); `ClipError` naming the splits there are where it has none."""
        if name is None:
            return self
        known: set[str] = set()
        rows = gather(self._rows_of(name, known), np.int64)
        if not len(rows):
            raise ClipError(
                f"clip table {self.path}: no rows of split {name!r}; "
                + (f"it has the splits {', '.join(sorted(known))}" if known else "its rows name no split")
                + ". Splits come from folders train/, validation/, test/ or from a split column in the list of videos"
            )
        return self if len(rows) == len(self) else type(self)(self.path, self.manifest, rows)

    def _rows_of(self, split: str, known: set[str]) -> Iterator[np.ndarray]:
        """The rows of a split, in the whole table's numbers, file by file; the splits there are go into ``known``."""
        first = 0
        for found in self.columns("split"):
            column = found.column("split")
            known.update(name for name in column.unique().to_pylist() if name is not None)
            rows = first + np.flatnonzero(pc.fill_null(pc.equal(column, split), False))
            first += len(found)
            yield rows if self._chosen is None else self._chosen[rows]

    def class_names(self) -> list[str]:
        """Names of the classes by label, the number itself where a name is missing; `ClipError` without labels.

        Of the whole table, also for a selection: its splits have one numbering.
        """
        if self.manifest.classes:
            return list(self.manifest.classes)
        known: dict[int, str | None] = {}
        for found in self._parts(("label", "label_name"), None):
            pairs = found.group_by(["label", "label_name"]).aggregate([]).to_pylist()
            known |= {pair["label"]: pair["label_name"] for pair in pairs if pair["label"] is not None}
        if not known:
            raise ClipError(
                f"clip table {self.path}: no labels; prepare it from a folder per class, from a folder with a "
                "labels.csv (path,label), or from a list with labels"
            )
        return [str(known[label]) if known.get(label) is not None else str(label) for label in range(max(known) + 1)]

    def check_labelled(self) -> None:
        """Raise `ClipError` naming some of the rows that have no label, if there are any."""
        count, some = 0, list[str]()
        for found in self.columns("label", "source_id"):
            bare = found.column("source_id").filter(found.column("label").is_null())
            count += len(bare)
            some += bare.slice(0, 3 - len(some)).to_pylist() if len(some) < 3 else []
        if count:
            raise ClipError(
                f"clip table {self.path}: {count} of {len(self)} rows have no label ({', '.join(some)}); name "
                "their class in the folder, labels.csv or list that the table is prepared from, or leave them out"
            )

    def located(self, rows: Sequence[int]) -> tuple[Self, list[int]]:
        """The whole table, and the numbers that these rows have in it: smaller to send than a selection."""
        return type(self)(self.path, self.manifest), [self._number(row) for row in rows]

    def bytes_per_row(self) -> float:
        """Mean over the whole table, all columns together, as its files hold them."""
        return sum(part.bytes for part in self.manifest.files) / max(1, self.manifest.rows)

    def sections(self, rows: np.ndarray) -> np.ndarray:
        """Which of the tables that were joined (`marey.clips.mixture`) each of ``rows`` is of, int64 [n]: this one."""
        return np.zeros(len(rows), np.int64)

    def _place(self, part: PartFile) -> Place:
        return self.path / part.path

    def _number(self, row: int) -> int:
        return row if self._chosen is None else int(self._chosen[row])

    @property
    def fingerprint(self) -> str:
        """Names the content of the table: equal rows give equal fingerprints, wherever and however they were made."""
        return self.manifest.fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was prepared with: short_side, fps, storage, max_seconds ..."""
        return self.manifest.settings

    def read(self, indices: Sequence[int], streams: Sequence[str] = ()) -> list[ClipRow]:
        """The rows with these numbers, in this order; only their row groups are read.

        Of the columns flow, joints and boxes those in ``streams`` are read; the others are None.
        """
        return self._each(indices, lambda row: from_arrow(row)[0], streams)

    def read_arrow(self, indices: Sequence[int]) -> pa.Table:
        """`read`, as a table of `marey.clips.row.SCHEMA` without the streams."""
        return pa.concat_tables(self._each(indices, lambda row: row)) if len(indices) else SCHEMA.empty_table()

    def _each(self, indices: Sequence[int], make: Callable[[pa.Table], T], streams: Sequence[str] = ()) -> list[T]:
        """``make`` of each row by itself: a slice of a row group, which stays in memory as long as it does."""
        if unknown := [name for name in streams if name not in STREAMS]:
            raise ClipError(f"{unknown[0]!r} is no optional stream of a clip table; there are {', '.join(STREAMS)}")
        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong:
            raise ClipError(f"{self.path}: no rows {wrong[:5]}; it holds rows 0 to {len(self) - 1}")
        return self._groups.each([self._number(index) for index in indices], make, streams)

    def column(self, name: str) -> list[Any]:
        """One light column of all rows, in order, without loading any payload."""
        return [value for found in self.columns(name) for value in found.column(name).to_pylist()]

    def columns(self, *names: str) -> Iterator[pa.Table]:
        """Light columns of all rows, in order, one file of the table at a time: never all in memory."""
        chosen = self._chosen
        if chosen is None or all(np.all(np.diff(chosen[part]) > 0) for part in _overlapping(len(chosen))):
            yield from self._parts(names, chosen)
        else:
            order = np.argsort(chosen, kind="stable")
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            yield pa.concat_tables(self._parts(names, chosen[order])).take(place)

    def _parts(self, names: Sequence[str], chosen: np.ndarray | None) -> Iterator[pa.Table]:
        """Columns of the rows ``chosen`` (increasing, in the whole table's numbers; None: all), file by file."""
        light = [column for column in SCHEMA.names if column not in HEAVY_COLUMNS]
        if wrong := [name for name in names if name not in light]:
            raise ClipError(f"{wrong[0]!r} is not a light column of a clip table; there are {', '.join(light)}")
        first, found_in = 0, partial(self._read_part, names=names)
        parts = self.manifest.files
        for part, found in zip(parts, in_order(found_in, range(len(parts)), self._groups.at_once), strict=True):
            if chosen is not None:
                start, stop = np.searchsorted(chosen, (first, first + part.rows))
                found = found.take(chosen[start:stop] - first)
            first += part.rows
            if len(found):
                yield found

    def _read_part(self, number: int, names: Sequence[str]) -> pa.Table:
        return read(self._place(self.manifest.files[number]), list(names))

    def quarantined(self) -> list[Quarantined]:
        """The sources that gave no rows, with stage and reason."""
        found: list[Quarantined] = []
        for part in self.manifest.quarantine:
            found += [Quarantined(**record) for record in read(self._place(part)).to_pylist()]
        return found


def open_table(path: Place | str) -> ClipTable:
    """Open the table at ``path``, which may be a URI, after checking version, presence, size and schema of every file.

    Raises `ClipError` naming the file, and the column where columns are missing, added or changed.
    """
    root = located(path)
    manifest = read_manifest(root)
    parts = [*manifest.files, *manifest.quarantine]
    for part in parts:
        if PurePosixPath(part.path).is_absolute() or ".." in PurePosixPath(part.path).parts:
            raise ClipError(f"{root / MANIFEST}: names {part.path!r}, a file outside the table")
    found = sizes(root, [part.path for part in parts])
    schemas = [SCHEMA] * len(manifest.files) + [QUARANTINE_SCHEMA] * len(manifest.quarantine)

    def check_one(number: int) -> None:
        check(root / parts[number].path, parts[number], found.get(parts[number].path), schemas[number])

    for _ in in_order(check_one, range(len(parts)), at_once([root])):
        pass
    return ClipTable(root, manifest)


def verify(table: ClipTable) -> None:
    """Read every file and compare it with the manifest's sha256; `ClipError` names the first that differs."""
    for part in [*table.manifest.files, *table.manifest.quarantine]:
        found = describe(table.path, part.path)
        if found != part:
            raise ClipError(
                f"{table.path / part.path}: sha256 {found.sha256}, the manifest says {part.sha256}; the file is "
                "damaged, prepare the table again"
            )


def _overlapping(length: int) -> Iterator[slice]:
    """Slices that share an element with the next one."""
    return (slice(one.start, one.stop + 1) for one in slices(length))
