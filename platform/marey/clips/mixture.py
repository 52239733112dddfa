"""Several clip tables as one: their rows one table after the other, their sources under the tables' names."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marey.clips.location import Place, Remote
from marey.clips.table import ClipTable, Manifest, PartFile, open_table
from marey.errors import ClipError

T = TypeVar("T")


@dataclass(frozen=True)
class JoinedFile(PartFile):
    """A file of one of several tables, and where that table lies."""

    root: Place


@dataclass(frozen=True)
class JoinedManifest(Manifest):
    """What several tables consist of; their files are `JoinedFile`."""

    names: tuple[str, ...] = ()
    """Of the tables; told apart by their whole paths where two have one name."""
    sizes: tuple[int, ...] = ()
    """Rows of each."""
    owners: tuple[int, ...] = ()
    """Which table each of the files is of."""
    disagreement: str = ""
    """Where their classes differ."""


class JoinedTable(ClipTable):
    """Rows of several tables. ``source_id`` is ``<name of the table>/<source_id in it>``."""

    manifest: JoinedManifest

    def class_names(self) -> list[str]:
        """See `ClipTable.class_names`; `ClipError` also where the tables do not number the same classes alike."""
        if self.manifest.disagreement:
            raise ClipError(self.manifest.disagreement)
        return super().class_names()

    def _each(self, indices: Sequence[int], make: Callable[[pa.Table], T], streams: Sequence[str] = ()) -> list[T]:
        owners = self.sections(np.asarray(indices, np.int64)).tolist()
        rows = super()._each(indices, lambda row: row, streams)
        return [make(self._called(row, self.manifest.names[owner])) for row, owner in zip(rows, owners, strict=True)]

    def sections(self, rows: np.ndarray) -> np.ndarray:
        """See `ClipTable.sections`."""
        whole = rows if self._chosen is None else self._chosen[rows]
        return np.searchsorted(np.cumsum(self.manifest.sizes), whole, side="right")

    def _place(self, part: PartFile) -> Place:
        assert isinstance(part, JoinedFile)
        return part.root / part.path

    def _read_part(self, number: int, names: Sequence[str]) -> pa.Table:
        found = super()._read_part(number, names)
        return self._called(found, self.manifest.names[self.manifest.owners[number]])

    def _called(self, rows: pa.Table, owner: str) -> pa.Table:
        """Rows with the name of their table before those of their sources."""
        if "source_id" not in rows.column_names:
            return rows
        called = pc.binary_join_element_wise(owner, rows.column("source_id"), "/")
        return rows.set_column(rows.column_names.index("source_id"), "source_id", called)


def open_tables(paths: Sequence[Place | str]) -> ClipTable:
    """The table at the only path, or those at several as one. Raises `ClipError` as `open_table` does."""
    tables = [open_table(path) for path in paths]
    return tables[0] if len(tables) == 1 else join(tables)


def join(tables: Sequence[ClipTable]) -> JoinedTable:
    """Whole tables as one. Their settings are those of the table with the smallest frames, which limits a crop."""
    names = _names([table.path for table in tables])
    classes, disagreement = _classes(tables, names)
    smallest = min(tables, key=lambda one: (one.settings["storage"] == "source", int(one.settings["short_side"])))
    manifest = JoinedManifest(
        files=[_of(table, part) for table in tables for part in table.manifest.files],
        quarantine=[_of(table, part) for table in tables for part in table.manifest.quarantine],
        rows=sum(table.manifest.rows for table in tables),
        settings=dict(smallest.settings),
        counts={"tables": len(tables)},
        classes=classes,
        fingerprint=hashlib.sha256("\n".join(table.fingerprint for table in tables).encode()).hexdigest(),
        names=tuple(names),
        sizes=tuple(table.manifest.rows for table in tables),
        owners=tuple(number for number, table in enumerate(tables) for _ in table.manifest.files),
        disagreement=disagreement,
    )
    return JoinedTable(Path(" + ".join(names)), manifest)


def _of(table: ClipTable, part: PartFile) -> PartFile:
    return JoinedFile(part.path, part.rows, part.bytes, part.sha256, table.path)


def _names(paths: Sequence[Place]) -> list[str]:
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    # Options of a URI say how to get there, not what is there: rows keep their names without them.
    return [str(path).partition("?")[0] if isinstance(path, Remote) else str(path) for path in paths]


def _classes(tables: Sequence[ClipTable], names: Sequence[str]) -> tuple[list[str], str]:
    """The classes that all labelled tables have, or else what tells them apart."""
    known: dict[str, list[str]] = {}
    for name, table in zip(names, tables, strict=True):
        if any(found.column("label").null_count < len(found) for found in table.columns("label")):
            known[name] = table.class_names()
    (first, classes), *others = known.items() if known else [("", [])]
    for name, own in others:
        if own != classes:
            at = next((k for k, pair in enumerate(zip(classes, own, strict=False)) if pair[0] != pair[1]), None)
            where = (
                f"class {at} is {classes[at]!r} in {first} and {own[at]!r} in {name}"
                if at is not None
                else f"{first} has {len(classes)} classes and {name} {len(own)}"
            )
            return [], (
                f"tables {first} and {name}: {where}; prepare them with one label map, classes=FILE, so that a number "
                "means the same in both"
            )
    return classes, ""
