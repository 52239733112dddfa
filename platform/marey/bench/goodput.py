"""What faults cost: a training whose workers are killed again and again, and how much of its time still counts.

The job jobs/pretrain_videomae.py runs in a cluster of its own. About every `between` seconds a worker, drawn by chance,
is killed, while steps are being done. At its end the run's own record says what part of its time went into steps that
count (`marey goodput`); its start is left out. The prediction is

    1 - d/t - (t/2 + R)/M

for a checkpoint every t seconds that training waits d for, restarts that take R, and faults every M seconds. All four
are measured: R is an interruption less the steps since the checkpoint, which it does again. The goal is to be within 3
points of it.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from rich.console import Console
from rich.table import Table

from marey.bench import report, words
from marey.bench.machine import cpu_name
from marey.bench.overhead import OverheadBench, check_ended, environment, prepare
from marey.config import Config, to_yaml
from marey.engine import checkpoint
from marey.errors import ConfigError
from marey.experiment import Training
from marey.tracking.goodput import Goodput, read_goodput
from marey.tracking.journal import read_points

GOAL = 0.03
_LIMIT_SECONDS = 3600
_LOOK_SECONDS = 0.25


class GoodputBench(Config):
    """What to measure."""

    backbone: str = "videomae_v2_tiny_pretrain"
    """What is pre-trained."""
    crop: int = Field(112, gt=0)
    """Pixels of a clip's sides."""
    workers: int = Field(2, gt=0)
    """Training processes."""
    batch: int = Field(16, gt=0)
    """Clips of a step."""
    steps: int = Field(600, gt=0)
    """Of the whole run."""
    every: int = Field(20, gt=0)
    """Steps from one checkpoint to the next."""
    between: float = Field(60.0, gt=0)
    """Seconds from one kill to the next on average."""
    seed: int = Field(0, ge=0)
    """Seeds when and whom."""


@dataclass(frozen=True)
class Kill:
    """One fault."""

    steps: int
    """Since the last checkpoint, which are lost."""


@dataclass(frozen=True)
class Measured:
    """What a run with faults came to; seconds."""

    goodput: float
    between_saves: float
    stall: float
    restart: float
    between_faults: float
    kills: int

    @property
    def predicted(self) -> float:
        """By the formula."""
        lost = self.between_saves / 2 + self.restart
        return 1 - self.stall / self.between_saves - lost / self.between_faults


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(GoodputBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: GoodputBench, console: Console) -> Measured:
    """Train, kill, and print what that cost."""
    console.print(f"{cpu_name()}, load {os.getloadavg()[0]:.1f} at the start", highlight=False)
    with tempfile.TemporaryDirectory(prefix="marey-") as folder:
        training = _training(bench, Path(folder))
        directory = training.results / "runs" / "goodput"
        kills = _train(bench, training, directory, Path(folder))
        found = measure(read_goodput(directory), kills, bench.every, bench.steps)
    _show(found, console)
    return found


def _training(bench: GoodputBench, folder: Path) -> Training:
    same = {name: getattr(bench, name) for name in ("backbone", "crop", "workers", "batch")}
    training = prepare(OverheadBench(**same, repeats=1, warm_up=1, steps=bench.steps - 1), folder)
    return training.replace(
        name="goodput",
        checkpoint=training.checkpoint.replace(every=bench.every),
        fleet=training.fleet.replace(workers=bench.workers, max_failures=100),
    )


def _train(bench: GoodputBench, training: Training, directory: Path, folder: Path) -> list[Kill]:
    """Run the job, and kill; the kills."""
    settings, log = folder / "settings.yaml", folder / "log"
    settings.write_text(to_yaml(training))
    job = Path(__file__).parents[3] / "jobs/pretrain_videomae.py"
    kills: list[Kill] = []
    with log.open("w") as out, tempfile.TemporaryDirectory(prefix="m-") as short:
        own = {"RAY_ADDRESS": "local", "RAY_TMPDIR": short}
        process = subprocess.Popen(
            [sys.executable, str(job), f"@{settings}"],
            env={**environment(bench.workers), **own},
            stdout=out,
            stderr=out,
        )
        try:
            for kill in _faults(bench, process, directory):
                kills.append(kill)
        finally:
            process.terminate()
    check_ended(process.wait(_LIMIT_SECONDS), "the training", log)
    return kills


def _faults(bench: GoodputBench, process: "subprocess.Popen[bytes]", directory: Path) -> Iterator[Kill]:
    """Kill a worker whenever the drawn time is over, and a step that counts has been done since the kill before."""
    draw = random.Random(bench.seed)
    began = time.monotonic()
    due, killed_at = began + draw.expovariate(1 / bench.between), 0
    while process.poll() is None and time.monotonic() < began + _LIMIT_SECONDS:
        time.sleep(_LOOK_SECONDS)
        step = _step(directory)
        if time.monotonic() < due or not killed_at < step < bench.steps - bench.every:
            continue
        saved = checkpoint.steps(directory / "checkpoints")
        if workers := sorted(_workers(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
            yield Kill(step - (int(saved[-1].name) if saved else 0))
            due, killed_at = time.monotonic() + draw.expovariate(1 / bench.between), step


def _step(directory: Path) -> int:
    return max((point.step for point in read_points(directory)), default=0)


def _workers(root: int) -> Iterator[int]:
    """Processes of Ray Train's workers below a process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
    for pid, name in names.items():
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and name.startswith(b"ray::RayTrainWorker"):
            yield pid


def measure(found: Goodput, kills: Sequence[Kill], every: int, steps: int) -> Measured:
    """From the record and the kills. Raises `ConfigError` where there was none."""
    if not kills or not found.interruptions:
        raise ConfigError("no worker was killed: more steps=, or fewer seconds between=")
    step = found.steps / steps
    again = step * sum(kill.steps for kill in kills)
    running = found.total - found.start
    return Measured(
        goodput=found.steps / running,
        between_saves=every * step,
        stall=found.stalls / (steps / every),
        restart=(sum(found.interruptions) - again) / len(kills),
        between_faults=running / len(kills),
        kills=len(kills),
    )


def _show(found: Measured, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in (
        "kills",
        "M: s between",
        "t: s between saves",
        "d: s waiting",
        "R: s to restart",
        "goodput",
        "predicted",
    ):
        table.add_column(title, justify="right")
    table.add_row(
        str(found.kills),
        f"{found.between_faults:.1f}",
        f"{found.between_saves:.1f}",
        f"{found.stall:.2f}",
        f"{found.restart:.1f}",
        f"{found.goodput:.3f}",
        f"{found.predicted:.3f}",
    )
    console.print(table)
    off = found.goodput - found.predicted
    console.print(f"off by {100 * off:+.1f} points (goal ≤ {100 * GOAL:.0f}): {'ok' if abs(off) <= GOAL else 'MISSED'}")
