"""The feed: the plan's samples read, decoded by threads, and handed over as batches, a few ahead of the trainer.

`feed` reads rows in this process. `marey.fleet.feed` has the same signature and lets Ray Data bring the rows; both
decode here, in `decoded`, and so give identical batches.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from marey.clips.batch import Batch
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan, Sample
from marey.clips.row import ClipRow
from marey.clips.table import ClipTable

AHEAD = 2  # batches held ready
UNDERWAY = 2  # batches being decoded: while one's last clips are, the next one's first


@dataclass(frozen=True)
class FeedOrder:
    """What to feed: the same for every worker, small, picklable."""

    table: ClipTable
    plan: Plan
    pipeline: Pipeline
    batch: int
    """Global batch: samples of one optimiser step over all workers."""
    micro_batch: int
    """Samples of one forward pass on one worker; divides ``batch / world``."""

    def micro_batches(self, start: int, stop: int, rank: int, world: int) -> Iterator[list[Sample]]:
        """One worker's samples of steps ``start`` to ``stop`` (exclusive), cut into forward passes."""
        for step in range(start, stop):
            share = self.plan.slice(step, self.batch, rank, world)
            for first in range(0, len(share), self.micro_batch):
                yield share[first : first + self.micro_batch]


def distinct_rows(samples: list[Sample]) -> list[int]:
    """Row numbers in order, the repeats of a row once: what is read for a forward pass."""
    return list(dict.fromkeys(one.row for one in samples))


def feed(order: FeedOrder, start: int, stop: int, rank: int = 0, world: int = 1) -> Generator[Batch]:
    """Batches of one worker for steps ``start`` to ``stop`` (exclusive), rows read in this process."""

    def rows() -> Iterator[ClipRow]:
        for samples in order.micro_batches(start, stop, rank, world):
            yield from order.table.read(distinct_rows(samples))

    return decoded(order, order.micro_batches(start, stop, rank, world), rows)


def decoded(
    order: FeedOrder,
    micro_batches: Iterator[list[Sample]],
    rows: Callable[[], Iterator[ClipRow]],
    decoders: Executor | None = None,
) -> Generator[Batch]:
    """Batches made of ``rows()``, which must bring each micro-batch's distinct rows in order.

    Reading and decoding run ahead, decoding in ``decoders`` or else in threads; their errors are raised here, in the
    caller's thread. Closing the iterator ends the threads.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def fill() -> None:
        try:
            for batch in _batches(order, micro_batches, rows(), decoders):
                if not _put(ready, batch, stopped):
                    return
            _put(ready, None, stopped)
        except BaseException as error:  # handed over: whatever it is, the caller must not wait for ever
            _put(ready, error, stopped)

    thread = threading.Thread(target=fill, name="feed", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _batches(
    order: FeedOrder, micro_batches: Iterator[list[Sample]], rows: Iterator[ClipRow], decoders: Executor | None
) -> Iterator[Batch]:
    with nullcontext(decoders) if decoders else _threads() as at_work:
        underway: deque[Callable[[], Batch]] = deque()
        for samples in micro_batches:
            at_hand = {number: next(rows) for number in distinct_rows(samples)}
            underway.append(order.pipeline.begin([at_hand[one.row] for one in samples], samples, at_work))
            if len(underway) == UNDERWAY:
                yield underway.popleft()()
        while underway:
            yield underway.popleft()()


@contextmanager
def _threads() -> Iterator[Executor]:
    threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _put(
    ready: "queue.Queue[Batch | BaseException | None]", item: Batch | BaseException | None, stop: threading.Event
) -> bool:
    """Put unless the consumer is gone; whether it was put."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
