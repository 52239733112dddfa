"""Which checkpoints a run writes and keeps: the newest ones, and the best by what `CheckpointConfig.keep_best` says."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import distributed

from marey.engine import checkpoint
from marey.engine.checkpoint import CheckpointConfig, Saved
from marey.engine.events import CheckpointWritten, Clock
from marey.engine.strategy import Strategy


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

    def stepped(self, loss: float) -> None:
        """Take note of a step's loss."""
        self.losses.append(loss)

    def evaluated(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Take note of a validation."""
        for name, value in metrics.items():
            better = self._note(f"validation/{name}", value, lower=name == "loss")
            if better and name == self.config.keep_best:
                self.best_step, self._improved = clock.step, True

    def due(self, clock: Clock) -> bool:
        """Whether this step is saved: by the clock, or because it is the best."""
        return self._improved or clock.step % self.config.every == 0

    def save(self, clock: Clock, facts: Mapping[str, Any]) -> CheckpointWritten:
        """Collect the state from all workers and let rank 0 write it; returns when it is committed."""
        began = time.perf_counter()
        mean = sum(self.losses) / max(1, len(self.losses))
        self.losses, self._improved = [], False
        if self._note("loss", mean, lower=True) and self.config.keep_best == "loss":
            self.best_step = clock.step
        state = self.strategy.state()
        if self.strategy.rank == 0:
            told = {"mean_loss": mean, "best_step": self.best_step, "best": self.best, "last": self.last}
            checkpoint.save(self.directory, state, {**facts, **told})
            checkpoint.prune(self.directory, self.config, self.best_step)
        if self.strategy.world > 1:
            distributed.barrier()
        path = self.directory / f"{clock.step:012d}"
        return CheckpointWritten(clock, path, time.perf_counter() - began, dict(self.last), dict(self.best))

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
