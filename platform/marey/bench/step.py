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

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from rich.console import Console

from marey.bench import flops, memory, report, rows, words
from marey.bench.machine import OtherWork
from marey.bench.rows import Case, Ready, Row
from marey.clips.batch import Batch
from marey.config import Config
from marey.errors import ConfigError

Size = Literal["tiny", "small", "base", "large", "huge", "giant"]
Clock = Literal["wall", "cpu"]

_STATE_BYTES = 12  # of a parameter at rest: itself and two moments, fp32
_RESIDENT_SHARE = 0.5  # of the free memory that the rows may hold between their turns


class StepBench(Config):
    """What to measure; an empty or missing value is chosen by the device."""

    sizes: tuple[Size, ...] = ()
    """Model sizes, e.g. [small,base]. Default: these two on a CPU, with large, huge and giant on a GPU."""
    clips: int | None = Field(None, gt=0)
    """Clips of a step. Default: 2 on a CPU, 16 on a GPU."""
    rounds: int = Field(3, gt=0)
    """Turns that each row takes, after one to warm up."""
    steps: int | None = Field(None, gt=0)
    """Steps of a turn. Default: 1 on a CPU, 5 on a GPU."""
    frames: int = Field(16, gt=0)
    """Frames of a clip."""
    crop: int = Field(224, gt=0)
    """Height and width of a clip in pixels."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
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


@dataclass
class Measured:
    """One row's figures; times in seconds a clip, one for each round."""

    row: Row
    executed_flops: int
    """FLOPs of a clip, with what checkpointing computes twice."""
    model_flops: int
    """FLOPs of a clip without it, as MFU counts."""
    seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    loss: float = float("nan")
    failure: str | None = None

    @property
    def median(self) -> float:
        """Seconds a clip."""
        return statistics.median(self.seconds)


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
    steps = bench.steps or (5 if device.type == "cuda" else 1)
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
    cuda = bench.device == "cuda" or (bench.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError("device=cuda: PyTorch finds no GPU here; device=cpu or auto")
    if cuda and bench.clock == "cpu":
        raise ConfigError("clock=cpu: a GPU's time is not the processor's; clock=wall")
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def _case(size: Size, bench: StepBench, device: torch.device) -> Case:
    num_clips = bench.clips or (16 if device.type == "cuda" else 2)
    shape = (num_clips, 3, bench.frames, bench.crop, bench.crop)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = Batch(pixels.to(device), torch.arange(num_clips), tuple(map(str, range(num_clips))))
    return Case(size, device, "bf16" if device.type == "cuda" else "fp32", batch)


def measure(case: Case, chosen: Sequence[Row], rounds: int, steps: int, clock: Clock) -> list[Measured]:
    """Every row once to warm up and for its memory, then ``rounds`` times in turn."""
    measured = [Measured(row, *_count(row, case)) for row in chosen]
    turns = Turns(case, _fits(case, chosen), clock)
    for number in range(1 + rounds):
        for one in measured:
            if one.failure is None:
                turns.take(one, steps, warm_up=number == 0)
    return measured


class Turns:
    """Keeps the rows' models between their turns if they all fit into memory, and builds them anew otherwise."""

    def __init__(self, case: Case, resident: bool, clock: Clock) -> None:
        self.case = case
        self.clock = clock
        self.resident = resident
        self.ready: dict[str, Ready] = {}

    def take(self, one: Measured, steps: int, warm_up: bool) -> None:
        """One turn of one row: its memory if it is the first, else the time of its steps."""
        try:
            self._take(one, steps, warm_up)
        except torch.OutOfMemoryError:
            one.failure = "out of memory"
        if not self.resident or one.failure is not None:
            self.ready.clear()
            memory.give_back()

    def _take(self, one: Measured, steps: int, warm_up: bool) -> None:
        fresh = one.row.name not in self.ready
        if fresh:
            self.ready[one.row.name] = rows.prepare(one.row, self.case)
        ready = self.ready[one.row.name]
        if fresh and not warm_up:
            ready.step()
        if warm_up:
            added = memory.added(ready.step, self.case.device)
            one.peak_bytes = None if added is None else memory.held(ready.model, ready.optimizer) + added
        else:
            self._time(one, ready, steps)

    def _time(self, one: Measured, ready: Ready, steps: int) -> None:
        clips = steps * len(self.case.batch)
        in_optimizer = Stopwatch(self.case.device, self.clock)
        handles = [
            ready.optimizer.register_step_pre_hook(lambda *_: in_optimizer.start()),
            ready.optimizer.register_step_post_hook(lambda *_: in_optimizer.stop()),
        ]
        whole = Stopwatch(self.case.device, self.clock)
        whole.start()
        for _ in range(steps):
            one.loss = ready.step()
        whole.stop()
        one.seconds.append(whole.seconds / clips)
        if self.case.device.type == "cpu":
            one.optimizer_seconds.append(in_optimizer.seconds / clips)
        for handle in handles:
            handle.remove()


class Stopwatch:
    """Time between `start` and `stop`, added up."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self.read = time.process_time if clock == "cpu" else time.perf_counter
        self.device = device
        self.seconds = 0.0
        self.started = 0.0

    def start(self) -> None:
        """Begin, when the device has finished what it has been given."""
        self.started = self._now()

    def stop(self) -> None:
        """End, likewise."""
        self.seconds += self._now() - self.started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.read()


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
