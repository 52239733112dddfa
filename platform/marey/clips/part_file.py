"""One Parquet file of a clip table: measured, checked against what a manifest says of it, read."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from marey.clips.location import FAULTS, Place, open_parquet, open_stream, size, unreachable
from marey.clips.row import SCHEMA_VERSION
from marey.errors import ClipError


@dataclass(frozen=True)
class PartFile:
    """One file of a table: path relative to the table, rows, bytes, sha256 of its content."""

    path: str
    rows: int
    bytes: int
    sha256: str


def describe(table_dir: Place, relative: str) -> PartFile:
    """Measure one Parquet file of a table. Raises `ClipError` naming it where it is not whole."""
    path = table_dir / relative
    try:
        with open_stream(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ClipError(f"{path}: is missing; prepare the table again") from None
    return PartFile(relative, _footer(path).metadata.num_rows, size(path) or 0, digest)


def check(path: Place, part: PartFile, found: int | None, schema: pa.Schema) -> None:
    """Raise `ClipError` unless a file, of ``found`` bytes (None: it is missing), is what the manifest says.

    The error names the file, and the column where columns are missing, added or changed.
    """
    if found is None:
        raise ClipError(f"{path}: named by the manifest but missing; prepare the table again")
    if found != part.bytes:
        raise ClipError(
            f"{path}: {found} bytes, the manifest says {part.bytes}; the file is damaged, prepare the table again"
        )
    footer = _footer(path)
    _check_schema(path, footer.schema_arrow, schema)
    if footer.metadata.num_rows != part.rows:
        raise ClipError(f"{path}: {footer.metadata.num_rows} rows, the manifest says {part.rows}; prepare it again")


def read(path: Place, columns: list[str] | None = None) -> pa.Table:
    """Columns (default: all) of all its rows. Raises `ClipError` naming the file."""
    try:
        return _footer(path).read(columns=columns)
    except FAULTS as error:
        raise unreachable(path, error) or ClipError(f"{path}: is damaged ({error}); prepare the table again") from None


def _footer(path: Place) -> pq.ParquetFile:
    try:
        return open_parquet(path)
    except FAULTS as error:
        raise unreachable(path, error) or ClipError(
            f"{path}: is not a readable Parquet file ({error}); prepare the table again"
        ) from None


def _check_schema(path: Place, found: pa.Schema, expected: pa.Schema) -> None:
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
