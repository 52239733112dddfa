"""Hooks of every run: progress on the console, numbers to a tracker."""

import resource
import sys
import time
from pathlib import Path

import torch
from pydantic import Field

from marey.config import Config
from marey.engine.events import (
    CheckpointFailed,
    CheckpointWritten,
    Clock,
    Ended,
    Evaluated,
    Event,
    GoingBack,
    LeftOut,
    Saving,
    Started,
    Stepped,
    Stopped,
)
from marey.tracking.base import Tracker


class LogConfig(Config):
    """What is reported, and how often."""

    every: int = Field(10, gt=0)
    """Steps between two lines of progress."""
    metrics_every: int = Field(1, gt=0)
    """Steps between two points of the tracked curves."""
    pictures_every: int = Field(200, gt=0)
    """Steps between two pictures; the first and the last step always give one."""


class Progress:
    """Lines of progress from rank 0: step, epoch, loss, clips a second, time left."""

    def __init__(self, config: LogConfig, rank: int) -> None:
        self.config = config
        self.rank = rank
        self.began = time.monotonic()
        self.first_step = 0

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        if self.rank != 0:
            return
        if isinstance(event, Started):
            self.began, self.first_step = time.monotonic(), event.clock.step
            if event.resumed_from is not None:
                _say(f"resumed from the checkpoint of step {event.resumed_from}")
        elif isinstance(event, Stepped) and self._due(event):
            _say(self._line(event))
        elif isinstance(event, LeftOut):
            _say(f"step {event.clock.step}/{event.clock.total_steps} left out, {event.count} so far: {event.reason}")
        elif isinstance(event, GoingBack):
            _say(f"step {event.clock.step + 1}: going back to the newest checkpoint: {event.reason}")
        elif isinstance(event, Evaluated):
            shown = "  ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            _say(f"validation at step {event.clock.step}  {shown}  ({event.seconds:.1f} s)")
        elif isinstance(event, CheckpointWritten):
            _say(f"checkpoint {event.path} ({event.seconds:.1f} s, of which training waited {event.stall:.2f} s)")
        elif isinstance(event, CheckpointFailed):
            _say(f"{event.problem}; training goes on without it")
        elif isinstance(event, Ended):
            _say(f"done: {event.clock.step} steps, {event.clock.epoch:.2f} epochs")
        elif isinstance(event, Stopped):
            _say(f"stopped at step {event.clock.step}, which is saved: {event.reason}")

    def _due(self, event: Stepped) -> bool:
        clock = event.clock
        return clock.done or clock.step % self.config.every == 0 or clock.step == self.first_step + 1

    def _line(self, event: Stepped) -> str:
        clock = event.clock
        return (
            f"step {clock.step}/{clock.total_steps}  epoch {clock.epoch:.2f}  loss {event.loss:.4f}  "
            f"lr {event.lr:.2e}  grad {event.grad_norm:.3f}  {clock.batch / event.seconds:.1f} clips/s  "
            f"data {100 * event.data_seconds / event.seconds:.0f} %  left {self._left(clock)}"
        )

    def _left(self, clock: Clock) -> str:
        """Time left at the pace since the first step, which itself pays for the start of everything."""
        if clock.step == self.first_step + 1:
            self.began = time.monotonic()
            return "?"
        pace = (time.monotonic() - self.began) / (clock.step - self.first_step - 1)
        return _clock(pace * (clock.total_steps - clock.step))


class Tracking:
    """Numbers from rank 0 to a tracker, under the names that the curves have."""

    def __init__(self, tracker: Tracker | None, config: LogConfig) -> None:
        self.tracker = tracker
        self.config = config
        self.cost = 0.0
        """Seconds that the last point took from training."""

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        if self.tracker is None:
            return
        if isinstance(event, Stepped) and (event.clock.done or event.clock.step % self.config.metrics_every == 0):
            began = time.perf_counter()
            self.tracker.metrics(event.clock.step, {**_numbers(event), "speed/tracking_ms": 1000 * self.cost})
            self.cost = time.perf_counter() - began
        elif isinstance(event, LeftOut):
            self.tracker.metrics(event.clock.step, {"train/skipped": float(event.count)})
        elif isinstance(event, Evaluated):
            self.tracker.metrics(event.clock.step, _judgement(event))
        elif isinstance(event, Saving):
            self.tracker.flush()  # a run that resumes from this checkpoint must not miss a step before it
        elif isinstance(event, CheckpointWritten):
            self.tracker.metrics(event.clock.step, _cost(event))
        elif isinstance(event, CheckpointFailed):
            self.tracker.metrics(event.clock.step, {"system/checkpoint_failed": 1.0})


def _cost(event: CheckpointWritten) -> dict[str, float]:
    return {"system/checkpoint_seconds": event.seconds, "system/checkpoint_stall_seconds": event.stall}


def _numbers(event: Stepped) -> dict[str, float]:
    return {
        "train/loss": event.loss,
        "train/lr": event.lr,
        "train/grad_norm": event.grad_norm,
        "train/epoch": event.clock.epoch,
        **{f"train/{name}": value for name, value in event.metrics.items()},
        "speed/clips_per_second": event.clock.batch / event.seconds,
        "speed/data_wait_share": event.data_seconds / event.seconds,
        "speed/decode_ms_per_clip": 1000 * event.decode_seconds / event.clock.batch,
        **_memory(),
    }


def _judgement(event: Evaluated) -> dict[str, float]:
    found = {f"validation/{name}": value for name, value in event.metrics.items()}
    best = {f"best/{name}": event.best[name] for name in found if name in event.best}
    return found | {name.replace("best/validation/", "best/"): value for name, value in best.items()}


def _memory() -> dict[str, float]:
    """Resident memory of this process in GiB, and the GPU's peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    numbers = {"system/memory_gib": pages * resource.getpagesize() / 2**30}
    if torch.cuda.is_available():
        numbers["system/gpu_memory_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return numbers


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
