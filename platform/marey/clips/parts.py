"""The files of a table while it is being made: one pair (rows, quarantine) for each chunk of sources.

A pair is named by what went into it: schema version, settings, and each source with its size and time of change. So
a preparation that was killed finds what it had finished, one that is repeated does nothing, and a changed video or
setting makes new files beside those that a published table names.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from marey.clips.datasets import Source
from marey.clips.frames import stamp_pictures
from marey.clips.location import FAULTS, Place, Remote, open_parquet, read_bytes, size, sync_directory, write
from marey.clips.part_file import PartFile, describe, read
from marey.clips.row import QUARANTINE_SCHEMA, SCHEMA, SCHEMA_VERSION, Quarantined
from marey.clips.storage import ClipStorage
from marey.clips.table import HEAVY_COLUMNS
from marey.config import to_tree
from marey.errors import ClipError

CHUNK_VIDEOS = 32
CHUNK_BYTES = 64 << 20
FEWEST_CHUNKS = 8
# Random access reads whole row groups: keep them small.
_GROUP_ROWS = 16
_GROUP_BYTES = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """Sources that are prepared together into one pair of files; ``stamps``: (bytes, mtime_ns) of each, if there,
    joints and boxes added in."""

    sources: tuple[Source, ...]
    stamps: tuple[tuple[int, int] | None, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all its videos: what it will cost, roughly."""
        return sum(stamp[0] for stamp in self.stamps if stamp)

    def name(self, storage: ClipStorage) -> str:
        """Name of its files, without suffix."""
        told = [SCHEMA_VERSION, to_tree(storage), [asdict(source) for source in self.sources], self.stamps]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class ChunkReport:
    """What became of a chunk: its files, and counts for the summary; ``quarantined`` counts (stage, reason)."""

    data: PartFile
    quarantine: PartFile
    videos: int
    clips: int
    seconds: float
    quarantined: Counter[tuple[str, str]]


def cut_chunks(sources: Sequence[Source]) -> list[Chunk]:
    """Cut sources, in order, into chunks of at most 32 videos, closed when they reach 64 MiB.

    Few videos make small chunks, so that several can be prepared at a time; sizes are powers of two, so that a video
    more seldom changes them.
    """
    most = min(CHUNK_VIDEOS, 1 << (len(sources) // FEWEST_CHUNKS).bit_length() >> 1 or 1)
    chunks: list[Chunk] = []
    pending: list[tuple[Source, tuple[int, int] | None]] = []
    size = 0
    stamps: dict[tuple[str, ...], tuple[int, int] | None] = {}  # a list may take many ranges of one recording
    for source in sources:
        files = (source.uri, *filter(None, (source.joints, source.boxes)))
        if files not in stamps:
            stamps[files] = _stamp(*files)
        stamp = stamps[files]
        pending.append((source, stamp))
        size += stamp[0] if stamp else 0
        if len(pending) == most or size >= CHUNK_BYTES:
            chunks.append(_chunk(pending))
            pending, size = [], 0
    return [*chunks, _chunk(pending)] if pending else chunks


def _chunk(pending: list[tuple[Source, tuple[int, int] | None]]) -> Chunk:
    return Chunk(tuple(source for source, _ in pending), tuple(stamp for _, stamp in pending))


def _stamp(uri: str, *beside: str) -> tuple[int, int] | None:
    try:
        path = Path(uri)
        if path.is_dir():
            size, changed = stamp_pictures(path)
        else:
            size, changed = path.stat().st_size, path.stat().st_mtime_ns
        others = [Path(one).stat() for one in beside if Path(one).is_file()]
    except OSError:
        return None
    return size + sum(one.st_size for one in others), changed + sum(one.st_mtime_ns for one in others)


def part_paths(name: str) -> tuple[str, str]:
    """Paths of a pair below the table: rows, quarantine."""
    return f"data/{name}.parquet", f"quarantine/{name}.parquet"


def finished(chunk: Chunk, storage: ClipStorage, table_dir: Place) -> ChunkReport | None:
    """The report of a chunk whose files are there and whole from an earlier run, else None.

    Raises `ClipError` where a URI cannot be reached.
    """
    name = chunk.name(storage)
    if isinstance(table_dir, Remote) and (known := _noted(name, table_dir)) is not None:
        return known
    data, quarantine = part_paths(name)
    # Rows come into place last: where they are, the quarantine is too.
    if size(table_dir / data) is None:
        return None
    try:
        return report(chunk, table_dir, data, quarantine)
    except (ClipError, OSError):
        return None


def report(chunk: Chunk, table_dir: Place, data: str, quarantine: str) -> ChunkReport:
    """Measure a finished pair of files."""
    described = describe(table_dir, data), describe(table_dir, quarantine)
    times = read(table_dir / data, ["start_s", "end_s"])
    refused = read(table_dir / quarantine).to_pylist()
    return ChunkReport(
        *described,
        videos=len(chunk.sources),
        clips=times.num_rows,
        seconds=float(sum(times["end_s"].to_pylist()) - sum(times["start_s"].to_pylist())),
        quarantined=Counter((one["stage"], one["reason"]) for one in refused),
    )


def upload(made: ChunkReport, name: str, folder: Path, table_dir: Remote) -> None:
    """Bring a finished pair of files from a folder of this machine to a table at a URI, and a note of what they are.

    The note spares whoever goes on later reading the files again: ``finished/<name>.json``, written last.
    """
    for part in (made.quarantine, made.data):
        with pa.memory_map(str(folder / part.path)) as file:
            write(table_dir / part.path, file.read_buffer())
    told = {
        **vars(made),
        "data": vars(made.data),
        "quarantine": vars(made.quarantine),
        "quarantined": [[*why, count] for why, count in made.quarantined.items()],
    }
    write(table_dir / f"finished/{name}.json", json.dumps(told, sort_keys=True).encode())


def _noted(name: str, table_dir: Remote) -> ChunkReport | None:
    """What `upload` noted of a pair, if that is what is there."""
    try:
        told = json.loads(read_bytes(table_dir / f"finished/{name}.json"))
        told["data"], told["quarantine"] = PartFile(**told["data"]), PartFile(**told["quarantine"])
        told["quarantined"] = Counter({(stage, reason): count for stage, reason, count in told["quarantined"]})
        known = ChunkReport(**told)
        sizes_agree = all(size(table_dir / part.path) == part.bytes for part in (known.data, known.quarantine))
        rows_agree = sizes_agree and open_parquet(table_dir / known.data.path).metadata.num_rows == known.data.rows
    except (*FAULTS, ValueError, KeyError, TypeError):
        return None
    return known if rows_agree else None


class PartWriter:
    """Writes one Parquet file of rows under a temporary name; `commit` puts it in its place."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._pending: list[pa.Table] = []
        self._writer = pq.ParquetWriter(
            self._temporary,
            SCHEMA,
            compression={leaf: _compression(leaf) for leaf in _leaves(SCHEMA)},
            use_dictionary=["storage", "label_name", "split"],
            write_statistics=False,
            write_page_checksum=True,
        )

    def add(self, rows: pa.Table) -> None:
        """Append rows; they reach the file in groups of at most 16 rows, closed at 1 MiB."""
        for number in range(rows.num_rows):
            self._pending.append(rows.slice(number, 1))
            if len(self._pending) >= _GROUP_ROWS or sum(row.nbytes for row in self._pending) >= _GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._pending:
            # Copies the rows out of whatever buffers they came in, so that these can be let go.
            self._writer.write_table(pa.concat_tables(self._pending).combine_chunks())
            self._pending = []

    def commit(self) -> None:
        """Finish the file and rename it into place, durably."""
        self._flush()
        self._writer.close()
        commit(self._temporary, self._path)

    def discard(self) -> None:
        """Give up: leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk, most likely what led here
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def write_quarantine(path: Path, refused: list[Quarantined]) -> None:
    """Write the list of refused sources of a chunk, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    table = pa.Table.from_pylist([asdict(one) for one in refused], schema=QUARANTINE_SCHEMA)
    pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    commit(temporary, path)


def commit(temporary: Path, path: Path) -> None:
    """Flush a finished file to the disk and rename it to ``path``."""
    sync_directory(temporary)  # fsync works alike on a file
    temporary.rename(path)
    sync_directory(path.parent)


def _compression(leaf: str) -> str:
    return "NONE" if leaf in HEAVY_COLUMNS else "ZSTD"


def _leaves(schema: pa.Schema) -> list[str]:
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]
