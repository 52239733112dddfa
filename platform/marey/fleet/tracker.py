"""One tracker for a run, on the driver's node, whichever node rank 0 is on."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import ray

from marey.fleet.cluster import beside_driver
from marey.tracking.base import EndStatus, RunDescription, Tracker


class _Keeper:
    """The actor's body: calls arrive in the order in which they were made."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def start(self, run: RunDescription) -> None:
        self.tracker.start(run)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.tracker.metrics(step, values)

    def picture(self, step: int, key: str, image: np.ndarray) -> None:
        self.tracker.picture(step, key, image)

    def flush(self) -> None:
        self.tracker.flush()

    def end(self, status: EndStatus, message: str) -> None:
        self.tracker.end(status, message)


class RemoteTracker:
    """A `Tracker` whose work is done in an actor beside the driver; picklable, so that workers can hold it."""

    def __init__(self, tracker: Tracker) -> None:
        self.actor: Any = beside_driver(_Keeper, tracker)

    def start(self, run: RunDescription) -> None:
        """See `Tracker.start`; waits, so that a store that cannot be opened is known before training."""
        started = self.actor.start.remote(run)
        import_module("ray.train.torch")  # meanwhile: the driver needs it next, and each takes seconds
        ray.get(started)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.metrics`; does not wait."""
        self.actor.metrics.remote(step, dict(values))

    def picture(self, step: int, key: str, image: np.ndarray) -> None:
        """See `Tracker.picture`; does not wait."""
        self.actor.picture.remote(step, key, image)

    def flush(self) -> None:
        """See `Tracker.flush`; all calls made from here before have then been handled."""
        ray.get(self.actor.flush.remote())

    def end(self, status: EndStatus, message: str = "") -> None:
        """See `Tracker.end`; waits until all is written."""
        ray.get(self.actor.end.remote(status, message))
