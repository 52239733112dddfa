"""Random access to the rows of many Parquet files, a row group at a time, with a small memory of the last ones."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from marey.clips.location import FAULTS, Place, Remote, at_once, in_order, open_source, unreachable
from marey.clips.row import SCHEMA, STREAMS
from marey.errors import ClipError

_MAX_BYTES = 64 << 20
_MAX_FILES = 32
_MAX_REMOTE_FILES = 256  # no handles of the system; to open one anew costs two requests

T = TypeVar("T")


class RowGroups:
    """Rows of a list of (Parquet file, rows), numbered through. Opens files when first asked; safe among threads."""

    def __init__(self, files: Sequence[tuple[Place, int]]) -> None:
        self._paths = [path for path, _ in files]
        self._ends = list(accumulate(rows for _, rows in files))
        self.at_once = at_once(self._paths)
        self._max_files = _MAX_FILES if self.at_once == 1 else _MAX_REMOTE_FILES
        self._lock = threading.Lock()  # of what is remembered
        self._readers = [threading.Lock() for _ in files]  # one thread at a time reads a file
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._bytes = 0

    def each(self, indices: Sequence[int], make: Callable[[pa.Table], T], streams: Sequence[str] = ()) -> list[T]:
        """``make`` of each of these rows, in order; several at a time where they come over a network."""
        at_once = min(self.at_once, max(1, len(indices)))
        return list(in_order(lambda index: make(self.row(index, streams)), indices, at_once))

    def row(self, index: int, streams: Sequence[str] = ()) -> pa.Table:
        """Row ``index`` as a table of one row, with those of its optional columns that ``streams`` names."""
        number = bisect_right(self._ends, index)
        offset = index - (self._ends[number - 1] if number else 0)
        with self._readers[number]:
            file = self._file(number)
            at = bisect_right(file.ends, offset)
            group = self._group(file, number, at, tuple(streams))
        return group.slice(offset - (file.ends[at - 1] if at else 0), 1)

    def _file(self, number: int) -> "_OpenFile":
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        path = self._paths[number]
        try:
            file = _OpenFile(path)
        except FAULTS as error:
            raise unreachable(path, error) or ClipError(
                f"{path}: cannot be read ({error}); open or prepare the table again"
            ) from None
        with self._lock:
            self._open[number] = file
            if len(self._open) > self._max_files:
                self._open.popitem(last=False)  # closed when the last thread that reads it is done
        return file

    def _group(self, file: "_OpenFile", number: int, at: int, streams: tuple[str, ...]) -> pa.Table:
        key = (number, at, streams)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        path = self._paths[number]
        try:
            group = file.read(at, [name for name in SCHEMA.names if name not in STREAMS or name in streams])
        except FAULTS as error:
            raise unreachable(path, error) or ClipError(
                f"{path}: row group {at} is damaged ({error}); prepare it again"
            ) from None
        with self._lock:
            self._groups[key] = group
            self._bytes += group.nbytes
            while self._bytes > _MAX_BYTES and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return group


class _OpenFile:
    """One file, and behind which of its rows each row group ends."""

    def __init__(self, path: Place) -> None:
        self._source = open_source(path)
        self._file = pq.ParquetFile(self._source, page_checksum_verification=True)
        self._remote = isinstance(path, Remote)
        metadata = self._file.metadata
        self.ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """Columns of a row group; of a remote file with one request for exactly its bytes."""
        file = self._file
        if self._remote:
            # Without pre-buffering each column is a request; with it a reader keeps the last group, so it is let go.
            file = pq.ParquetFile(
                self._source, metadata=file.metadata, page_checksum_verification=True, pre_buffer=True
            )
        return file.read_row_group(group, columns, use_threads=False)
