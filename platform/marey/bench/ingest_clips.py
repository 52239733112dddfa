"""The clips of `marey.bench.ingest`: a table with as many rows as a pass has clips, and what each pass does to them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from marey.bench.ingest_marey import order_of
from marey.bench.ingest_peers import Job
from marey.clips.augment import draw_box, draw_flip
from marey.clips.datasets import Source
from marey.clips.loader import FeedOrder
from marey.clips.parts import PartWriter
from marey.clips.plan import FLIP_STREAM, Sample, rng_of
from marey.clips.prepare import prepare_source
from marey.clips.row import ClipRow, to_arrow
from marey.clips.sample import sample
from marey.clips.storage import ClipStorage
from marey.clips.table import describe, publish
from marey.config import to_tree
from marey.errors import ConfigError

ROWS_PER_FILE = 64


def write_table(sources: Sequence[Source], storage: ClipStorage, count: int, folder: Path) -> list[ClipRow]:
    """A clip table of ``count`` rows in ``folder``: those of the sources, over and over until there are enough.

    Returns the different rows. `ConfigError` where a source gives none.
    """
    different = list(islice(_rows(sources, storage), count))
    copies = (replace(row, source_id=f"{number:06d}") for number, row in enumerate(cycle(different)))
    parts = []
    for first in range(0, count, ROWS_PER_FILE):
        relative = f"data/{first:06d}.parquet"
        writer = PartWriter(folder / relative)
        for row in islice(copies, min(ROWS_PER_FILE, count - first)):
            writer.add(to_arrow([row]))
        writer.commit()
        parts.append(describe(folder, relative))
    publish(folder, parts, to_tree(storage))
    return different


def _rows(sources: Sequence[Source], storage: ClipStorage) -> Iterator[ClipRow]:
    for source in sources:
        rows = prepare_source(source, storage)
        if not isinstance(rows, list):
            raise ConfigError(f"{source.uri}: cannot be read ({rows.reason}); take it away")
        yield from rows


def works(job: Job, number: int) -> list[dict[str, Any]]:
    """Pass ``number`` in the plan's order: of each clip the row, the frames, the crop (top, left, height, width, flip).

    Drawn as `marey.clips.pipeline` draws them, for loaders that know nothing of Marey.
    """
    order = order_of(job)
    rows = len(order.table)
    return [_work(order, one) for one in order.plan.samples(number * rows, (number + 1) * rows)]


def _work(order: FeedOrder, one: Sample) -> dict[str, Any]:
    [row] = order.table.read([one.row])
    pipeline = order.pipeline
    frames = sample(row, rng_of(one.decode_key), pipeline.frames, pipeline.sampling)
    top, left, height, width, _ = draw_box(pipeline.augment, row.height, row.width, rng_of(one.key))
    flip = draw_flip(pipeline.augment, rng_of(one.key, FLIP_STREAM))
    return {"row": one.row, "frames": frames.tolist(), "box": [top, left, height, width, flip]}
