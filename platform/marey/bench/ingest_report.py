"""The table of `marey.bench.ingest`, and the verdicts under it."""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from marey.bench.ingest_marey import RAY
from marey.bench.ingest_peers import DATALOADER, WRITERS
from marey.bench.ingest_turn import Turn
from marey.bench.machine import cpu_name
from marey.bench.report import NOISE
from marey.clips.row import ClipRow

GOALS = (
    (RAY, DATALOADER, "cpu", 1.0),
    (RAY, DATALOADER, "memory", 2.0),
    *((RAY, peer, "cpu", 1.0) for peer in WRITERS),
)
"""(row, beside which, of what, most that it may take of that)."""
_OF: dict[str, Callable[[Turn], float]] = {"cpu": lambda turn: turn.cpu, "memory": lambda turn: turn.peak_bytes}
_SAID = {"cpu": "processor time", "memory": "memory"}


@dataclass
class Row:
    """One way to feed: its turns, or why it has none."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    failure: str | None = None

    def median(self, of: Callable[[Turn], float]) -> float:
        """Over its turns."""
        return statistics.median(map(of, self.turns))


def ratio(one: Row, other: Row, what: str) -> float | None:
    """Median over the rounds of what one row takes over what the other takes in the same round; None: not measured."""
    if one.failure or other.failure or not one.turns:
        return None
    of = _OF[what]
    return statistics.median(of(a) / of(b) for a, b in zip(one.turns, other.turns, strict=True))


def show_setting(job: dict[str, Any], stored: Sequence[ClipRow], console: Console) -> None:
    """What the figures were measured on."""
    load = os.getloadavg()[0]
    console.print(f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, load {load:.1f} at the start", highlight=False)
    sizes = {f"{row.width} × {row.height}" for row in stored}
    size = sizes.pop() if len(sizes) == 1 else f"{len(sizes)} sizes"
    frames = statistics.median(row.num_frames for row in stored)
    kilobytes = statistics.mean(len(row.payload or b"") for row in stored) / 1000
    console.print(
        f"{len(job['passes'][0])} rows of {len(stored)} different ones, {size}, {frames:.0f} frames, "
        f"{kilobytes:.0f} KB each; clips of {job['clip_frames']} frames, stride {job['stride']}, "
        f"{job['crop']}²; batches of {job['batch']}; {job['workers']} workers",
        highlight=False,
        soft_wrap=True,
    )


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table, what failed, and whether the goals are met."""
    console.print()
    console.print(_table(rows, len(rows[0].turns[0].sums) if rows and rows[0].turns else 0))
    for row in rows:
        if row.failure:
            console.print(f"not measured: {row.name}: {row.failure}", highlight=False, markup=False, soft_wrap=True)
    for line in verdicts(rows):
        console.print(line, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Row], clips: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    table.add_column("row", no_wrap=True)
    for title in (
        "CPU ms\n/clip",
        "of Data-\nLoader's",
        "clips/s",
        "peak\nMiB",
        "of Data-\nLoader's",
        "idle\nMiB",
        "start\ns",
        "CPU s",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    beside = next((row for row in rows if row.name == DATALOADER), None)
    for row in rows:
        table.add_row(row.name, *(["-"] * 8 if row.failure else _cells(row, beside)))
    return table


def _cells(row: Row, beside: Row | None) -> list[str]:
    ratios = {what: ratio(row, beside, what) if beside else None for what in _OF}
    shown = {what: "-" if value is None else f"{value:.2f}" for what, value in ratios.items()}
    return [
        f"{row.median(lambda turn: 1000 * turn.cpu / len(turn.sums)):.1f}",
        shown["cpu"],
        f"{row.median(lambda turn: len(turn.sums) / turn.wall):.1f}",
        f"{row.median(_OF['memory']) / 2**20:,.0f}",
        shown["memory"],
        f"{row.median(lambda turn: turn.idle_bytes) / 2**20:,.0f}",
        f"{row.median(lambda turn: turn.start_wall):.1f}",
        f"{row.median(lambda turn: turn.start_cpu):.1f}",
    ]


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One line for each goal whose two rows were measured."""
    by_name = {row.name: row for row in rows}
    lines = []
    for name, beside, what, most in GOALS:
        found = ratio(by_name[name], by_name[beside], what) if name in by_name and beside in by_name else None
        if found is not None:
            word = "ok" if found <= most else "ok, equal within noise" if found <= most * NOISE else "MISSED"
            lines.append(f"{name} takes {found:.2f} × the {_SAID[what]} of {beside} (goal ≤ {most:g}): {word}")
    return lines
