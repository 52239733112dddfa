"""The tables of `marey.bench.gpu`, the verdicts under them, and their rows as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from marey.bench.flop_parts import Part, total
from marey.bench.gpu_rows import BESIDE, MAREY, Case, Row
from marey.bench.report import number
from marey.bench.turns import Timed, ratio

SPEED_GOAL = 1.3
"""Least speed of Marey's rows, as a multiple of the published choices'."""
MFU_GOALS = {("videomae_v2_giant", "pretrain", "bf16"): 0.5}
"""Least MFU by model, task and precision, on one H200."""
_GIB = 2**30


@dataclass(kw_only=True)
class Measured(Timed):
    """One row's turns."""

    row: Row
    most_clips: int | None = None
    """The most clips, of those tried, that its step fits into memory with."""


@dataclass(frozen=True)
class Figures:
    """One row of the table as numbers; None: not measured."""

    model: str
    task: str
    row: str
    device: str
    precision: str
    frames: int
    crop: int
    checkpointing: bool
    clips: int
    """Of a step."""
    most_clips: int | None
    ms_per_step: float | None
    clips_per_s: float | None
    speed_of_published: float | None
    """Its clips/s over those of the row that it stands beside; None: none stands beside it."""
    gflop_per_clip: float
    mfu: float | None
    peak_bytes: int | None
    loss: float | None
    failure: str | None


def no_peak(device: torch.device) -> str:
    """Why there is no MFU."""
    if device.type == "cpu":
        return "MFU: not told on a CPU; peak_tflops= gives a peak to hold the steps against"
    name = torch.cuda.get_device_name(device)
    return f"MFU: the peak of {name} in this precision is not known here; give peak_tflops="


def figures(measured: Sequence[Measured], case: Case, flops: int, peak: float | None) -> list[Figures]:
    """Every row's figures; ``flops``: of a clip, ``peak``: TFLOP/s."""
    by_name = {one.name: one for one in measured}
    return [_figures(one, by_name, case, flops, peak) for one in measured]


def _figures(one: Measured, by_name: dict[str, Measured], case: Case, flops: int, peak: float | None) -> Figures:
    timed = one.failure is None
    beside = by_name.get(BESIDE.get(one.name, ""))
    slower = None if beside is None else ratio(beside, one)
    return Figures(
        model=case.model,
        task=case.task,
        row=one.name,
        device=torch.cuda.get_device_name(case.device) if case.device.type == "cuda" else "cpu",
        precision=case.precision,
        frames=case.frames,
        crop=case.crop,
        checkpointing=case.checkpointing,
        clips=one.clips,
        most_clips=one.most_clips,
        ms_per_step=1000 * one.median * one.clips if timed else None,
        clips_per_s=1 / one.median if timed else None,
        speed_of_published=slower,
        gflop_per_clip=flops / 1e9,
        mfu=flops / one.median / (peak * 1e12) if timed and peak else None,
        peak_bytes=one.peak_bytes,
        loss=one.loss if timed else None,
        failure=None if timed else f"{one.failure} with {one.clips} clips",
    )


def show(rows: Sequence[Figures], case: Case, parts: Sequence[Part], counted: int, console: Console) -> None:
    """Print the rows of one model and task, its FLOPs, and whether the goals are met."""
    more = ", checkpointing" if case.checkpointing else ""
    console.print()
    console.print(
        _table(rows, f"{case.model} {case.task}, {case.frames} × {case.crop}², {case.precision}{more}", "row")
    )
    console.print(_explained(parts, counted), highlight=False, soft_wrap=True)
    for line in verdicts(rows, case.device):
        console.print(line, highlight=False, soft_wrap=True)


def show_all(rows: Sequence[Figures], console: Console) -> None:
    """Print all rows in one table."""
    console.print()
    console.print(_table(rows, "All models", "model", "task", "row"))


def _table(rows: Sequence[Figures], title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in ("clips\na step", "most\nclips", "ms/step", "clips/s", "× pub-\nlished", "MFU", "peak\nGiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(str(getattr(row, name)) for name in names), *_cells(row))
    return table


def _cells(row: Figures) -> list[str]:
    return [
        str(row.clips),
        "-" if row.most_clips is None else str(row.most_clips),
        number(row.ms_per_step, ",.1f"),
        number(row.clips_per_s, ",.2f"),
        number(row.speed_of_published, ".2f"),
        number(row.mfu, ".1%"),
        number(None if row.peak_bytes is None else row.peak_bytes / _GIB, ",.1f"),
    ]


def _explained(parts: Sequence[Part], counted: int) -> str:
    """The FLOPs in words."""
    whole = total(parts)
    shares = ", ".join(f"{part.name} {part.total / 1e9:,.1f}" for part in parts)
    forward = sum(part.forward for part in parts)
    return (
        f"GFLOP/clip: {whole / 1e9:,.1f} = {shares}; forward {forward / 1e9:,.1f}, backward "
        f"{(whole - forward) / 1e9:,.1f}; counted by operator {counted / 1e9:,.1f} ({whole / counted - 1:+.2%})"
    )


def verdicts(rows: Sequence[Figures], device: torch.device) -> list[str]:
    """A line for each failure, each ratio, and each goal for MFU; goals are for GPUs."""
    lines = [f"not measured: {row.row}: {row.failure}" for row in rows if row.failure is not None]
    goals = device.type == "cuda"
    for row in rows:
        if row.speed_of_published is not None:
            line = f"{row.row}: {row.speed_of_published:.2f} × the speed of {BESIDE[row.row]}"
            lines.append(line + (_word(row.speed_of_published, SPEED_GOAL, f"{SPEED_GOAL} ×") if goals else ""))
    mfus = [row.mfu for row in rows if row.mfu is not None and row.row.startswith(MAREY.name)]
    goal = MFU_GOALS.get((rows[0].model, rows[0].task, rows[0].precision)) if rows else None
    if goals and goal is not None and mfus:
        lines.append(f"highest MFU of Marey's rows: {max(mfus):.1%}" + _word(max(mfus), goal, f"{goal:.0%}"))
    return lines


def _word(found: float, goal: float, said: str) -> str:
    return f" (goal ≥ {said}): {'ok' if found >= goal else 'MISSED'}"
