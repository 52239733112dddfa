"""The table of the pre-training step, the verdicts under it, and its rows as JSON lines."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from marey.bench.flops import peak_tflops
from marey.bench.machine import cpu_name
from marey.bench.rows import ALL, BESIDE, Case, Row
from marey.bench.turns import ratio

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from marey.bench.step import Measured

GOALS = {"cpu": 1.15, "cuda": 1.33}
"""Most that a masked row may take, as a multiple of what its FLOPs predict from the time of all tokens."""
WIDTH = 120
"""Columns of the terminal that a table is made for."""
NOISE = 1.03
"""Two rows whose times differ by less than this are equally fast."""


@dataclass(frozen=True)
class Figures:
    """One row of the table as numbers; None: not measured."""

    size: str
    row: str
    device: str
    precision: str
    clips: int
    ms_per_clip: float | None
    clips_per_s: float | None
    relative_time: float | None
    """Of all tokens' time."""
    gflop_per_clip: float
    relative_flops: float
    over_prediction: float | None
    """relative_time over relative_flops."""
    goal: float | None
    """Most that over_prediction may be; None: no goal for this row."""
    optimizer_ms_per_clip: float | None
    mfu: float | None
    peak_bytes: int | None
    loss: float | None
    failure: str | None


def figures(measured: "Sequence[Measured]", case: Case, peak: float | None) -> list[Figures]:
    """Every row's figures; ``peak``: the device's TFLOP/s, None to look it up."""
    reference = next(one for one in measured if one.row == ALL)
    if peak is None and case.device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(case.device))
    return [_figures(one, reference, case, peak) for one in measured]


def _figures(one: "Measured", reference: "Measured", case: Case, peak: float | None) -> Figures:
    timed = one.failure is None
    relative = ratio(one, reference)
    relative_flops = one.executed_flops / reference.executed_flops
    return Figures(
        size=case.size,
        row=one.row.name.strip(),
        device=str(case.device),
        precision=case.precision_of(one.row),
        clips=len(case.batch),
        ms_per_clip=1000 * one.median if timed else None,
        clips_per_s=1 / one.median if timed else None,
        relative_time=relative,
        gflop_per_clip=one.executed_flops / 1e9,
        relative_flops=relative_flops,
        over_prediction=None if relative is None else relative / relative_flops,
        goal=GOALS[case.device.type] if has_goal(one.row) else None,
        optimizer_ms_per_clip=1000 * statistics.median(one.optimizer_seconds) if one.optimizer_seconds else None,
        mfu=one.model_flops / one.median / (peak * 1e12) if timed and peak else None,
        peak_bytes=one.peak_bytes,
        loss=one.loss if timed else None,
        failure=one.failure,
    )


def has_goal(row: Row) -> bool:
    """Whether the row is Marey's and masked."""
    return row.code == "marey" and row != ALL


def open_console() -> Console:
    """A terminal's own width; elsewhere wide enough for the table."""
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)


def show_machine(device: torch.device, console: Console) -> None:
    """What the figures were measured on."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{cpu_name()}, {torch.get_num_threads()} threads"
    console.print(f"{where}; torch {torch.__version__}, Python {platform.python_version()}", highlight=False)


def show_table(rows: Sequence[Figures], measured: "Sequence[Measured]", case: Case, console: Console) -> None:
    """Print the rows of one size, then which of them are slower than what stands beside them."""
    console.print()
    console.print(_table(rows, case))
    for line in verdicts(measured):
        console.print(line, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Figures], case: Case) -> Table:
    cuda = case.device.type == "cuda"
    _, _, frames, crop, _ = case.batch.clip.shape
    title = f"ViT-{case.size}, {frames} × {crop}², {len(case.batch)} clips a step, {case.precision}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="")
    table.add_column("row", no_wrap=True)
    goal = f"time / FLOP\n(goal ≤ {GOALS[case.device.type]})"
    own = "MFU" if cuda else "AdamW\nms/clip"
    for name in ("ms/clip", "clips/s", "time of\nall", "GFLOP\n/clip", "FLOPs\nof all", goal, own):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("peak\nMiB", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, cuda))
    return table


def _cells(row: Figures, cuda: bool) -> list[str]:
    own = number(row.mfu, ".1%") if cuda else number(row.optimizer_ms_per_clip, ".1f")
    return [
        row.row,
        row.failure or number(row.ms_per_clip, ".1f"),
        number(row.clips_per_s, ".2f"),
        number(row.relative_time, ".3f"),
        number(row.gflop_per_clip, ".1f"),
        number(row.relative_flops, ".3f"),
        number(row.over_prediction, ".2f") + _mark(row),
        own,
        number(None if row.peak_bytes is None else row.peak_bytes / 2**20, ",.0f"),
    ]


def number(value: float | None, form: str) -> str:
    """Formatted; a dash for what was not measured."""
    return "-" if value is None else format(value, form)


def _mark(row: Figures) -> str:
    if row.goal is None or row.over_prediction is None:
        return "       "
    return " ok    " if row.over_prediction <= row.goal else " MISSED"


def verdicts(measured: "Sequence[Measured]") -> list[str]:
    """One line for each pair of rows of which the first must not be the slower one."""
    by_row = {one.row: one for one in measured}
    lines = []
    for row, beside in BESIDE:
        found = ratio(by_row[row], by_row[beside]) if row in by_row and beside in by_row else None
        if found is not None:
            word = "ok" if found <= 1 else "ok, equal within noise" if found <= NOISE else "MISSED: slower"
            lines.append(f"{row.name.strip()} takes {found:.2f} × {beside.name} (goal ≤ 1): {word}")
    return lines


def append_lines(path: Path, rows: "Sequence[DataclassInstance]") -> None:
    """One JSON object a line for each row's figures, with the machine's name."""
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    with path.open("a") as file:
        file.writelines(json.dumps({**asdict(row), **machine}) + "\n" for row in rows)
