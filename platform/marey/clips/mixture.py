"""Several clip tables as one: their rows one table after the other, their sources under the tables' names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marey.clips.row import ClipRow
from marey.clips.table import ClipTable, Manifest, PartFile, open_table
from marey.errors import ClipError


@dataclass(frozen=True)
class JoinedManifest(Manifest):
    """What several tables consist of; paths of files are absolute."""

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

    def read(self, indices: Sequence[int], streams: Sequence[str] = ()) -> list[ClipRow]:
        """See `ClipTable.read`."""
        owners = self.sections(np.asarray(indices, np.int64)).tolist()
        return [
            replace(row, source_id=f"{self.manifest.names[owner]}/{row.source_id}")
            for row, owner in zip(super().read(indices, streams), owners, strict=True)
        ]

    def sections(self, rows: np.ndarray) -> np.ndarray:
        """See `ClipTable.sections`."""
        whole = rows if self._chosen is None else self._chosen[rows]
        return np.searchsorted(np.cumsum(self.manifest.sizes), whole, side="right")

    def _read_part(self, number: int, names: Sequence[str]) -> pa.Table:
        found = super()._read_part(number, names)
        if "source_id" not in names:
            return found
        owner = self.manifest.names[self.manifest.owners[number]]
        called = pc.binary_join_element_wise(owner, found.column("source_id"), "/")
        return found.set_column(found.column_names.index("source_id"), "source_id", called)


def open_tables(paths: Sequence[Path | str]) -> ClipTable:
    """The table at the only path, or those at several as one. Raises `ClipError` as `open_table` does."""
    tables = [open_table(path) for path in paths]
    return tables[0] if len(tables) == 1 else join(tables)


def join(tables: Sequence[ClipTable]) -> JoinedTable:
    """Whole tables as one. Their settings are those of the table with the smallest frames, which limits a crop."""
    names = _names([table.path for table in tables])
    classes, disagreement = _classes(tables, names)
    smallest = min(tables, key=lambda one: (one.settings["storage"] == "source", int(one.settings["short_side"])))
    manifest = JoinedManifest(
        files=[_absolute(table, part) for table in tables for part in table.manifest.files],
        quarantine=[_absolute(table, part) for table in tables for part in table.manifest.quarantine],
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


def _absolute(table: ClipTable, part: PartFile) -> PartFile:
    return replace(part, path=str(table.path / part.path))


def _names(paths: Sequence[Path]) -> list[str]:
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


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
