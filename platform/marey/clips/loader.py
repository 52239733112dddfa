"""The feed in one process: the plan's samples read, decoded by threads, and handed over as batches, a few ahead.

`marey.fleet.feed` is the same through Ray Data: one signature, identical batches.
"""

import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from marey.clips.batch import Batch
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan, Sample
from marey.clips.table import ClipTable

AHEAD = 2  # batches held ready


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

    def micro_batches(self, step: int, rank: int, world: int) -> list[list[Sample]]:
        """One worker's samples at one step, cut for accumulation."""
        share = self.plan.slice(step, self.batch, rank, world)
        return [share[first : first + self.micro_batch] for first in range(0, len(share), self.micro_batch)]


def feed(order: FeedOrder, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Micro-batches of steps ``start`` to ``stop`` (exclusive) for one worker, in order.

    Errors of reading and decoding are raised here, in the caller's thread. Closing the iterator ends its threads.
    """
    ready: queue.Queue[Batch | Exception | None] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def fill() -> None:
        try:
            with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode") as threads:
                for step in range(start, stop):
                    for samples in order.micro_batches(step, rank, world):
                        rows = order.table.read([one.row for one in samples])
                        if not _put(ready, order.pipeline.batch(rows, samples, threads), stopped):
                            return
            _put(ready, None, stopped)
        except Exception as error:  # handed over: whatever it is, the caller must see it
            _put(ready, error, stopped)

    thread = threading.Thread(target=fill, name="feed", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _put(ready: "queue.Queue[Batch | Exception | None]", item: Batch | Exception | None, stop: threading.Event) -> bool:
    """Put unless the consumer is gone; whether it was put."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
