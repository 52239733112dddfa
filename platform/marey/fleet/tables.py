"""A clip table made by all of a cluster: the chunks of `marey.clips.prepare` as the rows of a Ray Data pipeline.

Nothing is decided here: which videos go together, what becomes of each and what the table is are `marey.clips`' own,
so the files and the fingerprint are those of a preparation in one process. Tasks ask for one CPU each and hold none
between chunks, which is what lets this run on any cluster, down to a single CPU.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from marey.clips.datasets import Source
from marey.clips.location import Place, located, make_ready
from marey.clips.prepare import (
    Chunk,
    ChunkReport,
    ClipStorage,
    Progress,
    Summary,
    cut_chunks,
    finish,
    prepare_chunk,
)
from marey.errors import ClipError, ResourceError

_EVERY_SECONDS = 3.0
# Ray Data keeps an eye on every block; with more chunks than this a block holds several.
_MAX_BLOCKS = 5_000


def build_table(
    sources: Sequence[Source],
    storage: ClipStorage,
    table: Path | str,
    max_quarantine: float = 0.1,
    progress: Callable[[Progress], None] | None = None,
    workers: int | None = None,
    classes: Sequence[str] = (),
) -> Summary:
    """Prepare ``table`` on the cluster that `ray.init` connected to; every node must see the videos and the table.

    At a URI, that is: every node must have the credentials in its environment.

    ``progress`` is called every few seconds; ``workers`` is the most videos at a time (default: as many as there are
    CPUs); ``classes`` as in `marey.clips.prepare.prepare_all`. Raises what `marey.clips.prepare.finish` raises, and
    `ResourceError` on a cluster without CPUs. Run it again after any failure: it goes on where it stopped.
    """
    if ray.cluster_resources().get("CPU", 0) < 1:
        raise ResourceError("preparing videos needs at least 1 CPU, the cluster has none; start Ray with --num-cpus")
    chunks = cut_chunks(sources)
    place = located(table)
    make_ready(place)
    reports: dict[int, ChunkReport] = {}
    start = last = time.monotonic()
    done = 0
    for number, report in _run(chunks, storage, place, workers):
        reports[number] = report
        done += report.videos
        now = time.monotonic()
        if progress and (now - last >= _EVERY_SECONDS or done == len(sources)):
            last = now
            progress(Progress(done, len(sources), now - start))
    return finish(place, [reports[number] for number in range(len(chunks))], storage, max_quarantine, classes)


def _run(
    chunks: Sequence[Chunk], storage: ClipStorage, table: Place, workers: int | None
) -> Iterator[tuple[int, ChunkReport]]:
    """Reports with the numbers of their chunks, as they are finished."""
    # The dearest first, so that the end does not wait for one long film.
    order = sorted(range(len(chunks)), key=lambda number: -chunks[number].bytes)
    # Plain bytes: Ray would otherwise guess at Arrow types for our objects.
    items = [{"number": number, "chunk": pickle.dumps(chunks[number])} for number in order]
    settings = pickle.dumps(storage)

    def work(item: dict[str, Any]) -> dict[str, Any]:
        # What is the user's to mend travels as a value: Ray would bury it under its own traces.
        made: ChunkReport | ClipError
        try:
            made = prepare_chunk(pickle.loads(item["chunk"]), pickle.loads(settings), table)
        except ClipError as error:
            made = error
        return {"number": item["number"], "made": pickle.dumps(made)}

    todo = ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_BLOCKS))
    dataset = todo.map(work, num_cpus=1, concurrency=workers)
    dataset.context.enable_progress_bars = False
    for row in dataset.iter_rows():
        made = pickle.loads(row["made"])
        if isinstance(made, ClipError):
            raise made
        yield int(row["number"]), made
