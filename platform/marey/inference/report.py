"""What an evaluation or a prediction says: accuracies with intervals, the lot of each class, each video's class."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marey.clips.table import ClipTable
from marey.engine.evaluate import Scores, source_means
from marey.inference.score import write_parquet
from marey.recipes import metrics


class ClassLine(NamedTuple):
    """One class of the table: its sources, the share that is right, and what it is taken for when it is not."""

    name: str
    sources: int
    top1: float
    mistaken_for: str


def class_lines(scores: Scores, classes: Sequence[str]) -> list[ClassLine]:
    """One line a class, in the order of the labels."""
    confusion = metrics.confusion(scores.scores, scores.labels)
    lines = []
    for label, name in enumerate(classes):
        counts = confusion[label].copy()
        total, right = int(counts.sum()), int(counts[label])
        counts[label] = 0
        other = f"{classes[int(counts.argmax())]} ({int(counts.max())})" if counts.any() else ""
        lines.append(ClassLine(name, total, right / total if total else float("nan"), other))
    return lines


def summary(scores: Scores) -> dict[str, Any]:
    """Metrics, and 95 % intervals: Wilson's for shares of sources, a bootstrap's for the mean over classes."""
    return {
        "sources": len(scores.labels),
        "classes": int(scores.scores.shape[1]),
        "metrics": scores.summary(),
        "intervals": {name: list(pair) for name, pair in metrics.intervals(scores.scores, scores.labels).items()},
    }


def write_report(directory: Path, scores: Scores, classes: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """``summary.json`` and ``classes.csv`` in ``directory``; the summary."""
    found = summary(scores)
    (directory / "summary.json").write_text(json.dumps({**found, **facts}, indent=1))
    with (directory / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "sources", "top1", "mistaken_for"))
        writer.writerows(
            (one.name, one.sources, "" if np.isnan(one.top1) else f"{one.top1:.4f}", one.mistaken_for)
            for one in class_lines(scores, classes)
        )
    return found


class Predicted(NamedTuple):
    """What a model says of one source: probabilities float32 [K], the mean over its views."""

    source_id: str
    uri: str
    scores: np.ndarray


def predictions_of(rows: ClipTable, scores: np.ndarray) -> list[Predicted]:
    """One prediction a source from the scores [V, K] of all views of ``rows``."""
    uris = dict(zip(rows.column("source_id"), rows.column("uri"), strict=True))
    ids, means = source_means(rows, scores)
    return [Predicted(one, uris[one], mean) for one, mean in zip(ids, means, strict=True)]


def write_predictions(path: Path, predictions: Sequence[Predicted], classes: Sequence[str]) -> None:
    """A Parquet file with one row a source: the class, its probability, and those of all classes."""
    best = [int(one.scores.argmax()) for one in predictions]
    columns: dict[str, Any] = {
        "source_id": [one.source_id for one in predictions],
        "uri": [one.uri for one in predictions],
        "label": best,
        "label_name": [classes[label] for label in best],
        "score": [float(one.scores[label]) for one, label in zip(predictions, best, strict=True)],
        "scores": [one.scores for one in predictions],
    }
    write_parquet(path, columns, {"classes": "\n".join(classes)})
