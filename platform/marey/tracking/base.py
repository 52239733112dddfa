"""What a tracker takes: the description of a run once, then metrics and pictures by step, then an end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

EndStatus = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class DatasetNote:
    """The data that a run used, as MLflow lists it."""

    name: str
    fingerprint: str
    source: str
    """Path or URI."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Figures to show with it: rows, videos ..."""


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run before its first step; the same over all its restarts but for resumable settings."""

    name: str
    """The run's name, under which it also resumes."""
    directory: Path
    """The run's own folder (absolute); metrics.jsonl, pictures/ and checkpoints/ live in it."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The resolved settings under their dotted paths."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """revision, sources_sha256, table_fingerprint, backbone, recipe, cluster ... (searchable in MLflow)."""
    dataset: DatasetNote | None = None


class Tracker(Protocol):
    """One run's record. No call but `start`, `flush` and `end` may wait for a disk or a server longer than 100 ms."""

    def start(self, run: RunDescription) -> None:
        """Open the run, or take it up again after a restart."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers at ``step``. A (step, key) that is already recorded is dropped: replayed steps count once."""

    def picture(self, step: int, key: str, image: np.ndarray) -> None:
        """Record ``image``, uint8 [H, W, 3] RGB, as ``key`` at ``step``."""

    def flush(self) -> None:
        """Return when all that was recorded is safe from the death of this process, or after ten seconds.

        Called before a checkpoint is committed: a run that resumes there has every step up to it.
        """

    def end(self, status: EndStatus, message: str = "") -> None:
        """Write what is still held back, set the end status and close."""


class Trackers:
    """Several trackers as one, called in order."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def start(self, run: RunDescription) -> None:
        """See `Tracker.start`."""
        for tracker in self.trackers:
            tracker.start(run)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        for tracker in self.trackers:
            tracker.metrics(step, values)

    def picture(self, step: int, key: str, image: np.ndarray) -> None:
        """See `Tracker.picture`."""
        for tracker in self.trackers:
            tracker.picture(step, key, image)

    def flush(self) -> None:
        """See `Tracker.flush`."""
        for tracker in self.trackers:
            tracker.flush()

    def end(self, status: EndStatus, message: str = "") -> None:
        """See `Tracker.end`."""
        for tracker in self.trackers:
            tracker.end(status, message)
