"""A run's record on its way to MLflow: what the journal says and the cursor has not passed is sent, in order.

    <run>/mlflow.json        where the run stands in MLflow: store, experiment, run id
    <run>/mlflow.sent.json   how far into metrics.jsonl and events.jsonl MLflow has confirmed, in bytes

Everything that MLflow knows of a run comes from the journal, so an outage or a kill costs nothing: delivery goes on
where the cursor stands. Sending the same lines twice changes nothing either, because a point with equal key, step,
time and value is one point for MLflow, and a picture's file name follows from its step and time.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marey.tracking import projection
from marey.tracking.journal import EVENTS, METRICS, Point, read_lines, read_point
from marey.tracking.store import connect, experiment_id, hide_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

PLACE = "mlflow.json"
CURSOR = "mlflow.sent.json"
BATCH = 1000  # MLflow's limit for one call
SMALLEST_BATCH = 50
HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True)
class Place:
    """Where a run stands in MLflow."""

    uri: str
    """The store, without secrets."""
    artifacts: str
    """Folder for pictures, where the store is a database."""
    experiment: str
    key: str
    """Ours, decided before MLflow is asked for a run, so that no answer that gets lost makes a second one."""
    experiment_id: str | None = None
    run_id: str | None = None


def read_place(directory: Path) -> Place | None:
    """What ``<run>/mlflow.json`` says; None if delivery has never begun."""
    path = directory / PLACE
    return Place(**json.loads(path.read_text())) if path.exists() else None


class Delivery:
    """Sends one run's journal. Every method may wait for the server, and raises what MLflow raises."""

    def __init__(self, directory: Path, uri: str, experiment: str, artifacts: Path) -> None:
        self.directory = directory
        self._uri = uri
        self._place = read_place(directory)
        wanted = (hide_secrets(uri), experiment)
        if self._place is None or (self._place.uri, self._place.experiment) != wanted:
            self._place = Place(wanted[0], str(artifacts), experiment, key=uuid.uuid4().hex)
            _write(directory / PLACE, asdict(self._place))
        self._batch = BATCH
        self._beat_at = float("-inf")
        self.is_open = False

    def open(self) -> None:
        """Find the run in the store or create it there."""
        assert self._place is not None
        self._client: MlflowClient = connect(self._uri)
        artifacts = Path(self._place.artifacts)
        experiment = experiment_id(self._client, self._place.experiment, self._uri, artifacts)
        run_id = projection.find_run(self._client, experiment, self._place.run_id, self._place.key)
        if run_id is None:
            run_id = projection.create_run(self._client, experiment, self._place.key, self.directory)
        self._place = replace(self._place, experiment_id=experiment, run_id=run_id)
        _write(self.directory / PLACE, asdict(self._place))
        self._run_id, self._experiment_id = run_id, experiment
        self._sent = _read_cursor(self.directory, run_id)
        self.is_open = True

    def send(self) -> bool:
        """Send what comes next; False if MLflow has everything.

        A start goes before the points; pictures and an end go after, so that a store for pictures which is away does
        not keep the curves from being seen.
        """
        event = next(read_lines(self.directory / EVENTS, self._sent["events"]), None)
        if event is not None and event[0]["event"] == "start":
            return self._send_event(*event)
        return self._send_points() or (event is not None and self._send_event(*event))

    def beat(self) -> None:
        """Say that the run is alive, every 15 s."""
        if time.monotonic() - self._beat_at >= HEARTBEAT_SECONDS:
            self._client.set_tag(self._run_id, projection.HEARTBEAT, str(int(time.time())))
            # A server that was away for long may have taken this run for dead.
            self._client.update_run(self._run_id, status="RUNNING")
            self._beat_at = time.monotonic()

    def repair_stale(self) -> list[str]:
        """Set dead runs of this experiment to KILLED; see `projection.repair_stale`."""
        return projection.repair_stale(self._client, self._experiment_id, self._run_id)

    def _send_event(self, event: Mapping[str, Any], offset: int) -> bool:
        if event["event"] == "start":
            projection.start(self._client, self._run_id, event)
            if self._sent["events"] == 0:
                projection.share_views(self._client, self._experiment_id, self._run_id)
        elif event["event"] == "picture":
            projection.picture(self._client, self._run_id, event, self.directory)
            projection.share_views(self._client, self._experiment_id, self._run_id, event["key"], event["step"])
        elif event["event"] == "end":
            projection.end(self._client, self._run_id, event)
        return self._confirm("events", offset)

    def _send_points(self) -> bool:
        points, offset = self._next_points()
        numbers = [number for point in points for number in projection.numbers(point)]
        try:
            for begin in range(0, len(numbers), self._batch):
                projection.log_numbers(self._client, self._run_id, numbers[begin : begin + self._batch])
        except Exception:
            # A slow server may get a small batch done in time where it fails at a big one.
            self._batch = max(SMALLEST_BATCH, self._batch // 2)
            raise
        self._batch = min(BATCH, self._batch * 2)
        return bool(points) and self._confirm("metrics", offset)

    def _next_points(self) -> tuple[list[Point], int]:
        points: list[Point] = []
        offset, count = self._sent["metrics"], 0
        for line, behind in read_lines(self.directory / METRICS, offset):
            point = read_point(line)
            count += len(point.values)
            if points and count > self._batch:
                break
            points.append(point)
            offset = behind
        return points, offset

    def _confirm(self, file: str, offset: int) -> bool:
        self._sent[file] = offset
        _write(self.directory / CURSOR, self._sent)
        return True


def left(directory: Path) -> int:
    """How many numbers and pictures of the run in ``directory`` MLflow has not confirmed."""
    place = read_place(directory)
    sent = _read_cursor(directory, place.run_id if place is not None else None)
    points = (read_point(line) for line, _ in read_lines(directory / METRICS, sent["metrics"]))
    pictures = (line for line, _ in read_lines(directory / EVENTS, sent["events"]) if line["event"] == "picture")
    return sum(len(point.values) for point in points) + sum(1 for _ in pictures)


def _read_cursor(directory: Path, run_id: str | None) -> dict[str, Any]:
    """The cursor of that MLflow run; at the beginning for any other, which is then sent everything."""
    path = directory / CURSOR
    cursor = json.loads(path.read_text()) if path.exists() else {}
    return (
        cursor
        if run_id is not None and cursor.get("run_id") == run_id
        else {"run_id": run_id, "metrics": 0, "events": 0}
    )


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(tree))
    temporary.replace(path)
