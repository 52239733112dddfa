"""Random access to the rows of many Parquet files, a row group at a time, with a small memory of the last ones."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from marey.clips.row import SCHEMA, STREAMS
from marey.errors import ClipError

_MAX_BYTES = 64 << 20
_MAX_FILES = 32


class RowGroups:
    """Rows of a list of (Parquet file, rows), numbered through. Opens files when first asked; safe among threads."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self._paths = [path for path, _ in files]
        self._ends = list(accumulate(rows for _, rows in files))
        self._lock = threading.Lock()
        self._open: OrderedDict[int, tuple[pq.ParquetFile, list[int]]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._bytes = 0

    def row(self, index: int, streams: Sequence[str] = ()) -> pa.Table:
        """Row ``index`` as a table of one row, with those of its optional columns that ``streams`` names."""
        number = bisect_right(self._ends, index)
        offset = index - (self._ends[number - 1] if number else 0)
        with self._lock:
            file, ends = self._file(number)
            at = bisect_right(ends, offset)
            group = self._group(file, number, at, tuple(streams))
        return group.slice(offset - (ends[at - 1] if at else 0), 1)

    def _file(self, number: int) -> tuple[pq.ParquetFile, list[int]]:
        if number not in self._open:
            path = self._paths[number]
            try:
                file = pq.ParquetFile(path, page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                raise ClipError(f"{path}: cannot be read ({error}); open or prepare the table again") from None
            metadata = file.metadata
            ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
            self._open[number] = (file, ends)
            if len(self._open) > _MAX_FILES:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(number)
        return self._open[number]

    def _group(self, file: pq.ParquetFile, number: int, at: int, streams: tuple[str, ...]) -> pa.Table:
        key = (number, at, streams)
        if key not in self._groups:
            try:
                columns = [name for name in SCHEMA.names if name not in STREAMS or name in streams]
                self._groups[key] = file.read_row_group(at, columns, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise ClipError(
                    f"{self._paths[number]}: row group {at} is damaged ({error}); prepare it again"
                ) from None
            self._bytes += self._groups[key].nbytes
            while self._bytes > _MAX_BYTES and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(key)
        return self._groups[key]
