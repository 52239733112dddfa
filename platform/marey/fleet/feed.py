"""The feed through Ray Data: what Ray carries is the plan, as a data source of our own.

Each read task covers a few forward passes of one worker, reads that worker's rows and yields them, still encoded, in
order; decoding happens in the trainer's threads (`marey.clips.loader.decoded`), so that no pixels go through the
object store, unless actors are asked for (`marey.fleet.decoders`). The order needs no shuffling of Ray's, and a
restart begins at any step.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain, islice, repeat, takewhile

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder, decoded, distinct_rows
from marey.clips.row import ClipRow, from_arrow

ROWS_PER_TASK = 64  # about; a read task covers whole forward passes
ROWS_PER_DATASET = 512  # about, and fewer where they are large: starting a dataset takes a quarter of a second
BYTES_PER_DATASET = 128 << 20  # about; a worker holds two datasets' rows, encoded


class PlanSource(Datasource):
    """Rows of consecutive forward passes of one worker, in order."""

    def __init__(self, order: FeedOrder, passes: list[list[int]]) -> None:
        super().__init__()
        # Where the rows lie, and nothing of the order: what is sent does not grow with the table. One table for all
        # passes, so that a task opens its files, and keeps row groups, once.
        self.table, _ = order.table.located([])
        self.passes = [order.table.located(rows)[1] for rows in passes]
        self.per_task = max(1, ROWS_PER_TASK // max(1, max(map(len, passes))))

    @property
    def num_tasks(self) -> int:
        """Read tasks that cover all passes."""
        return -(-len(self.passes) // self.per_task)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown; Ray then plans by number of tasks."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task for every ``per_task`` passes, whatever parallelism Ray has in mind."""
        firsts = range(0, len(self.passes), self.per_task)
        return [self._task(self.passes[first : first + self.per_task]) for first in firsts]

    def _task(self, passes: list[list[int]]) -> ReadTask:
        table = self.table

        def read() -> Iterable[pa.Table]:
            for rows in passes:
                yield table.read_arrow(rows)

        return ReadTask(read, BlockMetadata(num_rows=sum(map(len, passes)), size_bytes=None, exec_stats=None))


def feed(
    order: FeedOrder, start: int, stop: int, rank: int, world: int, decoders: Executor | None = None
) -> Generator[Batch]:
    """Batches of one worker for steps ``start`` to ``stop`` (exclusive); see `marey.clips.loader.feed`.

    ``decoders``: what decodes, instead of threads of this process.
    """
    passes = (distinct_rows(samples) for samples in order.micro_batches(start, stop, rank, world))
    return decoded(order, order.micro_batches(start, stop, rank, world), lambda: _rows(order, passes), decoders)


def _rows(order: FeedOrder, passes: Iterator[list[int]]) -> Iterator[ClipRow]:
    """Chunk after chunk, each a dataset that is read to its end while the one before it is used.

    A dataset that is left waiting for its consumer keeps its executor's thread spinning, and with it the trainer's
    interpreter lock (Ray 2.60): training on two cores took twice as long.
    """
    rows = min(ROWS_PER_DATASET, int(BYTES_PER_DATASET / max(1.0, order.table.bytes_per_row())))
    sizes = chain([1], repeat(max(1, rows // order.micro_batch)))
    chunks = takewhile(bool, (list(islice(passes, size)) for size in sizes))
    with ThreadPoolExecutor(1, thread_name_prefix="rows") as reader:
        upcoming = deque(reader.submit(_read, order, chunk) for chunk in islice(chunks, 1))
        while upcoming:
            upcoming.extend(reader.submit(_read, order, chunk) for chunk in islice(chunks, 1))
            yield from upcoming.popleft().result()


def _read(order: FeedOrder, passes: list[list[int]]) -> list[ClipRow]:
    """All rows of some passes, in order."""
    source = PlanSource(order, passes)
    # No CPU and one at a time: a fractional share doubles the cost, and a burst would start many processes.
    dataset = ray.data.read_datasource(source, num_cpus=0, concurrency=1, override_num_blocks=source.num_tasks)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
    return [row for block in blocks for row in from_arrow(block)]
