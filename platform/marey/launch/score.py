"""Evaluating and predicting from settings to what is shown at the end."""

import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from marey.clips.augment import AugmentConfig
from marey.clips.datasets import find_sources
from marey.clips.datasets.source import unique
from marey.clips.loader import FeedOrder
from marey.clips.location import located
from marey.clips.mixture import open_tables
from marey.clips.pipeline import Pipeline
from marey.clips.prepare import ClipStorage, prepare_all
from marey.clips.sample import SamplingConfig
from marey.clips.table import ClipTable, open_table
from marey.config import validate
from marey.engine.evaluate import per_source
from marey.engine.strategy import EngineConfig, device_of
from marey.errors import ClipError, ConfigError
from marey.experiment.scoring import Evaluation, Prediction, Scoring
from marey.inference.opened import Opened, open_weights
from marey.inference.report import Predicted, predictions_of, write_predictions
from marey.inference.score import Scored, Scorer, collect, evaluation_order, num_passes, write_scores
from marey.launch import records, signals

_MOST_LINES = 20  # of the table that is printed; the file has all
_EVERY_SECONDS = 5.0


def evaluate(evaluation: Evaluation) -> None:
    """Score labelled rows, write scores and tables beside the run, and say how right the model is."""
    opened = _open(evaluation)
    settings = opened.settings
    where = evaluation.table or settings.get("table")
    paths = [where] if where else settings.get("tables", [])
    if not paths:
        raise ConfigError("table: not given, and the weights do not name the one they were trained on")
    rows = open_tables(paths).split(evaluation.split)
    rows.check_labelled()
    classes = _classes(opened, rows)
    order = _order(evaluation, opened, rows)
    views = evaluation.views
    name = evaluation.name or f"{evaluation.split or 'all'}-{views.temporal}x{views.spatial}"
    directory = _beside(evaluation, opened) / "evaluations" / name
    _say_plan(evaluation, opened, order)
    views_scores = collect(order, _progress(_scores(evaluation, order, opened), num_passes(order)))
    write_scores(directory / "scores.parquet", order, views_scores, classes)
    records.record_evaluation(evaluation, opened, order, per_source(rows, views_scores), classes, directory)


def predict(prediction: Prediction, videos: Sequence[Path] = ()) -> None:
    """Score any rows, write what the model says of each source, and show the first of them.

    ``videos``: files, folders and lists, instead of ``prediction.videos``.
    """
    opened = _open(prediction)
    videos = list(videos) or ([prediction.videos] if prediction.videos is not None else [])
    if (prediction.table is None) == (not videos):
        raise ConfigError("table= or videos=: one of them must be given (and not both)")
    with TemporaryDirectory(prefix="marey-predict-") as scratch:
        rows = _rows(prediction, videos, Path(scratch))
        order = _order(prediction, opened, rows)
        _say_plan(prediction, opened, order)
        scores = collect(order, _progress(_scores(prediction, order, opened), num_passes(order)))
        predictions = predictions_of(rows, scores)
    classes = opened.classes or tuple(str(number) for number in range(scores.shape[1]))
    path = _output(prediction, opened, videos)
    write_predictions(path, predictions, classes)
    _show(predictions, classes, prediction.top)
    print(f"predictions {path}", flush=True)


def _rows(prediction: Prediction, videos: Sequence[Path], scratch: Path) -> ClipTable:
    """The rows to predict: of a table, or of videos, which are looked at but not stored again."""
    if prediction.table is not None:
        return open_table(prediction.table).split(prediction.split)
    sources = unique((source for path in videos for source in find_sources(path)), "videos")
    prepare_all(sources, ClipStorage(storage="source"), scratch / "table", max_quarantine=1.0)
    table = open_table(scratch / "table")
    for broken in table.quarantined():
        print(f"left out {broken.uri}: {broken.reason}", flush=True)
    if not len(table):
        raise ClipError(f"none of {len(sources)} videos can be read; the reasons are above")
    return table


def _open(scoring: Scoring) -> Opened:
    if scoring.model is None:
        raise ConfigError("model: not given; a run's name or folder, a checkpoint, or a file of weights")
    opened = open_weights(scoring.model, scoring.results, scoring.weights)
    backbone = opened.backbone or scoring.backbone
    if backbone is None:
        raise ConfigError(f"{opened.path}: weights without settings; say which model they are of: backbone=NAME")
    if backbone.classes is None:
        raise ConfigError(
            f"{opened.path}: {backbone.name} was pre-trained and has no classes; fine-tune it first: "
            f"jobs/finetune.py init={scoring.model}"
        )
    return opened


def _order(scoring: Scoring, opened: Opened, rows: ClipTable) -> FeedOrder:
    backbone = opened.backbone or scoring.backbone
    assert backbone is not None
    sampling = scoring.clips or validate(SamplingConfig, opened.settings.get("clips", {}))
    pipeline = Pipeline(backbone.frames, backbone.crop, sampling, AugmentConfig(), scoring.views)
    pipeline.check(rows)
    return evaluation_order(rows, pipeline, scoring.batch)


def _scores(scoring: Scoring, order: FeedOrder, opened: Opened) -> Iterator[Scored]:
    if scoring.fleet.workers == 0:
        device = device_of(EngineConfig(device="cuda" if scoring.fleet.device == "gpu" else "auto"))
        scorer = Scorer(opened.model(scoring.backbone), device, scoring.precision)
        return scorer.steps(order, 0, num_passes(order))
    from marey.fleet import cluster, score

    cluster.join()
    signals.install()
    shares, words = score.plan_shares(scoring)
    print(f"workers  {scoring.fleet.workers} × {shares.for_ray()} on {words}", flush=True)
    return score.score(scoring, order, opened, shares)


def _progress(parts: Iterator[Scored], passes: int) -> Iterator[Scored]:
    """The parts, with a line now and then."""
    began = last = time.monotonic()
    for done, part in enumerate(parts, 1):
        yield part
        if (now := time.monotonic()) - last >= _EVERY_SECONDS and done < passes:
            last = now
            print(f"{done}/{passes} passes, left {(now - began) / done * (passes - done):.0f} s", flush=True)


def _classes(opened: Opened, rows: ClipTable) -> tuple[str, ...]:
    """The model's classes; `ClipError` where the table numbers them otherwise."""
    names = tuple(rows.class_names())
    if not opened.classes:
        return names
    pairs = enumerate(zip_longest(opened.classes, names))
    differing = [f"{n} is {a!r} in the model and {b!r} in the table" for n, (a, b) in pairs if a != b and b is not None]
    if differing:
        raise ClipError(
            f"clip table {rows.path}: its classes are not the model's: {'; '.join(differing[:3])}; prepare it with the "
            "labels that the model was trained with"
        )
    return opened.classes


def _beside(scoring: Scoring, opened: Opened) -> Path:
    """The run's folder, or one named after a file of weights."""
    if opened.path.parent.name == "checkpoints":
        return opened.path.parent.parent
    return scoring.results / "models" / opened.path.stem


def _output(prediction: Prediction, opened: Opened, videos: Sequence[Path]) -> Path:
    stem = Path(located(prediction.table).name).stem if prediction.table else videos[0].stem
    path = prediction.output or _beside(prediction, opened) / "predictions" / f"{stem}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _show(predictions: list[Predicted], classes: tuple[str, ...], top: int) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("video")
    table.add_column(f"top {min(top, len(classes))}")
    for one in predictions[:_MOST_LINES]:
        best = np.argsort(-one.scores, kind="stable")[:top]
        table.add_row(one.source_id, "  ".join(f"{classes[label]} {one.scores[label]:.3f}" for label in best))
    Console(soft_wrap=True).print(table)
    if len(predictions) > _MOST_LINES:
        print(f"... and {len(predictions) - _MOST_LINES} more", flush=True)


def _say_plan(scoring: Scoring, opened: Opened, order: FeedOrder) -> None:
    views = scoring.views
    backbone = opened.backbone or scoring.backbone
    print(
        f"model    {backbone.name if backbone else ''} from {opened.path}\n"
        f"table    {order.table.path}: {len(order.table)} clips × {views.temporal} × {views.spatial} views",
        flush=True,
    )
