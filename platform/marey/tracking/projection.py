"""What one line of a run's record becomes in MLflow. Each function may be called twice with the same line."""

import json
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marey.tracking.journal import Point
from marey.tracking.store import hide_secrets
from marey.tracking.views import EXPERIMENT_VIEW, SHARED_VIEW_TAG, shared_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

KEY = "marey.key"
HEARTBEAT = "marey.heartbeat"
STALE_SECONDS = 90.0

STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
# MLflow's limits for one call and one value.
_PER_CALL = 100
_PARAMETER_LENGTH = 6000
_TAG_LENGTH = 5000
_NAME_LENGTH = 250
_PREVIEW_PIXELS = 1280
_DATASET_NAME_LENGTH = 500
_DIGEST_LENGTH = 36


def find_run(client: "MlflowClient", experiment_id: str, run_id: str | None, key: str) -> str | None:
    """The id of the run that has our ``key``; None if there is none, or if it was deleted in MLflow."""
    if run_id is not None:
        found = client.search_runs([experiment_id], f"attributes.run_id = '{run_id}'", max_results=1)
    else:
        found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
    return found[0].info.run_id if found else None


def create_run(client: "MlflowClient", experiment_id: str, key: str, directory: Path) -> str:
    """A new run, named as its folder is."""
    tags = {KEY: key, "marey.directory": str(directory)}
    run_id: str = client.create_run(experiment_id, run_name=directory.name, tags=tags).info.run_id
    return run_id


def start(client: "MlflowClient", run_id: str, event: Mapping[str, Any]) -> None:
    """The run goes on: its parameters, its tags, the status RUNNING.

    MLflow never lets a parameter change. One that did (only resumable settings may) becomes the tag
    ``resumed.<path>`` with the new value.
    """
    client.update_run(run_id, status="RUNNING")
    known = client.get_run(run_id).data.params
    wanted = {_name(path): _text(value)[:_PARAMETER_LENGTH] for path, value in event["parameters"].items()}
    changed = {f"resumed.{path}": value for path, value in wanted.items() if known.get(path, value) != value}
    tags = {_name(name): _text(value) for name, value in event["tags"].items()}
    beat = {HEARTBEAT: str(int(event["time"]))}
    _log_all(client, run_id, {path: v for path, v in wanted.items() if path not in known}, tags | changed | beat)
    if event.get("dataset") is not None:
        _log_dataset(client, run_id, event["dataset"])


def _log_dataset(client: "MlflowClient", run_id: str, note: Mapping[str, Any]) -> None:
    """A store keeps one data set of a name and digest, and lists it once with a run, however often it is told."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=note["name"][:_DATASET_NAME_LENGTH],
        digest=note["fingerprint"][:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": note["source"]}),
        profile=json.dumps(note["profile"]),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "clip table")])])


def share_views(
    client: "MlflowClient", experiment_id: str, run_id: str, picture: str | None = None, step: int = 0
) -> None:
    """Arrange the pages that `marey.tracking.links` names: this run's, and the one that compares all."""
    client.set_experiment_tag(experiment_id, SHARED_VIEW_TAG + run_id, shared_view(run_id, picture, step))
    client.set_experiment_tag(experiment_id, SHARED_VIEW_TAG + EXPERIMENT_VIEW, shared_view(None, picture, step))


def _log_all(client: "MlflowClient", run_id: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    params = [Param(path, value) for path, value in parameters.items()]
    for begin in range(0, len(params), _PER_CALL):
        client.log_batch(run_id, params=params[begin : begin + _PER_CALL])
    labels = [RunTag(name, value[:_TAG_LENGTH]) for name, value in tags.items()]
    for begin in range(0, len(labels), _PER_CALL):
        client.log_batch(run_id, tags=labels[begin : begin + _PER_CALL])


def numbers(point: Point) -> list["Metric"]:
    """The point as MLflow's metrics. The recorded time makes each the same on every call."""
    from mlflow.entities import Metric

    milliseconds = round(point.time * 1000)
    return [Metric(_name(key), value, milliseconds, point.step) for key, value in point.values.items()]


def log_numbers(client: "MlflowClient", run_id: str, metrics: Sequence["Metric"]) -> None:
    """Send up to 1000 metrics. One that MLflow will never take is named on stderr, and the others are sent."""
    from mlflow import MlflowException

    try:
        client.log_batch(run_id, metrics=metrics)
    except MlflowException as error:
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            raise
        if len(metrics) > 1:
            log_numbers(client, run_id, metrics[: len(metrics) // 2])
            log_numbers(client, run_id, metrics[len(metrics) // 2 :])
        elif client.get_run(run_id).info.lifecycle_stage != "active":
            raise
        else:
            print(f"MLflow refuses {metrics[0].key} at step {metrics[0].step}: {error.message}", file=sys.stderr)


def picture(client: "MlflowClient", run_id: str, event: Mapping[str, Any], directory: Path) -> None:
    """The picture as an image series of MLflow, which its UI shows with a slider over the steps.

    This is what ``MlflowClient.log_image`` makes, except that the name is the same on every call (there it is
    random, and a repeated call gives a second picture) and that the preview is large enough to see something on.
    """
    source = directory / event["file"]
    if not source.exists():
        print(f"{source}: is gone, and so not sent to MLflow", file=sys.stderr)
        return
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{run_id}/{event['key']}/{event['step']}")
    key = event["key"].replace("/", "~")
    name = f"{key}+step+{event['step']}+timestamp+{round(event['time'] * 1000)}+{identity}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(source, Path(folder, f"{name}.png"))
        _write_preview(source, Path(folder, f"{name}+compressed.webp"))
        client.log_artifacts(run_id, folder, "images")
    client.set_tag(run_id, "mlflow.loggedImages", "True")


def _write_preview(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as image:
        image.thumbnail((_PREVIEW_PIXELS, _PREVIEW_PIXELS))
        image.save(target)


def end(client: "MlflowClient", run_id: str, event: Mapping[str, Any]) -> None:
    """The run's true end status, and why if it failed."""
    if event["message"]:
        client.set_tag(run_id, "marey.error", hide_secrets(event["message"].strip().splitlines()[0])[:_TAG_LENGTH])
    client.set_terminated(run_id, STATUS[event["status"]], end_time=round(event["time"] * 1000))


def repair_stale(client: "MlflowClient", experiment_id: str, but: str) -> list[str]:
    """Set runs that say RUNNING but have had no heartbeat for 90 s to KILLED, as of the last one; returns their ids.

    That is what a process leaves behind which got SIGKILL or whose machine went away. The run ``but`` is left alone,
    and so are runs that are not ours.
    """
    repaired = []
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
        beat = _last_beat(run)
        if run.info.run_id != but and beat is not None and time.time() - beat > STALE_SECONDS:
            client.set_terminated(run.info.run_id, "KILLED", end_time=round(beat * 1000))
            repaired.append(run.info.run_id)
    return repaired


def _last_beat(run: "Run") -> float | None:
    """Unix seconds of the last sign of life; a run that was only just created has its start."""
    if KEY not in run.data.tags:
        return None
    return float(run.data.tags.get(HEARTBEAT, run.info.start_time / 1000))


def _name(key: str) -> str:
    """``key`` in the letters that MLflow allows in names."""
    return re.sub(r"[^\w\-. /:]", "_", key, flags=re.ASCII)[:_NAME_LENGTH]


def _text(value: Any) -> str:
    """A setting as one would write it on the command line, without secrets in URLs."""
    return hide_secrets(value if isinstance(value, str) else json.dumps(value))
