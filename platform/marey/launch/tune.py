"""A sweep from settings to the best trial's settings."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from marey.clips.table import ClipTable
from marey.config import flatten, override_pairs, parse_words, read_yaml, to_tree
from marey.engine import checkpoint
from marey.errors import ConfigError, MareyError
from marey.experiment import Sweep, Training, assemble
from marey.experiment.revision import revision
from marey.experiment.run import Run, fresh_name, open_run, take_up
from marey.experiment.sweep import Dimension, read_space
from marey.launch import records, signals, train
from marey.tracking.base import RunDescription
from marey.tracking.delivery import read_place

if TYPE_CHECKING:
    from marey.fleet.tune import Trial

RESUMABLE = (
    "sweep.trials",
    "sweep.concurrent",
    "sweep.name",
    "fleet",
    "log",
    "tracking",
    "results",
    "table",
    "videos",
)
# Of a trial's settings, what its best.yaml leaves to whoever runs it.
_NOT_OF_THE_BEST = ("name", "results", "tracking", "fleet", "videos")


@dataclass(frozen=True)
class TrialOrder:
    """What every trial of a sweep has in common."""

    sweep: str
    training: Training
    table: ClipTable
    parent_run: str | None


def run(training: Training, search: Mapping[str, Any], sweep: Sweep, words: list[str]) -> None:
    """Search; raises what went wrong with the sweep as a whole. Failed trials are told at the end."""
    training, search, sweep = read_words(training, search, sweep, words)
    space = read_space(search, training)
    from marey.fleet import cluster, tune

    cluster.join(log_to_driver=False, dashboard=True)
    signals.install()
    table = train.table_of(training)
    training = assemble.resolve(training, table)
    name = sweep.name or fresh_name("sweep")
    trials = tune.num_trials(sweep, space)
    concurrent, shares = tune.plan_trials(sweep, training.fleet, trials, cluster.settled())
    training = training.replace(fleet=to_tree(training.fleet) | {"cpus_per_worker": shares.cpus})
    record = {
        "settings": to_tree(training) | {"sweep": to_tree(sweep)},
        "search": {one.path: {one.kind: list(one.values)} for one in space},
        "table_fingerprint": table.fingerprint,
    }
    opened = take_up(training.results / "sweeps" / name, record, training, RESUMABLE)
    try:
        _say_plan(opened, space, trials, concurrent, training, shares.for_ray())
        tracker = records.trackers(training.tracking, training.results)
        with train.tracked(tracker, _description(name, opened.directory, training, sweep, space, table)):
            place = read_place(opened.directory)
            order = TrialOrder(name, training, table, place.run_id if place else None)
            found = tune.search(sweep, space, concurrent, opened.directory, Runner(order), _say)
            _end_trials(order, found)
            best = best_of(found, sweep)
            if best is None:
                _say_results(opened, order, found, sweep)
                raise MareyError(f"sweep {name}: no trial gave a {sweep.metric}; the reasons are in the table above")
            tracker.metrics(len(found), {f"best/{sweep.metric}": best.metrics[f"best_{sweep.metric}"]})
        _say_results(opened, order, found, sweep)
    finally:
        opened.close()


def read_words(
    training: Training, search: Mapping[str, Any], sweep: Sweep, words: list[str]
) -> tuple[Training, Mapping[str, Any], Sweep]:
    """Words sorted by what they are about: ``sweep.``, ``search.``, everything else the training's."""
    space, pairs = dict(search), []
    for word in words:
        if word.startswith("@"):
            tree = read_yaml(word[1:])
            if "search" in tree:
                space = dict(tree.pop("search") or {})
            pairs += list(flatten(tree).items())
            continue
        for path, value in parse_words([word]):
            if path.startswith("search."):
                space[path.removeprefix("search.")] = yaml.safe_load(str(value))
            else:
                pairs.append((path, value))
    of_sweep = [(path.removeprefix("sweep."), value) for path, value in pairs if path.startswith("sweep.")]
    sweep = override_pairs(sweep, of_sweep)
    if sweep.job is not None:
        training = _training_of(sweep.job)
    training = override_pairs(training, [pair for pair in pairs if not pair[0].startswith("sweep.")])
    if training.name is not None:
        raise ConfigError("name: a sweep names its trials; give sweep.name=")
    return training, space, sweep


def _training_of(job: str) -> Training:
    """The ``training`` of another job file beside this one."""
    path = Path(sys.argv[0]).resolve().parent / f"{job.removesuffix('.py')}.py"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.py")))
        raise ConfigError(f"sweep.job={job}: there is no {path.name}; there are {known}")
    found = run_path(str(path)).get("training")
    if not isinstance(found, Training):
        raise ConfigError(f"sweep.job={job}: {path.name} trains nothing")
    return found


class Runner:
    """Runs one trial, in a process of Ray Tune's."""

    def __init__(self, order: TrialOrder) -> None:
        self.order = order

    def __call__(self, trial: str, values: dict[str, Any], callbacks: list[Any], report: Any) -> None:
        """Train with ``values``; a trial that was trained to its end before tells its numbers again."""
        from marey.fleet import train as fleet_train
        from marey.fleet.tracker import RemoteTracker

        training, table = _training_with(self.order, trial, values), self.order.table
        opened = open_run(training, table.fingerprint)
        try:
            saved = checkpoint.newest(opened.directory / "checkpoints") if opened.resumed else None
            total = assemble.total_steps(training, table)
            if saved is not None and saved.step >= total:
                report(fleet_train.report_of(saved.step, total, saved.state["last"], saved.state["best"]))
                return
            tracker = RemoteTracker(records.trackers(training.tracking, training.results))
            with train.tracked(tracker, _trial_description(self.order, training, opened.directory)):
                assemble.check_start(training, opened.directory)
                shares = fleet_train.shares_of_trial(training)
                fleet_train.train(training, table, opened.directory, tracker, shares, callbacks)
        finally:
            opened.close()


def _training_with(order: TrialOrder, trial: str, values: Mapping[str, Any]) -> Training:
    """A trial's settings; its name is the same whenever the sweep is taken up."""
    training = override_pairs(order.training, list(values.items()))
    return assemble.resolve(training, order.table).replace(name=f"{order.sweep}-{trial}")


def _trial_description(order: TrialOrder, training: Training, directory: Path) -> RunDescription:
    found = train.description(training, order.table, directory, "tune", "a trial of a sweep")
    parent = {"mlflow.parentRunId": order.parent_run} if order.parent_run else {}
    return RunDescription(found.name, found.directory, found.parameters, {**found.tags, "sweep": order.sweep, **parent})


def _description(
    name: str, directory: Path, training: Training, sweep: Sweep, space: Sequence[Dimension], table: ClipTable
) -> RunDescription:
    """The sweep's own run, the parent of its trials'."""
    searched = {f"search.{one.path}": f"{one.kind} {list(one.values)}" for one in space}
    parameters = {**{f"sweep.{path}": value for path, value in flatten(sweep).items()}, **searched}
    tags = {
        "job": "tune",
        "recipe": training.recipe.kind,
        "table_fingerprint": table.fingerprint,
        "sweep": name,
        **revision(),
    }
    return RunDescription(name, directory, parameters, tags)


def _end_trials(order: TrialOrder, found: "Sequence[Trial]") -> None:
    """The end of trials that were stopped from outside, which could not note it themselves."""
    for trial in found:
        training = _training_with(order, trial.id, trial.values)
        directory = training.results / "runs" / str(training.name)
        if trial.state == "stopped early" and directory.is_dir():
            tracker = records.trackers(training.tracking, training.results)
            tracker.start(_trial_description(order, training, directory))
            tracker.end("finished", "stopped early: it had fallen behind")


def best_of(found: "Sequence[Trial]", sweep: Sweep) -> "Trial | None":
    """The trial with the best value of the metric; None if no trial has one."""
    key = f"best_{sweep.metric}"
    judged = [trial for trial in found if math.isfinite(trial.metrics.get(key, math.nan))]
    return (min if sweep.lowest else max)(judged, key=lambda trial: trial.metrics[key], default=None)


def _say_plan(
    opened: Run, space: Sequence[Dimension], trials: int, concurrent: int, training: Training, share: dict[str, float]
) -> None:
    print(
        f"sweep    {opened.name}{' (taken up again)' if opened.resumed else ''}\n"
        + "".join(f"search   {one.path}: {one.kind} {list(one.values)}\n" for one in space)
        + f"trials   {trials}, {concurrent} at a time, each {training.fleet.workers} workers × {share}\n"
        f"resume   the same command with sweep.name={opened.name}",
        flush=True,
    )


def _say_results(opened: Run, order: TrialOrder, found: "Sequence[Trial]", sweep: Sweep) -> None:
    """The trials, best first, and where the best one's settings are."""
    key, best = f"best_{sweep.metric}", best_of(found, sweep)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("trial", "state", sweep.metric, "values"):
        table.add_column(title, justify="right" if title == sweep.metric else "left", overflow="fold")
    worst = math.inf if sweep.lowest else -math.inf
    for trial in sorted(found, key=lambda one: one.metrics.get(key, worst), reverse=not sweep.lowest):
        value = f"{trial.metrics[key]:.4f}" if key in trial.metrics else "-"
        told = " ".join(f"{path}={value}" for path, value in trial.values.items())
        table.add_row(trial.id, trial.state, value, told + (f"\n{trial.reason}" if trial.reason else ""))
    Console(soft_wrap=True).print(table, markup=False)
    if best is not None:
        path = opened.directory / "best.yaml"
        path.write_text(best_yaml(_training_with(order, best.id, best.values), best, sweep))
        runs = order.training.results / "runs"
        lines = [("best", best.id), ("its run", runs / f"{order.sweep}-{best.id}"), ("its settings", path)]
        records.say_results(lines, opened.directory)


def best_yaml(training: Training, best: "Trial", sweep: Sweep) -> str:
    """The best trial's settings as a file for the training's own job: ``jobs/finetune.py @best.yaml``."""
    tree = {key: value for key, value in to_tree(training).items() if key not in _NOT_OF_THE_BEST}
    head = f"# Trial {best.id} of sweep {training.name}: {sweep.metric} {best.metrics[f'best_{sweep.metric}']:.4f}\n"
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _say(line: str) -> None:
    print(line, flush=True)
