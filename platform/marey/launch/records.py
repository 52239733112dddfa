"""An evaluation's record: files beside the run, an MLflow run of its own, and what is printed."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from marey.clips.loader import FeedOrder
from marey.clips.table import ClipTable
from marey.config import flatten
from marey.engine.evaluate import Scores
from marey.engine.pictures import judgement_pictures
from marey.experiment.revision import revision
from marey.experiment.scoring import Evaluation
from marey.inference.opened import Opened
from marey.inference.report import class_lines, write_report
from marey.tracking.base import DatasetNote, RunDescription, Trackers
from marey.tracking.delivery import read_place
from marey.tracking.jsonl import JsonlTracker
from marey.tracking.links import run_url, ui_command
from marey.tracking.mlflow import MlflowTracker, TrackingConfig

_MOST_CLASSES = 20  # lines of the table that is printed; the file has all


def trackers(tracking: TrackingConfig, results: Path) -> Trackers:
    """The store is looked up here: a tracker may run in a process that does not have this one's environment."""
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return Trackers(JsonlTracker(), MlflowTracker(tracking.replace(uri=uri), results))


def dataset_note(table: ClipTable) -> DatasetNote:
    """What MLflow lists of a clip table."""
    counts = {"rows": len(table), **table.manifest.counts}
    return DatasetNote(table.path.name, table.fingerprint, str(table.path), counts)


def say_results(lines: list[tuple[str, Any]], directory: Path) -> None:
    """Where everything is, and how to look at it."""
    place, link = read_place(directory), run_url(directory)
    shown = [
        *lines,
        ("mlflow run", place.run_id if place else None),
        ("to look", ui_command(place.uri) if place else None),
        ("then open", link),
    ]
    print("\n" + "\n".join(f"{name:<11} {text}" for name, text in shown if text is not None), flush=True)


def record_evaluation(
    evaluation: Evaluation,
    opened: Opened,
    order: FeedOrder,
    scores: Scores,
    classes: tuple[str, ...],
    directory: Path,
) -> None:
    """Write, track and print what an evaluation found."""
    facts = {"model": str(opened.path), "step": opened.step, "table_fingerprint": order.table.fingerprint}
    found = write_report(directory, scores, classes, facts)
    tracker, step = trackers(evaluation.tracking, evaluation.results), opened.step or 0
    name = f"{directory.parent.parent.name}-{directory.name}"
    tracker.start(RunDescription(name, directory, flatten(evaluation), _tags(opened, order), dataset_note(order.table)))
    tracker.metrics(step, {f"evaluation/{name}": value for name, value in found["metrics"].items()})
    for key, picture in judgement_pictures(scores, order, list(classes)).items():
        tracker.picture(step, key, picture)
    tracker.end("finished")
    _show(scores, classes, found)
    pictures = sorted(directory.glob("pictures/confusion/*.png"))
    say_results(
        [
            ("scores", directory / "scores.parquet"),
            ("classes", directory / "classes.csv"),
            ("summary", directory / "summary.json"),
            ("picture", pictures[-1] if pictures else None),
        ],
        directory,
    )


def _tags(opened: Opened, order: FeedOrder) -> dict[str, str]:
    return {
        "job": "evaluate",
        "evaluated": str(opened.path),
        "backbone": opened.backbone.name if opened.backbone else "",
        "recipe": str(opened.settings.get("recipe", {}).get("kind", "")),
        "table_fingerprint": order.table.fingerprint,
        "table_rows": str(len(order.table)),
        **revision(),
    }


def _show(scores: Scores, classes: tuple[str, ...], found: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("class", "sources", "top1", "mistaken for"):
        table.add_column(title, justify="right" if title in ("sources", "top1") else "left")
    lines = class_lines(scores, classes)
    for line in lines[:_MOST_CLASSES]:
        table.add_row(line.name, str(line.sources), f"{line.top1:.3f}", line.mistaken_for)
    Console(soft_wrap=True).print(table, markup=False)
    if len(lines) > _MOST_CLASSES:
        print(f"... and {len(lines) - _MOST_CLASSES} more classes")
    for name, value in found["metrics"].items():
        low_high = found["intervals"].get(name)
        between = f"   95 % between {low_high[0]:.4f} and {low_high[1]:.4f}" if low_high else ""
        print(f"{name:<20} {value:.4f}{between}")
