"""What happens in a run, as immutable events, and the hooks that listen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from marey.engine.evaluate import Scores
from marey.engine.strategy import Strategy


@dataclass(frozen=True)
class Clock:
    """How far a run has come. Advanced by `tick` only; a checkpoint holds it."""

    step: int
    """Optimiser steps done, those included whose batch was left out."""
    total_steps: int
    """Steps of the whole run."""
    batch: int
    """Global batch."""
    epoch_length: int
    """Samples in an epoch."""

    @property
    def samples(self) -> int:
        """Samples seen."""
        return self.step * self.batch

    @property
    def epoch(self) -> float:
        """Epochs seen, with their fraction."""
        return self.samples / self.epoch_length

    @property
    def done(self) -> bool:
        """Whether the last step is done."""
        return self.step >= self.total_steps

    def tick(self) -> "Clock":
        """One step later."""
        return Clock(self.step + 1, self.total_steps, self.batch, self.epoch_length)


class Stop(IntEnum):
    """Why a run should end now; of several reasons the highest counts."""

    GO_ON = 0
    RESIZE = 1
    """There is room for more workers: they start again, as many."""
    PREEMPTION = 2
    """A worker's machine is taken away: the others go on."""
    CTRL_C = 3
    SIGTERM = 4

    @property
    def is_final(self) -> bool:
        """Whether the run ends, rather than goes on with other workers."""
        return self >= Stop.CTRL_C

    def __str__(self) -> str:
        return ("go on", "room for more workers", "preemption", "Ctrl-C", "SIGTERM")[self]


Asked = Callable[[], Stop]
"""Asked once a step on every worker; answers at once."""


def nobody_asks() -> Stop:
    """For a run that nobody stops."""
    return Stop.GO_ON


@dataclass(frozen=True)
class Started:
    """Before the first step, after a checkpoint was taken up (``resumed_from``: its step)."""

    clock: Clock
    resumed_from: int | None
    strategy: Strategy
    best: dict[str, float] = field(default_factory=dict)
    """Of each metric the best so far, where a checkpoint was taken up."""


@dataclass(frozen=True)
class Stepped:
    """After an optimiser step."""

    clock: Clock
    loss: float
    """Mean over the global batch."""
    metrics: dict[str, float]
    lr: float
    grad_norm: float
    """Before clipping."""
    seconds: float
    """Wall time of the step, waiting for data included."""
    data_seconds: float
    """Of these, waiting for data (the slowest worker's)."""
    decode_seconds: float
    """Processor time that decoding its clips took, of all workers."""
    strategy: Strategy


@dataclass(frozen=True)
class LeftOut:
    """Instead of `Stepped`: after a step whose batch was left out, with weights and moments as they were."""

    clock: Clock
    count: int
    """Steps left out so far."""
    reason: str
    """Its numbers and clips; that it was decided before, where a run comes to it again."""


@dataclass(frozen=True)
class GoingBack:
    """At a bad step, before the newest checkpoint is taken up again, which `Started` then tells."""

    clock: Clock
    """Before the step."""
    reason: str
    """Its numbers and clips."""


@dataclass(frozen=True)
class Evaluated:
    """After a validation."""

    clock: Clock
    metrics: dict[str, float]
    """The same on every worker."""
    best: dict[str, float]
    """Of each metric the best so far (the lowest loss, the highest of all others)."""
    scores: Scores | None
    """On rank 0: what the metrics are of."""
    seconds: float


@dataclass(frozen=True)
class Saving:
    """Before the state is copied for a checkpoint."""

    clock: Clock


@dataclass(frozen=True)
class CheckpointWritten:
    """After a checkpoint was committed, which may be some steps after it was begun."""

    clock: Clock
    """When it was begun."""
    path: Path
    seconds: float
    """Of writing it; on rank 0."""
    stall: float
    """Of these and of copying the state, seconds that training waited."""
    last: dict[str, float] = field(default_factory=dict)
    """Of each metric the last; of the training loss its mean since the checkpoint before."""
    best: dict[str, float] = field(default_factory=dict)
    """Of each metric the best."""


@dataclass(frozen=True)
class CheckpointFailed:
    """After a checkpoint could not be written, retries included; training goes on."""

    clock: Clock
    """When it was begun."""
    path: Path
    problem: str
    """What the storage said."""
    stall: float
    """Seconds that training waited."""


@dataclass(frozen=True)
class Ended:
    """After the last step and its checkpoint."""

    clock: Clock


@dataclass(frozen=True)
class Stopped:
    """Instead of `Ended`: stopped before the last step, of which the checkpoint is written."""

    clock: Clock
    reason: Stop


Event = (
    Started
    | Stepped
    | LeftOut
    | GoingBack
    | Evaluated
    | Saving
    | CheckpointWritten
    | CheckpointFailed
    | Ended
    | Stopped
)


class Hook(Protocol):
    """Listens to a run. Every worker has the same hooks, so that a hook may make collective calls."""

    def on(self, event: Event) -> None:
        """Called in order, from the training thread."""


def emit(hooks: Sequence[Hook], event: Event) -> None:
    """Hand ``event`` to every hook."""
    for hook in hooks:
        hook.on(event)
