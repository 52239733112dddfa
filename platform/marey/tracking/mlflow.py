"""A run in MLflow: its curves, pictures, settings and true end status, without training ever waiting for a server.

    JsonlTracker  --metrics.jsonl, events.jsonl-->  a thread  --batches-->  MLflow

`MlflowTracker` follows the files that `JsonlTracker` writes into the run's folder; the two are used together:

    Trackers(JsonlTracker(), MlflowTracker(config, results))
"""

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import field_validator

from marey.config import Config
from marey.errors import ConfigError, RunError
from marey.tracking.base import EndStatus, RunDescription
from marey.tracking.delivery import Delivery, left, read_place
from marey.tracking.journal import EVENTS, METRICS
from marey.tracking.store import check_uri, connect, hide_secrets, short_patience, store_uri

# The first use of a new store takes seconds (MLflow migrates it from its first version on).
OPEN_SECONDS = 30.0
END_SECONDS = 30.0
SEND_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class TrackingConfig(Config):
    """Where a run can be looked at and compared."""

    uri: str | None = None
    """MLflow's store: an http(s) server or a database. None: MLFLOW_TRACKING_URI, else SQLite under ``results``."""
    experiment: str = "marey"
    """MLflow's experiment: runs in one are listed and compared together."""

    @field_validator("uri")
    @classmethod
    def _usable(cls, uri: str | None) -> str | None:
        return uri if uri is None else check_uri(uri)


class MlflowTracker:
    """Delivers the record of a run to MLflow from a thread of its own; over all restarts it is one MLflow run."""

    def __init__(self, config: TrackingConfig, results: Path) -> None:
        self.config = config
        self.results = results

    def start(self, run: RunDescription) -> None:
        """Open the run in MLflow, waiting up to 30 s; a server that does not answer is tried again later.

        Raises `ConfigError` for a store or experiment that cannot be used.
        """
        assert (run.directory / EVENTS).exists(), "a JsonlTracker has to be started first: its files are what is sent"
        uri = store_uri(self.config.uri, self.results)
        self._directory = run.directory
        self._where = hide_secrets(uri)
        self._delivery = Delivery(run.directory, uri, self.config.experiment, self.results / "mlartifacts")
        self._refusal: ConfigError | None = None
        self._opened, self._wake = threading.Event(), threading.Event()
        self._ending = self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="marey-mlflow", daemon=True)
        self._thread.start()
        self._opened.wait(OPEN_SECONDS)
        if self._refusal is not None:
            raise self._refusal

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing to do: the thread reads the numbers where `JsonlTracker` has put them."""

    def picture(self, step: int, key: str, image: np.ndarray) -> None:
        """Nothing to do; see `metrics`."""

    def flush(self) -> None:
        """Nothing to do: what is in the files arrives, sooner or later."""

    def end(self, status: EndStatus, message: str = "") -> None:
        """Wait up to 30 s until MLflow has everything; what it has not by then stays in the run's folder."""
        self._ending = True
        self._wake.set()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            self._abandoned = True
            print(_undelivered(self._directory, self._where), file=sys.stderr, flush=True)

    def _work(self) -> None:
        with short_patience():
            failures = 0
            while not self._abandoned:
                try:
                    if self._deliver():
                        return
                    failures = 0
                    self._pause(SEND_SECONDS)
                except ConfigError as error:
                    self._refusal = error
                    self._opened.set()
                    return
                except Exception as error:  # whatever a server does: training goes on, and we come back
                    failures += 1
                    self._say_failure(error, failures)
                    self._opened.set()
                    self._pause(min(2.0**failures, LONGEST_PAUSE_SECONDS))

    def _deliver(self) -> bool:
        """Send all there is; True if the run has ended and MLflow has everything."""
        ending = self._ending  # read before sending: what is recorded before the end is sent before we stop
        if not self._delivery.is_open:
            self._delivery.open()
        while self._delivery.send():
            if self._abandoned:
                return True
            self._beat()
        self._beat()
        if not self._opened.is_set():
            self._opened.set()
            self._delivery.repair_stale()
        return ending

    def _beat(self) -> None:
        if not self._ending:
            self._delivery.beat()

    def _pause(self, seconds: float) -> None:
        if self._ending:
            time.sleep(min(seconds, SEND_SECONDS))
        else:
            self._wake.wait(seconds)

    def _say_failure(self, error: Exception, failures: int) -> None:
        if failures == 1:
            reason = hide_secrets(str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error))
            print(
                f"MLflow at {self._where} does not take the run's record ({reason}). Training goes on; "
                f"everything is kept in {self._directory / METRICS} and sent when MLflow is back.",
                file=sys.stderr,
                flush=True,
            )


def deliver(directory: Path, config: TrackingConfig | None = None) -> int:
    """Send MLflow what it has not yet of the run in ``directory``; returns how many points and pictures that were.

    Where to: as ``config`` says, else where the run was sent before. Raises `RunError` if that is unknown, and what
    MLflow raises if it does not answer.
    """
    place = read_place(directory)
    if place is None:
        raise RunError(f"{directory}: no run that was ever tracked by MLflow; give the folder of a run")
    if config is None and "://***@" in place.uri:
        raise RunError(f"{directory}: the password of {place.uri} is not kept; give config=TrackingConfig(uri=...)")
    artifacts = Path(place.artifacts)
    uri = store_uri(config.uri, artifacts.parent) if config is not None else place.uri
    delivery = Delivery(directory, uri, config.experiment if config is not None else place.experiment, artifacts)
    with short_patience():
        delivery.open()
        count = left(directory)
        while delivery.send():
            pass
        delivery.repair_stale()
    return count


def attach(directory: Path, config: TrackingConfig, results: Path, file: Path) -> None:
    """Put ``file`` beside the run in ``directory``, which has been tracked. Raises what MLflow raises."""
    place = read_place(directory)
    assert place is not None, "a run that was tracked has its place"
    with short_patience():
        connect(store_uri(config.uri, results)).log_artifact(place.run_id, str(file))


def _undelivered(directory: Path, where: str) -> str:
    return (
        f"MLflow at {where} has not taken everything: {left(directory)} points and pictures are left in "
        f"{directory / METRICS}. They are sent when the run is resumed, or by: "
        f"python -c 'from pathlib import Path; from marey.tracking.mlflow import deliver; "
        f'deliver(Path("{directory}"))\''
    )
