"""One training run from settings to its end: table, name, tracker, workers, and what to look at afterwards."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from marey.clips import loader
from marey.clips.mixture import open_tables
from marey.clips.table import ClipTable, open_table
from marey.config import flatten
from marey.engine import checkpoint
from marey.engine.events import Asked, Stop
from marey.engine.stopping import take_note
from marey.errors import ConfigError
from marey.experiment import Preparation, Training, assemble
from marey.experiment.revision import revision
from marey.experiment.run import Run, fresh_name, open_run
from marey.launch import prepare, signals
from marey.launch.records import dataset_note, say_results, trackers
from marey.nn.batch_norm import has_batch_norm
from marey.tracking.base import RunDescription, Tracker


def run(training: Training, words: list[str], script: str) -> None:
    """Train; raises what went wrong. Prints the resume command first and what to look at last."""
    fleet = training.fleet.workers > 0
    if fleet:
        from marey.fleet import cluster

        cluster.join()
        signals.install()
    table = table_of(training)
    job = script.removesuffix(".py")
    training = assemble.resolve(training, table).replace(name=training.name or fresh_name(job))
    order = assemble.feed_order(training, table, max(1, training.fleet.workers))
    steps = order.plan.num_steps(training.epochs, training.batch)
    opened = open_run(training, table.fingerprint)
    try:
        resume = _resume_command(words, script, opened.name)
        _say_plan(training, table, opened, resume, steps, order.micro_batch)
        if _finished(opened, steps):
            return
        assemble.check_start(training, opened.directory)
        with signals.kept() as asked:
            (_with_ray if fleet else _alone)(training, table, opened, job, Stopper(asked, steps, resume))
        _say_results(opened.directory)
    finally:
        opened.close()


def table_of(training: Training) -> ClipTable:
    """The table to train on, made first where only videos are given."""
    if training.table is not None or training.tables:
        return open_tables([training.table] if training.table else training.tables)
    if training.videos is None:
        found = sorted((training.results / "tables").glob("*/manifest.json"))
        known = "".join(f"\n  table={path.parent}" for path in found)
        raise ConfigError(
            "table: not given; prepare one with jobs/prepare_clips.py videos=DIR, or give videos=DIR here"
            + (f". Found under results:{known}" if known else "")
        )
    workers = None if training.fleet.workers else 0
    preparation = Preparation(videos=training.videos, results=training.results, workers=workers)
    prepare.run(preparation)
    return open_table(preparation.table_path())


@dataclass(frozen=True)
class Stopper:
    """A stop by a signal: what asks for it, and how it ends."""

    asked: Asked
    steps: int
    resume: str

    def ended(self, reason: Stop, step: int) -> NoReturn:
        """Raise what ends the run as stopped."""
        raise signals.Interrupted(
            f"stopped by {reason} at step {step} of {self.steps}, which is saved; to go on:\n{self.resume}"
        )


def _with_ray(training: Training, table: ClipTable, opened: Run, job: str, stopper: Stopper) -> None:
    from marey.fleet.tracker import RemoteTracker

    tracker = RemoteTracker(trackers(training.tracking, training.results))  # its process starts meanwhile
    from marey.fleet import train as fleet_train
    from marey.fleet.room import elastic_note

    shares, cluster = fleet_train.plan_shares(training)
    print(f"workers  {training.fleet.workers} × {shares.for_ray()} on {cluster}{elastic_note(training)}", flush=True)
    with tracked(tracker, description(training, table, opened.directory, job, cluster)):
        stopped = fleet_train.train(training, table, opened.directory, tracker, shares, asked=stopper.asked)
        if stopped:
            stopper.ended(stopped.stop, stopped.step)


def _alone(training: Training, table: ClipTable, opened: Run, job: str, stopper: Stopper) -> None:
    tracker = trackers(training.tracking, training.results)
    with tracked(tracker, description(training, table, opened.directory, job, "one process")):
        stopped = assemble.train(training, table, opened.directory, loader.feed, tracker, stopper.asked)
        if stopped:
            stopper.ended(stopped.reason, stopped.clock.step)


@contextmanager
def tracked(tracker: Tracker, run: RunDescription) -> Iterator[None]:
    """Start the tracker, and end it with the truth."""
    tracker.start(run)
    try:
        yield
    except Exception as error:
        tracker.end("failed", str(error).strip().splitlines()[-1])
        raise
    except BaseException as error:
        tracker.end("killed", next(iter(str(error).splitlines()), type(error).__name__))
        raise
    tracker.end("finished")


def description(training: Training, table: ClipTable, directory: Path, job: str, cluster: str) -> RunDescription:
    """What trackers are told of a training."""
    tags = {
        "job": job,
        "backbone": training.backbone.name,
        "recipe": training.recipe.kind,
        "table_fingerprint": table.fingerprint,
        "table_rows": str(len(table)),
        "cluster": cluster,
        **revision(),
    }
    return RunDescription(str(training.name), directory, flatten(training), tags, dataset_note(table))


def _resume_command(words: list[str], script: str, name: str) -> str:
    settings = [word for word in words if not word.startswith("name=")]
    python = ["python", f"jobs/{script}", *settings, f"name={name}"]
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return shlex.join((["ray", "job", "submit", "--working-dir", ".", "--"] if submitted else []) + python)


def _say_plan(training: Training, table: ClipTable, opened: Run, resume: str, steps: int, micro: int) -> None:
    workers = max(1, training.fleet.workers)
    passes = training.batch // workers // micro
    engine = training.engine
    strategy = f"DeepSpeed ZeRO-{engine.zero}" if engine.strategy == "deepspeed" else "PyTorch"
    print(
        f"run      {opened.name}{' (taken up again)' if opened.resumed else ''}\n"
        f"table    {table.path}: {_clips(training, table)}\n"
        f"model    {training.backbone.name}, {strategy}, {engine.precision}\n"
        f"batch    {training.batch} = {workers} workers × {passes} passes × {micro} clips; {steps} steps, "
        f"{training.epochs:g} epochs\n"
        f"resume   {resume}{_batch_norm_note(training)}",
        flush=True,
    )
    if opened.resumed and (unsaved := take_note(opened.directory)):
        print(f"note     {unsaved}", flush=True)


def _clips(training: Training, table: ClipTable) -> str:
    """How many clips are trained on: ``"64 of 96 clips (split train)"``."""
    if training.split is None:
        return f"{len(table)} clips"
    return f"{len(table.split(training.split))} of {len(table)} clips (split {training.split})"


def _batch_norm_note(training: Training) -> str:
    """What batch norm makes of the promise that results do not depend on the workers."""
    with torch.device("meta"):
        model = training.backbone.build()
    if not has_batch_norm(model):
        return ""
    if training.fleet.min_workers not in (None, training.fleet.workers):
        return (
            f"\nnote     batch norm sees the passes of the workers that there are: results depend on when machines are "
            f"lost and come (fleet.min_workers={training.fleet.min_workers})"
        )
    if training.engine.sync_batch_norm:
        return "\nnote     batch norm sees one pass of all workers: results depend on workers × engine.micro_batch"
    return (
        "\nnote     batch norm sees each worker's passes alone: results depend on fleet.workers and engine.micro_batch "
        "(engine.sync_batch_norm=true: all workers' together)"
    )


def _finished(opened: Run, steps: int) -> bool:
    newest = checkpoint.newest(opened.directory / "checkpoints") if opened.resumed else None
    if newest is None or newest.step < steps:
        return False
    print(f"this run is finished ({newest.step} steps): nothing to do. A larger epochs= extends it", flush=True)
    return True


def _say_results(directory: Path) -> None:
    """Where everything is, and how to look at it."""
    saved = checkpoint.steps(directory / "checkpoints")
    best = checkpoint.best(directory / "checkpoints")
    pictures = sorted(directory.glob("pictures/*/*.png"), key=lambda path: path.name)
    say_results(
        [
            ("results", directory),
            ("checkpoint", saved[-1] if saved else None),
            ("best", best if best not in saved[-1:] else None),
            ("picture", pictures[-1] if pictures else None),
        ],
        directory,
    )
