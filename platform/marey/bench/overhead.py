"""What the platform costs beside a bare training loop: the same model, batches and workers, side by side.

    bare torch loop   forward, backward, AdamW, and the loss read after every step; under DistributedDataParallel where
                      there are several workers. Its batches come from Marey's loader, so that both see the same.
    marey, Ray        jobs/pretrain_videomae.py as submitted: Ray Train, Ray Data, curves on disk and in MLflow, in a
                      cluster of its own
    marey, in process the same job without Ray (one worker alone)

Rows take turns, each turn a start from nothing. Time is that between the end of the first measured step and that of the
last one, checkpoints apart; the ratio to the bare loop is the median over the rounds. Checked: the losses of all rows
agree. Tracking is what the training thread spends on handing a step's numbers over. The goal is an overhead of 3 % at
steps of 200 ms or more, and 1 % for tracking.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

import marey
from marey.backbones.zoo import configure
from marey.bench import decode, report, words
from marey.bench.ingest_clips import write_table
from marey.bench.machine import cpu_name
from marey.clips.datasets import Source
from marey.clips.storage import ClipStorage
from marey.config import Config, to_yaml
from marey.errors import ConfigError
from marey.experiment import Training
from marey.recipes.masked import MaskedConfig

BARE, RAY, ALONE = "bare torch loop", "marey, Ray", "marey, in process"
GOAL, TRACKING_GOAL = 1.03, 0.01
LEAST_MS = 200.0
"""Steps for which the goals are meant."""
_SAME_LOSS = 1e-3  # relative: the bare loop decays the mask token too
_LIMIT_SECONDS = 1800


class OverheadBench(Config):
    """What to measure."""

    backbone: str = "videomae_v2_small_pretrain"
    """What is pre-trained."""
    crop: int = Field(112, gt=0)
    """Pixels of a clip's sides; 16 frames, stride 2."""
    workers: int = Field(1, gt=0)
    """Training processes, each with its share of the cores."""
    batch: int = Field(8, gt=0)
    """Clips of a step, over all workers."""
    repeats: int = Field(4, gt=0)
    """Samples of a clip that is decoded once, as in VideoMAE's pre-training."""
    threads: int | None = Field(None, gt=0)
    """Of each worker. Default: the workers share all cores but one, which is left to what Ray starts beside them."""
    warm_up: int = Field(30, gt=0)
    """Steps before the first measured one; what Ray starts beside the workers is still starting in the first."""
    steps: int = Field(40, gt=0)
    """Measured steps of a turn."""
    rounds: int = Field(3, gt=0)
    """Turns that each row takes."""


@dataclass(frozen=True)
class Turn:
    """One start of a row."""

    seconds: float
    """Of a measured step, on average."""
    losses: list[float]
    tracking: float | None = None
    """Of these seconds, what handing over the numbers took; median over the steps."""


@dataclass
class Row:
    """One way to train."""

    name: str
    turns: list[Turn] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """A step's, median over the rounds."""
        return 1000 * statistics.median(turn.seconds for turn in self.turns)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(OverheadBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: OverheadBench, console: Console) -> list[Row]:
    """Measure every row, print the table, return the rows."""
    rows = [Row(BARE), Row(RAY), *([Row(ALONE)] if bench.workers == 1 else [])]
    console.print(f"{cpu_name()}, {_cores()} cores, load {os.getloadavg()[0]:.1f} at the start", highlight=False)
    with tempfile.TemporaryDirectory(prefix="marey-") as folder:
        training = prepare(bench, Path(folder))
        for number in range(bench.rounds):
            for row in rows:
                console.print(f"round {number + 1} of {bench.rounds}: {row.name}", highlight=False)
                turn = _bare if row.name == BARE else _marey
                row.turns.append(turn(bench, training, Path(folder) / f"{number}-{rows.index(row)}", row.name == RAY))
                _check_losses(rows[0], row)
    show(bench, rows, console)
    return rows


def prepare(bench: OverheadBench, folder: Path) -> Training:
    """A table of drawn pictures in ``folder``, and the training on it."""
    film = folder / "film.mp4"
    decode.encode(decode.film(None, 64, 128), film, 12)
    rows = bench.batch * 8
    write_table([Source("film", str(film))], ClipStorage(short_side=128), rows, folder / "table")
    steps = bench.warm_up + bench.steps
    per_worker = bench.batch // bench.workers
    if bench.batch % bench.workers or bench.batch % bench.repeats:
        raise ConfigError(f"batch={bench.batch}: must be a multiple of workers={bench.workers} and of {bench.repeats=}")
    return Training(
        results=folder / "results", table=str(folder / "table"), batch=bench.batch, repeats=bench.repeats,
        epochs=steps * bench.batch / (rows * bench.repeats), backbone=configure(bench.backbone, crop=bench.crop),
        recipe=MaskedConfig(mask_ratio=0.9, decoder_mask_ratio=0.5), clips={"stride": 2},
        optim={"warmup_epochs": 0}, engine={"micro_batch": per_worker, "device": "cpu"}, checkpoint={"every": 10**6},
        log={"pictures_every": 10**6},
    )  # fmt: skip


def _bare(bench: OverheadBench, training: Training, folder: Path, ray: bool) -> Turn:
    del ray
    folder.mkdir()
    (folder / "settings.yaml").write_text(to_yaml(training))
    steps, record = bench.warm_up + bench.steps, folder / "record"
    command = [sys.executable, "-m", "marey.bench.bare_loop", str(folder / "settings.yaml"), str(steps), str(record)]
    own = environment(bench.workers, bench.threads)
    common = {"WORLD_SIZE": str(bench.workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    with ExitStack() as stack:
        logs = [stack.enter_context((folder / f"log.{rank}").open("w")) for rank in range(bench.workers)]
        workers = [
            subprocess.Popen(command, env={**own, **common, "RANK": str(rank)}, stdout=log, stderr=log)
            for rank, log in enumerate(logs)
        ]
        for worker, log in zip(workers, logs, strict=True):
            check_ended(worker.wait(_LIMIT_SECONDS), BARE, Path(log.name))
    told = [_lines(Path(f"{record}.{rank}")) for rank in range(bench.workers)]
    losses = [statistics.mean(one["loss"] for one in step) for step in zip(*told, strict=True)]
    return Turn(_pace(bench, {one["step"]: one["time"] for one in told[0]}), losses)


def _marey(bench: OverheadBench, training: Training, folder: Path, ray: bool) -> Turn:
    folder.mkdir()
    settings = folder / "settings.yaml"
    settings.write_text(to_yaml(training.replace(fleet={"workers": bench.workers if ray else 0})))
    job = Path(__file__).parents[3] / "jobs/pretrain_videomae.py"
    log = folder / "log"
    with log.open("w") as out, tempfile.TemporaryDirectory(prefix="m-") as short:
        own = {**environment(bench.workers, bench.threads), "RAY_ADDRESS": "local", "RAY_TMPDIR": short}
        done = subprocess.run(
            [sys.executable, str(job), f"@{settings}", f"name={folder.name}"],
            env=own, stdout=out, stderr=out, timeout=_LIMIT_SECONDS, check=False,
        )  # fmt: skip
    check_ended(done.returncode, RAY if ray else ALONE, log)
    lines = _lines(training.results / f"runs/{folder.name}/metrics.jsonl")
    points = {line["step"]: line for line in lines if "train/loss" in line["values"]}
    tracking = [point["values"]["speed/tracking_ms"] for step, point in points.items() if step > bench.warm_up]
    return Turn(
        _pace(bench, {step: point["time"] for step, point in points.items()}),
        [points[step]["values"]["train/loss"] for step in sorted(points)],
        statistics.median(tracking) / 1000,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _pace(bench: OverheadBench, ended: dict[int, float]) -> float:
    return (ended[bench.warm_up + bench.steps] - ended[bench.warm_up]) / bench.steps


def environment(workers: int, threads: int | None = None) -> dict[str, str]:
    """The same number of threads for every worker, bare or not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    share = str(threads or _share(workers))
    return {**kept, "PYTHONPATH": str(Path(marey.__file__).parents[1]), "OMP_NUM_THREADS": share}


def _share(workers: int) -> int:
    return max(1, (_cores() - 1) // workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_ended(code: int, row: str, log: Path) -> None:
    """`ConfigError` with the end of its log if a program has failed."""
    if code:
        raise ConfigError(f"{row} ended with exit code {code}: {log.read_text(errors='replace')[-1500:]}")


def _check_losses(bare: Row, row: Row) -> None:
    """`AssertionError` where a row trained on something else than the bare loop."""
    for step, (one, other) in enumerate(zip(bare.turns[-1].losses, row.turns[-1].losses, strict=True), 1):
        assert abs(one - other) <= _SAME_LOSS * abs(one), f"{row.name}: loss {other} at step {step}, bare loop {one}"


def ratio(row: Row, bare: Row) -> float:
    """Median over the rounds of a row's time over the bare loop's in the same round."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(row.turns, bare.turns, strict=True))


def show(bench: OverheadBench, rows: Sequence[Row], console: Console) -> None:
    """The table, and whether the goals are met."""
    bare = rows[0]
    table = Table(
        title=f"{bench.backbone}, 16 × {bench.crop}², {bench.batch} clips a step, {_workers(bench)}",
        title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="",
    )  # fmt: skip
    for title in ("row", "ms/step", "of bare", "tracking ms"):
        table.add_column(title, justify="left" if title == "row" else "right")
    for row in rows:
        tracking = [1000 * turn.tracking for turn in row.turns if turn.tracking is not None]
        shown = f"{statistics.median(tracking):.2f}" if tracking else "-"
        table.add_row(row.name, f"{row.milliseconds:.1f}", f"{ratio(row, bare):.3f}", shown)
    console.print()
    console.print(table)
    for line in verdicts(rows):
        console.print(line, highlight=False, soft_wrap=True)


def _workers(bench: OverheadBench) -> str:
    return f"workers: {bench.workers}, threads of each: {bench.threads or _share(bench.workers)}"


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One line for each goal; none where steps are too short for them."""
    bare = rows[0]
    if bare.milliseconds < LEAST_MS:
        return [f"steps of {bare.milliseconds:.0f} ms are too short for the goals, which are for {LEAST_MS:.0f} ms"]
    lines = []
    for row in rows[1:]:
        found = ratio(row, bare)
        lines.append(f"{row.name} takes {found:.3f} × {BARE} (goal ≤ {GOAL}): {'ok' if found <= GOAL else 'MISSED'}")
        share = statistics.median((turn.tracking or 0.0) / turn.seconds for turn in row.turns)
        word = "ok" if share <= TRACKING_GOAL else "MISSED"
        lines.append(f"{row.name}: tracking takes {share:.2%} of a step (goal ≤ {TRACKING_GOAL:.0%}): {word}")
    return lines
