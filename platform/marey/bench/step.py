"""The pre-training step of VideoMAE, measured side by side: what masking and each optimisation are worth.

One table for each model size. A row is one way to compute a step (forward, backward, AdamW on the same random clips);
the rows take turns, round after round, so that a busy machine troubles all alike, and ratios are medians over rounds.

    all tokens            no masks: the encoder sees and the decoder reconstructs every token
    encoder masking       VideoMAE: the encoder sees a tenth, the decoder reconstructs the rest
    dual masking          VideoMAE V2: the decoder reconstructs half the positions
    dual + ...            with one optimisation each, then with both, which is what training runs
    published choices     the same mathematics as dual masking, computed as the published code does
    Hugging Face          its VideoMAE, where transformers is installed

GFLOP counts matrix products of forward and backward, a multiply-add as two. A row's time is held against that of
"all tokens" times the ratio of their FLOPs: at most 1.15 times this prediction on a CPU, 1.33 times on a GPU. Peak
memory is weights, moments and what a step adds at its highest point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from rich.console import Console

from marey.bench import flops, memory, report, rows, words
from marey.bench.machine import OtherWork
from marey.bench.rows import Case, Row
from marey.bench.turns import Clock, Timed, Turns, TurnsBench, device_of, steps_of
from marey.clips.batch import Batch
from marey.errors import ConfigError

Size = Literal["tiny", "small", "base", "large", "huge", "giant"]

_STATE_BYTES = 12  # of a parameter at rest: itself and two moments, fp32
_RESIDENT_SHARE = 0.5  # of the free memory that the rows may hold between their turns


class StepBench(TurnsBench):
    """What to measure; an empty or missing value is chosen by the device."""

    sizes: tuple[Size, ...] = ()
    """Model sizes, e.g. [small,base]. Default: these two on a CPU, with large, huge and giant on a GPU."""
    clips: int | None = Field(None, gt=0)
    """Clips of a step. Default: 2 on a CPU, 16 on a GPU."""
    threads: int | None = Field(None, gt=0)
    """CPU threads. Default: PyTorch's choice."""
    clock: Clock = "wall"
    """cpu: processor time of all threads, which other work on the machine disturbs less (CPU alone)."""
    compile: bool = False
    """A row under torch.compile too; compiling can take minutes on a CPU."""
    peak_tflops: float | None = Field(None, gt=0)
    """What the device can do at most, in TFLOP/s, for MFU. Default: by the GPU's name."""
    jsonl: Path | None = None
    """File to append one JSON line a row to."""


@dataclass(kw_only=True)
class Measured(Timed):
    """One row's figures."""

    row: Row
    executed_flops: int
    """FLOPs of a clip, with what checkpointing computes twice."""
    model_flops: int
    """FLOPs of a clip without it, as MFU counts."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(StepBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: StepBench, console: Console) -> list[list[Measured]]:
    """One table printed and returned for each size."""
    device = _device(bench)
    if bench.threads is not None:
        torch.set_num_threads(bench.threads)
    report.show_machine(device, console)
    chosen, skipped = rows.choose(device, bench.compile)
    for reason in skipped:
        console.print(f"left out: {reason}", highlight=False)
    return [_one_size(size, bench, device, chosen, console) for size in bench.sizes or default_sizes(device)]


def _one_size(
    size: Size, bench: StepBench, device: torch.device, chosen: Sequence[Row], console: Console
) -> list[Measured]:
    case = _case(size, bench, device)
    steps = steps_of(bench, device)
    others = OtherWork()
    measured = measure(case, chosen, bench.rounds, steps, bench.clock)
    figures = report.figures(measured, case, bench.peak_tflops)
    report.show_table(figures, measured, case, console)
    if device.type == "cpu" and (warning := others.warning()) is not None:
        console.print(warning, highlight=False, soft_wrap=True)
    if bench.jsonl is not None:
        report.append_lines(bench.jsonl, figures)
    return measured


def default_sizes(device: torch.device) -> tuple[Size, ...]:
    """Sizes that the device gets through in minutes."""
    return ("small", "base", "large", "huge", "giant") if device.type == "cuda" else ("small", "base")


def _device(bench: StepBench) -> torch.device:
    device = device_of(bench)
    if device.type == "cuda" and bench.clock == "cpu":
        raise ConfigError("clock=cpu: a GPU's time is not the processor's; clock=wall")
    return device


def _case(size: Size, bench: StepBench, device: torch.device) -> Case:
    num_clips = bench.clips or (16 if device.type == "cuda" else 2)
    shape = (num_clips, 3, bench.frames, bench.crop, bench.crop)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = Batch(pixels.to(device), torch.arange(num_clips), tuple(map(str, range(num_clips))))
    return Case(size, device, "bf16" if device.type == "cuda" else "fp32", batch)


def measure(case: Case, chosen: Sequence[Row], rounds: int, steps: int, clock: Clock) -> list[Measured]:
    """Every row once to warm up and for its memory, then ``rounds`` times in turn."""
    measured = [_unmeasured(row, case) for row in chosen]
    by_name = {row.name: row for row in chosen}
    turns = Turns(lambda name: rows.prepare(by_name[name], case), case.device, _fits(case, chosen), clock)
    for number in range(1 + rounds):
        for one in measured:
            if one.failure is None:
                turns.take(one, steps, warm_up=number == 0)
    return measured


def _unmeasured(row: Row, case: Case) -> Measured:
    executed, model = _count(row, case)
    return Measured(row.name, len(case.batch), row=row, executed_flops=executed, model_flops=model)


def _count(row: Row, case: Case) -> tuple[int, int]:
    """(executed, model) FLOPs of a clip; foreign code is counted as Marey's of the same masks."""
    with torch.device("meta"):
        recipe = rows.recipe_of(row, case.backbone(row))
    model = flops.count(recipe, case.backbone(row))
    return flops.count(recipe, case.backbone(row), checkpointing=True) if row.checkpointing else model, model


def _fits(case: Case, chosen: Sequence[Row]) -> bool:
    with torch.device("meta"):
        model = case.backbone(chosen[0]).build()
    needed = len(chosen) * _STATE_BYTES * sum(parameter.numel() for parameter in model.parameters())
    return needed < _RESIDENT_SHARE * memory.free(case.device)
