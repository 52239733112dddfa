"""Training steps of VideoMAE V2 and Hiera on one GPU, beside the same models written with the published code's choices.

One table for each model and task (masked pre-training, fine-tuning), and one of all at the end. Rows take turns on the
same random clips, round after round; ratios are medians over rounds.

    as Marey trains       the engine's step of the task's recipe: fused attention and AdamW, masks by index
    published choices     the same mathematics in plain loops, computed as OpenGVLab/VideoMAEv2 and
                          facebookresearch/hiera do (docs/performance.md lists what that is)
    ..., compiled         with compile=true: Marey's blocks; of the published code the pre-training of VideoMAE V2,
                          whose script compiles the whole model
    ..., N clips          Marey's row again with as many clips as it can take, where that is more than the others can

MFU is the FLOPs that the mathematics needs (forward and backward, a multiply-add as two, nothing computed a second
time, for all rows the same) over the time and the device's peak. The count is given part by part and must agree with
one operator by operator to 1 %. Clips are halved until the step fits into memory; a row that does not fit is told.
Goals on one H200: 1.3 times the published speed, and an MFU of 50 % for the pre-training of ViT-g in bf16.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from rich.console import Console

from marey.bench import flop_parts, flops, gpu_report, gpu_rows, memory, report, words
from marey.bench.flop_parts import Part
from marey.bench.gpu_report import Figures, Measured
from marey.bench.gpu_rows import MAREY, Case, Model, Precision, Row, Task
from marey.bench.turns import Timed, Turns, TurnsBench, device_of, steps_of
from marey.errors import ConfigError, MareyError

LEAST_CLIPS = 2
"""Fine-tuning mixes pairs."""
FIRST_CLIPS_ON_CPU = 2
"""What is tried first where there is no GPU."""
_AGREE = 0.01  # by which the two counts of FLOPs may differ
_RESIDENT_SHARE = 0.8  # of the free memory that rows may need when all keep their models between turns


class GpuBench(TurnsBench):
    """What to measure; a missing value is chosen by the device."""

    models: tuple[Model, ...] = (
        "videomae_v2_base", "videomae_v2_large", "videomae_v2_huge", "videomae_v2_giant", "hiera_large", "hiera_huge",
    )  # fmt: skip
    """Models, e.g. [videomae_v2_giant,hiera_huge]."""
    tasks: tuple[Task, ...] = ("pretrain", "finetune")
    """What to train them for."""
    clips: int | None = Field(None, gt=0)
    """Clips of a step. Default: as many as fit into memory, tried from a number by the model, on a CPU from 2."""
    precision: Precision | None = None
    """bf16: under autocast; parameters and moments are fp32. Default: fp32 on a CPU, bf16 on a GPU."""
    checkpointing: bool = False
    """Compute each block's activations again in the backward pass, in all rows."""
    compile: bool = False
    """Rows under torch.compile too; compiling takes minutes."""
    augment: bool = False
    """RandAugment and erasing in Marey's fine-tuning step, which does them on the device; the published code does them
    on processors, before the step."""
    peak_tflops: float | None = Field(None, gt=0)
    """What the device can do at most, in TFLOP/s, for MFU. Default: by the GPU's name, for bf16."""
    jsonl: Path | None = None
    """File to append one JSON line a row to."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(GpuBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: GpuBench, console: Console) -> list[Figures]:
    """Figures of every row; printed after each model and task, and all together at the end."""
    device = device_of(bench)
    peak = _peak(bench, device)
    report.show_machine(device, console)
    if peak is None:
        console.print(gpu_report.no_peak(device), highlight=False, soft_wrap=True)
    cases = [_case(model, task, bench, device) for model in bench.models for task in bench.tasks]
    counted = [count(case) for case in cases]  # a count that is wrong, or a size that does not fit, is told at once
    everything: list[Figures] = []
    for case, (parts, operators) in zip(cases, counted, strict=True):
        measured = measure(case, bench)
        figures = gpu_report.figures(measured, case, flop_parts.total(parts), peak)
        gpu_report.show(figures, case, parts, operators, console)
        if bench.jsonl is not None:
            report.append_lines(bench.jsonl, figures)
        everything += figures
    gpu_report.show_all(everything, console)
    return everything


def _peak(bench: GpuBench, device: torch.device) -> float | None:
    """TFLOP/s; the table by names is for bf16, so that fp32 has none."""
    if bench.peak_tflops is not None or device.type == "cpu" or bench.precision == "fp32":
        return bench.peak_tflops
    return flops.peak_tflops(torch.cuda.get_device_name(device))


def _case(model: Model, task: Task, bench: GpuBench, device: torch.device) -> Case:
    if task == "finetune" and bench.clips is not None and bench.clips % LEAST_CLIPS:
        raise ConfigError(f"clips={bench.clips}: fine-tuning mixes pairs; give an even number")
    precision = bench.precision or ("bf16" if device.type == "cuda" else "fp32")
    return Case(model, task, device, precision, bench.frames, bench.crop, bench.checkpointing, bench.augment)


def count(case: Case) -> tuple[list[Part], int]:
    """A clip's FLOPs part by part, and counted operator by operator; `MareyError` if these are others."""
    config = case.config()
    parts = flop_parts.explain(config)
    explained, counted = flop_parts.total(parts), flops.count(gpu_rows.meta_recipe(case, config), config)
    if abs(explained / counted - 1) > _AGREE:
        raise MareyError(
            f"{case.model} {case.task}: the explained count of {explained / 1e9:.1f} GFLOP and the operators' of "
            f"{counted / 1e9:.1f} differ by more than {_AGREE:.0%}: marey.bench.flop_parts does not describe the model"
        )
    return parts, counted


def measure(case: Case, bench: GpuBench) -> list[Measured]:
    """How many clips each row can take; then all with as many as all can, in turn."""
    tried = [_largest(row, case, bench) for row in case.rows(bench.compile)]
    fitting = [one for one in tried if one.failure is None]
    if not fitting:
        return tried
    common = min(one.clips for one in fitting)
    measured = [Measured(one.name, common, row=one.row, most_clips=one.clips) for one in fitting]
    more = [one for one in fitting if one.row == MAREY and one.clips > common]
    measured += [
        Measured(f"{one.name}, {one.clips} clips", one.clips, row=one.row, most_clips=one.clips) for one in more
    ]
    _take_turns(measured, case, bench, _fit_together(fitting, case.device))
    return measured + [one for one in tried if one.failure is not None]


def _largest(row: Row, case: Case, bench: GpuBench) -> Measured:
    """One step with as many clips as fit, halving them; with the failure where not even the fewest do."""
    cuda = case.device.type == "cuda"
    clips = bench.clips or (case.preset.clips if cuda else FIRST_CLIPS_ON_CPU)
    while True:
        one = Measured(row.name, clips, row=row)
        _turns([one], case, resident=False).take(one, 1, warm_up=True)
        fewer = clips // 2 // LEAST_CLIPS * LEAST_CLIPS
        if one.failure is None or bench.clips is not None or fewer < LEAST_CLIPS:
            return one
        clips = fewer


def _turns(measured: Sequence[Measured], case: Case, resident: bool) -> Turns:
    by_name = {one.name: one for one in measured}
    return Turns(
        lambda name: gpu_rows.prepare(by_name[name].row, case, by_name[name].clips), case.device, resident
    )  # fmt: skip


def _take_turns(measured: Sequence[Measured], case: Case, bench: GpuBench, resident: bool) -> None:
    steps = steps_of(bench, case.device)
    turns = _turns(measured, case, resident)
    for number in range(1 + bench.rounds):
        for one in measured:
            if one.failure is None:
                turns.take(one, steps, warm_up=number == 0)


def _fit_together(fitting: Sequence[Timed], device: torch.device) -> bool:
    """Whether all models may stay in memory, and the largest step beside them."""
    held = sum(one.held_bytes for one in fitting)
    largest = max((one.peak_bytes or 0) - one.held_bytes for one in fitting)
    return 2 * held + max(0, largest) < _RESIDENT_SHARE * memory.free(device)
