"""Which checkpoints a run writes and keeps: the newest ones, and the best by what `CheckpointConfig.keep_best` says."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import distributed

from marey.engine import checkpoint
from marey.engine.checkpoint import CheckpointConfig, Saved
from marey.engine.events import CheckpointWritten, Clock
from marey.engine.strategy import Strategy
from marey.engine.train_state import TrainState


class Keeper:
    """Saves, remembers the best, and deletes what need not be kept. Every worker has one, in the same state."""

    def __init__(self, directory: Path, config: CheckpointConfig, strategy: Strategy, saved: Saved | None) -> None:
        self.directory = directory
        self.config = config
        self.strategy = strategy
        self.losses: list[float] = []
        state = saved.state if saved else {}
        self.best: dict[str, float] = dict(state.get("best", {}))
        """Of each metric of a validation, and of the mean training loss between checkpoints, the best so far."""
        self.last: dict[str, float] = dict(state.get("last", {}))
        """Of each metric the last."""
        self.best_step: int | None = state.get("best_step")
        self._improved = False
        self._saved_at = time.monotonic()
        self._holder = checkpoint.take_over(directory) if strategy.rank == 0 else None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[float] | None = None
        self._begun: CheckpointWritten | None = None

    def stepped(self, loss: float) -> None:
        """Take note of a step's loss."""
        self.losses.append(loss)

    def evaluated(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Take note of a validation."""
        for name, value in metrics.items():
            better = self._note(f"validation/{name}", value, lower=name == "loss")
            if better and name == self.config.keep_best:
                self.best_step, self._improved = clock.step, True

    def overdue(self) -> bool:
        """Whether so much time has passed that a save is due; told by rank 0 alone."""
        minutes = self.config.minutes
        return self.strategy.rank == 0 and minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    def due(self, clock: Clock) -> bool:
        """Whether this step is saved: by the clock, or because it is the best."""
        return self._improved or clock.step % self.config.every == 0

    def save(self, clock: Clock, facts: Mapping[str, Any]) -> list[CheckpointWritten]:
        """Copy the state of all workers, and let rank 0 write it while training goes on. Collective.

        Returns the checkpoints that are written by now: the one before, which is waited for if it is not, or with
        ``wait`` this one.
        """
        began = time.perf_counter()
        written = self.finish()
        # Where every step since was left out, the mean before stands.
        mean = sum(self.losses) / len(self.losses) if self.losses else self.last.get("loss")
        self.losses, self._improved, self._saved_at = [], False, time.monotonic()
        if mean is not None and self._note("loss", mean, lower=True) and self.config.keep_best == "loss":
            self.best_step = clock.step
        state = self.strategy.state()
        known = {} if mean is None else {"mean_loss": mean}
        told = {**known, "best_step": self.best_step, "best": dict(self.best), "last": dict(self.last)}
        if self.strategy.rank == 0:
            self._writing = self._writer.submit(self._write, state, {**facts, **told})
        path = self.directory / f"{clock.step:012d}"
        stall = time.perf_counter() - began
        self._begun = CheckpointWritten(clock, path, 0.0, stall, dict(self.last), dict(self.best))
        return [*written, *(self.finish() if self.config.wait else [])]

    def landed(self) -> bool:
        """Whether a checkpoint that was begun is written, well or not; told by rank 0 alone."""
        return self._writing is not None and self._writing.done()

    def finish(self, wait: bool = True) -> list[CheckpointWritten]:
        """The checkpoint that was begun, once it is written, if there is one. Collective.

        ``wait=False``: every worker knows already that it is (`landed`). Raises on rank 0 what writing it raised.
        """
        if self._begun is None:
            return []
        event, self._begun = self._begun, None
        began = time.perf_counter()
        if self._writing is not None:
            writing, self._writing = self._writing, None
            event = replace(event, seconds=writing.result())
        if wait and self.strategy.world > 1:
            distributed.barrier()
        return [replace(event, stall=event.stall + time.perf_counter() - began)]

    def close(self) -> None:
        """Wait for what is being written, however the run ends: it counts, if it comes out whole."""
        self._writer.shutdown()

    def _write(self, state: TrainState, facts: Mapping[str, Any]) -> float:
        """In the writer's thread: write and delete what need not be kept; the seconds that took."""
        began = time.perf_counter()
        checkpoint.save(self.directory, state, facts, self._holder)
        checkpoint.prune(self.directory, self.config, facts["best_step"])
        return time.perf_counter() - began

    def _note(self, name: str, value: float, lower: bool) -> bool:
        """Remember ``value`` if it is better than all before; whether it is."""
        self.last[name] = value
        if not math.isfinite(value):
            return False
        before = self.best.get(name)
        better = before is None or (value < before if lower else value > before)
        if better:
            self.best[name] = value
        return better
