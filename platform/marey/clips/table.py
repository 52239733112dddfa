"""A clip table on disk: a directory of Parquet files and a manifest that names them.

    TABLE/data/*.parquet         rows (`marey.clips.row.SCHEMA`), payload uncompressed, small row groups
    TABLE/quarantine/*.parquet   sources that gave no rows, and why
    TABLE/manifest.json          which of those files are the table: rows, bytes, sha256 of each

The manifest is written last, beside its final name, and renamed into place: a reader sees the old table or the new
one, and never a file that the manifest does not name.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marey.clips.groups import RowGroups
from marey.clips.mapped import gather, slices
from marey.clips.row import QUARANTINE_SCHEMA, SCHEMA, SCHEMA_VERSION, STREAMS, ClipRow, Quarantined, from_arrow
from marey.errors import ClipError

FORMAT = "marey-clip-table"
MANIFEST = "manifest.json"
HEAVY_COLUMNS = ("payload", *STREAMS)


@dataclass(frozen=True)
class PartFile:
    """One file of a table: path relative to the table, rows, bytes, sha256 of its content."""

    path: str
    rows: int
    bytes: int
    sha256: str


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


def describe(table_dir: Path | str, relative: str) -> PartFile:
    """Measure one Parquet file of a table. Raises `ClipError` naming it where it is not whole."""
    path = Path(table_dir) / relative
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PartFile(relative, _footer(path).metadata.num_rows, path.stat().st_size, digest)


def publish(
    table_dir: Path | str,
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
    write_atomically(Path(table_dir) / MANIFEST, text.encode())
    return manifest


def _fingerprint(parts: Sequence[PartFile]) -> str:
    hashes = sorted(part.sha256 for part in parts if part.rows)
    return hashlib.sha256("\n".join([f"schema {SCHEMA_VERSION}", *hashes]).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(path: Path | str) -> Manifest:
    """The manifest of the table at ``path``. Raises `ClipError` where there is none or it is of another version."""
    file = Path(path) / MANIFEST
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        raise ClipError(
            f"{path}: no clip table here ({MANIFEST} is missing); prepare one with jobs/prepare_clips.py"
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

    def __init__(self, path: Path, manifest: Manifest, chosen: np.ndarray | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._chosen = chosen
        self._groups = RowGroups([(path / part.path, part.rows) for part in manifest.files])

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

    def sections(self, rows: np.ndarray) -> np.ndarray:
        """Which of the tables that were joined (`marey.clips.mixture`) each of ``rows`` is of, int64 [n]: this one."""
        return np.zeros(len(rows), np.int64)

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
        if unknown := [name for name in streams if name not in STREAMS]:
            raise ClipError(f"{unknown[0]!r} is no optional stream of a clip table; there are {', '.join(STREAMS)}")
        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong:
            raise ClipError(f"{self.path}: no rows {wrong[:5]}; it holds rows 0 to {len(self) - 1}")
        return [from_arrow(self._groups.row(self._number(index), streams))[0] for index in indices]

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
        first = 0
        for number, part in enumerate(self.manifest.files):
            found = self._read_part(number, names)
            if chosen is not None:
                start, stop = np.searchsorted(chosen, (first, first + part.rows))
                found = found.take(chosen[start:stop] - first)
            first += part.rows
            if len(found):
                yield found

    def _read_part(self, number: int, names: Sequence[str]) -> pa.Table:
        return _footer(self.path / self.manifest.files[number].path).read(columns=list(names))

    def quarantined(self) -> list[Quarantined]:
        """The sources that gave no rows, with stage and reason."""
        found: list[Quarantined] = []
        for part in self.manifest.quarantine:
            records = _footer(self.path / part.path).read().to_pylist()
            found += [Quarantined(**record) for record in records]
        return found


def open_table(path: Path | str) -> ClipTable:
    """Open the table at ``path`` after checking version, presence, size and schema of every file.

    Raises `ClipError` naming the file, and the column where columns are missing, added or changed.
    """
    root = Path(path).absolute()
    manifest = read_manifest(root)
    for part in manifest.files:
        _check_part(root, part, SCHEMA)
    for part in manifest.quarantine:
        _check_part(root, part, QUARANTINE_SCHEMA)
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


def _check_part(root: Path, part: PartFile, schema: pa.Schema) -> None:
    path = root / part.path
    if Path(part.path).is_absolute() or ".." in Path(part.path).parts:
        raise ClipError(f"{root / MANIFEST}: names {part.path!r}, a file outside the table")
    if not path.is_file():
        raise ClipError(f"{path}: named by the manifest but missing; prepare the table again")
    if path.stat().st_size != part.bytes:
        raise ClipError(
            f"{path}: {path.stat().st_size} bytes, the manifest says {part.bytes}; the file is damaged, "
            "prepare the table again"
        )
    footer = _footer(path)
    _check_schema(path, footer.schema_arrow, schema)
    if footer.metadata.num_rows != part.rows:
        raise ClipError(f"{path}: {footer.metadata.num_rows} rows, the manifest says {part.rows}; prepare it again")


def _overlapping(length: int) -> Iterator[slice]:
    """Slices that share an element with the next one."""
    return (slice(one.start, one.stop + 1) for one in slices(length))


def _footer(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ClipError(f"{path}: is not a readable Parquet file ({error}); prepare the table again") from None


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    missing = [f"misses column {name!r}" for name in expected.names if name not in found.names]
    extra = [f"has unknown column {name!r}" for name in found.names if name not in expected.names]
    changed = [
        f"column {name!r} is {found.field(name).type}, expected {expected.field(name).type}"
        for name in expected.names
        if name in found.names and found.field(name).type != expected.field(name).type
    ]
    if problems := missing + extra + changed:
        raise ClipError(
            f"{path}: {'; '.join(problems)}; not a file of schema version {SCHEMA_VERSION}, prepare the table again"
        )
