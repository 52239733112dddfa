"""Runs to track, and what MLflow knows of them."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from marey.tracking.base import RunDescription, Trackers
from marey.tracking.delivery import read_place
from marey.tracking.jsonl import JsonlTracker
from marey.tracking.mlflow import MlflowTracker, TrackingConfig

SETTINGS = {"recipe.mask_ratio": 0.9, "engine.zero": 0, "recipe.kind": "masked", "table": None, "sizes": [1, 2]}


def start(
    results: Path, name: str = "run", uri: str | None = None, experiment: str = "marey", **settings: Any
) -> Trackers:
    trackers = Trackers(JsonlTracker(), MlflowTracker(TrackingConfig(uri=uri, experiment=experiment), results))
    tags = {"backbone": "videomae_v2_tiny"}
    trackers.start(RunDescription(name, results / "runs" / name, {**SETTINGS, **settings}, tags))
    return trackers


def client_of(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results}/mlflow.db")


def run_of(client: MlflowClient, results: Path, name: str = "run") -> Any:
    place = read_place(results / "runs" / name)
    assert place is not None
    assert place.run_id is not None
    return client.get_run(place.run_id)


def steps_of(client: MlflowClient, run: Any, key: str = "train/loss") -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, key))


def pictures_of(client: MlflowClient, run: Any) -> list[str]:
    return [Path(item.path).name.split("+timestamp")[0] for item in client.list_artifacts(run.info.run_id, "images")]
