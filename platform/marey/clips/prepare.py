"""Videos to a clip table: chunks of sources become part files, and a manifest makes the parts a table.

`prepare_all` does it in this process; `marey.fleet.tables.build_table` runs the same `prepare_chunk` all over a
cluster. Both give the same files and the same fingerprint, and both go on where a killed run stopped.
"""

import contextlib
import csv
import io
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from marey.clips.datasets import Source
from marey.clips.flow_methods import require_opencv
from marey.clips.location import (
    Place,
    Remote,
    children,
    delete,
    located,
    make_ready,
    size,
    sizes,
    write,
)
from marey.clips.part_file import read
from marey.clips.parts import (
    Chunk,
    ChunkReport,
    PartWriter,
    cut_chunks,
    finished,
    part_paths,
    report,
    upload,
    write_quarantine,
)
from marey.clips.row import Quarantined, to_arrow
from marey.clips.sandbox import Sandbox, quarantined
from marey.clips.segments import iterate_rows, prepare_source
from marey.clips.storage import ClipStorage, Limits
from marey.clips.table import MANIFEST, publish, read_manifest
from marey.clips.video import Refused
from marey.config import to_tree
from marey.errors import ClipError, ConfigError

__all__ = [
    "Chunk",
    "ChunkReport",
    "ClipStorage",
    "Limits",
    "Progress",
    "Summary",
    "cut_chunks",
    "finish",
    "prepare_all",
    "prepare_chunk",
    "prepare_source",
]

QUARANTINE_REPORT = "quarantine-report.csv"
_STALE_SECONDS = 24 * 3600

Reader = Callable[[Source], Iterator[pa.Table]]
"""Gives the rows of a video as Arrow tables; raises `Refused` where it has none."""


@dataclass(frozen=True)
class Progress:
    """How far a preparation is, in videos."""

    done: int
    total: int
    seconds: float

    def __str__(self) -> str:
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "time left unknown"
        return f"prepared {self.done} of {self.total} videos, {rate:.1f} videos/s, {left}"


@dataclass(frozen=True)
class Summary:
    """What a preparation made: ``quarantined`` counts sources by (stage, reason), the most frequent first."""

    table: Place
    fingerprint: str
    videos: int
    clips: int
    seconds: float
    quarantined: list[tuple[str, str, int]]

    @property
    def num_quarantined(self) -> int:
        """Sources that gave no rows."""
        return sum(count for _, _, count in self.quarantined)

    def __str__(self) -> str:
        first = (
            f"{self.table}: {self.clips} clips ({self.seconds:.0f} s) from {self.videos - self.num_quarantined} "
            f"of {self.videos} videos, fingerprint {self.fingerprint[:12]}"
        )
        return "\n".join([first, *_reasons(self.quarantined)])


def prepare_all(
    sources: Sequence[Source],
    storage: ClipStorage,
    table: Path | str,
    max_quarantine: float = 0.1,
    progress: Callable[[Progress], None] | None = None,
    isolate: bool = True,
    classes: Sequence[str] = (),
) -> Summary:
    """Prepare a whole table in this process, one video after another; see `finish` for what can go wrong at the end.

    ``isolate``: run each video in a process of its own, with the limits of ``storage.limits``. ``classes``: names of
    all classes by label, where the data set fixes them.
    """
    make_ready(located(table))
    chunks = cut_chunks(sources)
    reports: list[ChunkReport] = []
    start, done = time.monotonic(), 0
    with _reader(storage, isolate) as reader:
        for chunk in chunks:
            reports.append(prepare_chunk(chunk, storage, table, reader))
            done += len(chunk.sources)
            if progress:
                progress(Progress(done, len(sources), time.monotonic() - start))
    return finish(table, reports, storage, max_quarantine, classes)


def prepare_chunk(
    chunk: Chunk, storage: ClipStorage, table_dir: Place | str, reader: Reader | None = None
) -> ChunkReport:
    """Make the pair of part files of one chunk, unless an earlier run did. Safe to run again after any failure.

    Each file is written under a temporary name and renamed: first the quarantine, then the rows, whose presence says
    that the chunk is done. For a table at a URI they are made in a temporary folder and then uploaded, in that order. A
    source that gives no rows is quarantined whole: half a video is never kept. ``reader`` gives the rows of a source;
    without it the chunk has a `Sandbox` of its own. Raises `ClipError` where the files cannot be written.
    """
    root = located(table_dir)
    _check_flow(storage)
    if (known := finished(chunk, storage, root)) is not None:
        return known
    if isinstance(root, Path):
        return _make_parts(chunk, storage, root, reader)
    with tempfile.TemporaryDirectory(prefix="marey-parts-") as scratch:
        made = _make_parts(chunk, storage, Path(scratch), reader)
        upload(made, chunk.name(storage), Path(scratch), root)
    return made


def _check_flow(storage: ClipStorage) -> None:
    """Stop where this host lacks what computes flow: it says nothing about the videos."""
    try:
        require_opencv(storage.flow)
    except ConfigError as error:
        raise ClipError(f"on {socket.gethostname()}: {error}") from None


def _make_parts(chunk: Chunk, storage: ClipStorage, root: Path, reader: Reader | None) -> ChunkReport:
    data, quarantine = part_paths(chunk.name(storage))
    try:
        writer = PartWriter(root / data)
        try:
            refused = _write_rows(chunk, storage, writer, reader)
            write_quarantine(root / quarantine, refused)
            writer.commit()
        except BaseException:
            writer.discard()
            raise
        return report(chunk, root, data, quarantine)
    except OSError as error:
        raise ClipError(
            f"{root}: cannot be written: {error}; mend that and run again, what is finished is kept"
        ) from error


def _write_rows(chunk: Chunk, storage: ClipStorage, writer: PartWriter, reader: Reader | None) -> list[Quarantined]:
    refused: list[Quarantined] = []
    with contextlib.nullcontext(reader) if reader else _reader(storage) as tables:
        for source in chunk.sources:
            _write_source(source, tables(source), writer, refused)
    return refused


@contextlib.contextmanager
def _reader(storage: ClipStorage, isolate: bool = True) -> Iterator[Reader]:
    """What prepares one video after another, each in a process of its own if ``isolate``."""
    if not isolate:
        yield partial(_own_tables, storage)
        return
    with Sandbox(storage) as sandbox:
        yield sandbox.tables


def _write_source(source: Source, tables: Iterator[pa.Table], writer: PartWriter, refused: list[Quarantined]) -> None:
    try:
        for table in tables:
            writer.add(table)
    except Refused as reason:
        refused.append(quarantined(source, reason))


def _own_tables(storage: ClipStorage, source: Source) -> Iterator[pa.Table]:
    # All rows before the first is passed on: a video that breaks while it is encoded leaves nothing.
    yield from [to_arrow([row]) for row in iterate_rows(source, storage)]


def finish(
    table_dir: Place | str,
    reports: Sequence[ChunkReport],
    storage: ClipStorage,
    max_quarantine: float = 0.1,
    classes: Sequence[str] = (),
) -> Summary:
    """Publish the parts in ``reports``, in their order, as the table, and say what it holds.

    The list of refused videos is always written to ``TABLE/quarantine-report.csv``. Raises `ClipError`, leaving a
    table that was there before as it was and all parts in place, where nothing could be prepared or more than
    ``max_quarantine`` (a share of the videos) was refused. Otherwise parts that neither this table nor the one before
    names are deleted.
    """
    root = located(table_dir)
    counts: Counter[tuple[str, str]] = sum((one.quarantined for one in reports), Counter())
    reasons = [(stage, reason, count) for (stage, reason), count in counts.most_common()]
    videos, clips = sum(one.videos for one in reports), sum(one.clips for one in reports)
    seconds = sum(one.seconds for one in reports)
    _write_report(root, reports)
    _check_share(root, videos, clips, reasons, max_quarantine)
    before = _named(root)
    _check_there(root, reports)
    manifest = publish(
        root,
        [one.data for one in reports],
        to_tree(storage),
        quarantine=[one.quarantine for one in reports],
        counts={"videos": videos, "clips": clips, "seconds": round(seconds, 3), "quarantined": sum(counts.values())},
        classes=classes,
    )
    _delete_strangers(root, before | {path for one in reports for path in (one.data.path, one.quarantine.path)})
    return Summary(root, manifest.fingerprint, videos, clips, seconds, reasons)


def _check_there(root: Place, reports: Sequence[ChunkReport]) -> None:
    """A manifest names nothing that another preparation of the same table has deleted or replaced meanwhile."""
    parts = [part for one in reports for part in (one.data, one.quarantine)]
    found = sizes(root, [part.path for part in parts])
    if gone := [part for part in parts if found.get(part.path) != part.bytes]:
        raise ClipError(
            f"{root / gone[0].path}: is no longer as it was made ({len(gone)} of {len(parts)} files), as if another "
            "preparation of this table were at work; the table was not published. Run again when that is done"
        )


def _check_share(
    root: Place, videos: int, clips: int, reasons: list[tuple[str, str, int]], max_quarantine: float
) -> None:
    refused = sum(count for _, _, count in reasons)
    if clips and refused <= max_quarantine * videos:
        return
    what = f"{refused} of {videos} videos cannot be used"
    remedy = f"The table was not published; every refused video is listed in {root / QUARANTINE_REPORT}."
    if clips:
        what += f", more than max_quarantine={max_quarantine:g} allows"
        share = min(1.0, refused / videos + 0.005)
        remedy += f" Mend the videos, or go on without them: max_quarantine={share:.2f} (what is done is kept)."
    raise ClipError("\n".join([what + ":", *_reasons(reasons), remedy]))


def _reasons(reasons: list[tuple[str, str, int]], shown: int = 8) -> list[str]:
    lines = [f"  {count} x {stage}: {reason}" for stage, reason, count in reasons[:shown]]
    rest = sum(count for _, _, count in reasons[shown:])
    return [*lines, f"  {rest} more for other reasons"] if rest else lines


def _write_report(root: Place, reports: Iterable[ChunkReport]) -> None:
    """``quarantine-report.csv``: source_id, uri, stage, reason, for a person to read."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["source_id", "uri", "stage", "reason"])
    for one in reports:
        if one.quarantined:
            rows = read(root / one.quarantine.path).to_pylist()
            writer.writerows([_inert(str(value)) for value in row.values()] for row in rows)
    write(root / QUARANTINE_REPORT, text.getvalue().encode())


def _inert(value: str) -> str:
    """A spreadsheet would run a file name that starts like a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def _named(root: Place) -> set[str]:
    if size(root / MANIFEST) is None:
        return set()
    manifest = read_manifest(root)
    return {part.path for part in [*manifest.files, *manifest.quarantine]}


def _delete_strangers(root: Place, named: set[str]) -> None:
    """Delete what neither table names, but not what another preparation may be at.

    In a folder that is what has a temporary name, at a URI everything of the last day.
    """
    remote = isinstance(root, Remote)
    needed = {Path(path).stem for path in named}
    for folder in ("data", "quarantine", "finished") if remote else ("data", "quarantine"):
        for name, (_, changed) in children(root / folder).items():
            unfinished = name.endswith(".tmp")
            if (unfinished or remote) and time.time() - changed < _STALE_SECONDS:
                continue
            if unfinished or Path(name).stem not in needed:
                with contextlib.suppress(ClipError):  # who may write may not always delete; it costs space, no more
                    delete(root / folder / name)
