"""The order of an epoch at any number of rows: what it costs to begin one, to take a step, and to hold it in memory.

    every row once   Marey's plan, which computes the row of any sample
    balanced         the same with balance.evenness=1 over classes of very unequal size: 8 bytes a row, in a mapped file
    torch            torch.utils.data.DistributedSampler, which draws and holds a list of all rows for every epoch

Each row of the table is measured in processor time, in a process of its own. Own memory is what the process has more
than before, without files that are mapped into it: the system may drop those at any time.
"""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from marey.bench import report, words
from marey.bench.machine import cpu_name
from marey.clips.mapped import filled
from marey.clips.plan import Plan
from marey.clips.quotas import BalanceConfig, quotas
from marey.config import Config


class PlanBench(Config):
    """What to measure."""

    rows: tuple[int, ...] = (10_000, 1_000_000, 100_000_000)
    """Rows of the clip table."""
    torch_rows: int = Field(10_000_000, ge=0)
    """Most rows with which PyTorch's sampler is measured; it takes some 40 bytes for each."""
    batch: int = Field(1024, gt=0)
    """Samples of a step."""
    steps: int = Field(20, gt=0)
    """Steps, from random places of the first ten epochs; PyTorch's are the first ones of an epoch."""
    classes: int = Field(400, gt=1)
    """Classes of the balanced plan; the first five have half, a quarter ... of what the others leave of the rows."""


class Cost(NamedTuple):
    """What an order costs: processor seconds until it can be used, and for a step, and MiB of own memory."""

    start: float
    step: float
    own: float


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line's bench."""
    words.launch(PlanBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: PlanBench, console: Console) -> dict[tuple[str, int], Cost]:
    """Measure and show every order at every number of rows."""
    console.print(f"{cpu_name()}, steps of {bench.batch} samples", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("order", "rows", "start s", "step ms", "own memory MiB"):
        table.add_column(title, justify="left" if title == "order" else "right")
    found = {}
    for (name, order), rows in itertools.product(ORDERS.items(), bench.rows):
        if name == "torch" and rows > bench.torch_rows:
            table.add_row(name, f"{rows:,}", "-", "-", "-")
            continue
        cost = found[name, rows] = _apart(order, bench, rows)
        table.add_row(name, f"{rows:,}", f"{cost.start:.2f}", f"{1000 * cost.step:.1f}", f"{cost.own:.0f}")
    console.print(table)
    return found


def _apart(order: "Order", bench: PlanBench, rows: int) -> Cost:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, order, bench, rows).result()


def _measure(order: "Order", bench: PlanBench, rows: int) -> Cost:
    steps = order(bench, rows)
    next(steps)
    before, began = _own_memory(), time.process_time()
    next(steps)
    started = time.process_time()
    for _ in itertools.islice(steps, bench.steps):
        pass
    ended = time.process_time()
    return Cost(started - began, (ended - started) / bench.steps, (_own_memory() - before) / 2**20)


Order = Callable[[PlanBench, int], Iterator[object]]
"""Yields when it has what is given to it, when it is ready, and then a step's rows at a time."""


def _once(bench: PlanBench, rows: int) -> Iterator[object]:
    yield None
    yield from _steps(bench, Plan(rows))


def _balanced(bench: PlanBench, rows: int) -> Iterator[object]:
    sizes = 0.5 ** np.minimum(np.arange(1, bench.classes + 1), 6)
    shares = np.cumsum(sizes / sizes.sum())

    def draw(part: slice) -> np.ndarray:
        drawn = np.searchsorted(shares, np.random.default_rng(part.start).random(part.stop - part.start))
        return np.minimum(drawn, bench.classes - 1)

    labels = filled(rows, np.int32, draw)
    yield None
    names = [str(label) for label in range(bench.classes)]
    yield from _steps(bench, Plan(rows, quotas=quotas(labels, names, BalanceConfig(evenness=1))))


def _steps(bench: PlanBench, plan: Plan) -> Iterator[object]:
    yield plan
    places = np.random.default_rng(0)
    while True:
        yield plan.slice(int(places.integers(1 + 10 * plan.epoch_length // bench.batch)), bench.batch)


def _torch(bench: PlanBench, rows: int) -> Iterator[object]:
    from torch.utils.data import DistributedSampler

    table: Any = range(rows)
    yield None
    indices: Iterator[int] = iter(DistributedSampler(table, num_replicas=1, rank=0))
    yield next(indices)
    while True:
        yield list(itertools.islice(indices, bench.batch))


ORDERS: dict[str, Order] = {"every row once": _once, "balanced": _balanced, "torch": _torch}


def _own_memory() -> int:
    """Bytes of this process' memory that belong to no file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
