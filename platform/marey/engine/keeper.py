"""Which checkpoints a run writes and keeps: the newest ones, and the best by what `CheckpointConfig.keep_best` says.

A save that the storage refuses is tried again while training goes on; only so many in a row end the run.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from marey.engine import checkpoint
from marey.engine.checkpoint import Saved
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.events import CheckpointFailed, CheckpointWritten, Clock
from marey.engine.object_store import copies_of
from marey.engine.strategy import Strategy
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError, TrainingError

_FIRST_PAUSE = 0.5  # seconds before a save is tried again; each further one is twice as long


class _Outcome(NamedTuple):
    """What has come of a save, as rank 0 tells it."""

    seconds: float = 0.0
    problem: str = ""
    """What went wrong."""
    for_long: bool = False
    """Whether nothing could be written for `CheckpointConfig.retry_seconds`."""
    lost: bool = False
    """Whether another process has taken the run over."""


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
        self._kept = (self.best_step, dict(self.best))  # as of the last checkpoint that was written
        self.newest = saved.step if saved else None
        """Step of the newest checkpoint that is known to be written."""
        self._failed = 0  # saves in a row
        self._failing_since: float | None = None  # on rank 0
        self._improved = False
        self._saved_at = time.monotonic()
        self._holder = checkpoint.take_over(directory) if strategy.rank == 0 else None
        self._copies = copies_of(directory, config) if strategy.rank == 0 else None
        self._from = self.newest  # what its copies go on from
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.reserved = self._writer.submit(strategy.reserve) if strategy.rank == 0 else None
        self._writing: Future[float] | None = None
        self._begun: tuple[CheckpointWritten, int | None] | None = None  # with the best step as of then
        self._hurry = threading.Event()
        """Set when there is no time left to try a save again."""

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

    def save(self, clock: Clock, facts: Mapping[str, Any]) -> list[CheckpointWritten | CheckpointFailed]:
        """Copy the state of all workers, and let rank 0 write it while training goes on. Collective.

        Returns what has come of checkpoints by now: of the one before, which is waited for if it is being written but
        not tried again any more, and with ``wait`` of this one. Raises as `finish` does.
        """
        began = time.perf_counter()
        self._hurry.set()
        ended = self.finish()
        self._hurry.clear()
        # Where every step since was left out, the mean before stands.
        mean = sum(self.losses) / len(self.losses) if self.losses else self.last.get("loss")
        self.losses, self._improved, self._saved_at = [], False, time.monotonic()
        if mean is not None and self._note("loss", mean, lower=True) and self.config.keep_best == "loss":
            self.best_step = clock.step
        if self.reserved is not None:
            self.reserved.result()
        state = self.strategy.state()
        known = {} if mean is None else {"mean_loss": mean}
        told = {**known, "best_step": self.best_step, "best": dict(self.best), "last": dict(self.last)}
        if self.strategy.rank == 0:
            self._writing = self._writer.submit(self._write, state, {**facts, **told})
        path = self.directory / f"{clock.step:012d}"
        stall = time.perf_counter() - began
        self._begun = CheckpointWritten(clock, path, 0.0, stall, dict(self.last), dict(self.best)), self.best_step
        return [*ended, *(self.finish() if self.config.wait else [])]

    def landed(self) -> bool:
        """Whether a checkpoint that was begun is written, well or not; told by rank 0 alone."""
        return self._writing is not None and self._writing.done()

    def finish(self) -> list[CheckpointWritten | CheckpointFailed]:
        """What has come of the checkpoint that was begun, once that is known, if one was. Collective.

        Raises `TrainingError` on every worker if it was one failed save too many, or the last step's, and
        `CheckpointError` if another process has taken the run over.
        """
        if self._begun is None:
            return []
        (event, best_step), self._begun = self._begun, None
        began = time.perf_counter()
        outcome = self.strategy.shared(self._outcome())
        stall = event.stall + time.perf_counter() - began
        if outcome.lost:
            raise CheckpointError(outcome.problem)
        if outcome.problem:
            failed = CheckpointFailed(event.clock, event.path, outcome.problem, stall)
            self._note_failure(failed, outcome.for_long)
            return [failed]
        self._failed, self.newest = 0, event.clock.step
        self._kept = best_step, event.best
        return [replace(event, seconds=outcome.seconds, stall=stall)]

    def close(self) -> None:
        """Wait for what is being written, however the run ends: it counts, if it comes out whole."""
        self._hurry.set()
        self._writer.shutdown()

    def _outcome(self) -> _Outcome:
        """On rank 0, of what was being written."""
        if self._writing is None:
            return _Outcome()
        writing, self._writing = self._writing, None
        try:
            return _Outcome(writing.result())
        except OSError as error:
            since = time.monotonic() - (self._failing_since or 0.0)
            return _Outcome(problem=str(error), for_long=since >= self.config.retry_seconds)
        except CheckpointError as error:
            return _Outcome(problem=str(error), lost=True)

    def _note_failure(self, failed: CheckpointFailed, for_long: bool) -> None:
        """Go back to the best one that there is; raise if training should not go on."""
        if self.best_step == failed.clock.step:
            self.best_step, best = self._kept
            metric = "loss" if self.config.keep_best == "loss" else f"validation/{self.config.keep_best}"
            del self.best[metric]
            self.best |= {name: value for name, value in best.items() if name == metric}
        self._failed += 1
        if not failed.clock.done and (self._failed < self.config.max_failed or not for_long):
            return
        why = "this was the last step" if failed.clock.done else f"{self._failed} saves in a row have failed"
        have = "anew: there is no checkpoint yet" if self.newest is None else f"from step {self.newest}"
        raise TrainingError(
            f"{failed.problem}. Training stops, because {why}; started again with its name=, the run goes on {have}"
        )

    def _write(self, state: TrainState, facts: Mapping[str, Any]) -> float:
        """In the writer's thread: write, copy, and delete what need not be kept; the seconds that took.

        Raises `OSError`. A copy that the store refuses is told, and training goes on with what is here.
        """
        began = time.perf_counter()
        self._patiently(lambda: self._refusal(state, facts))
        with suppress(OSError):  # what is kept for too long does no harm; the next one tries again
            checkpoint.prune(self.directory, self.config, facts["best_step"])
        if self._copies is not None:
            path = self.directory / f"{facts['step']:012d}"
            try:
                self._patiently(lambda: self._copy_refusal(path, facts["best_step"]))
            except OSError as error:
                print(f"{error}; {path} has no copy", flush=True)
        return time.perf_counter() - began

    def _patiently(self, attempt: Callable[[], str | None]) -> None:
        """Try until there is no problem; `OSError` with it after ``retry_seconds``, or once there is a hurry."""
        pause, waited = _FIRST_PAUSE, 0.0
        while problem := attempt():
            if waited + pause > self.config.retry_seconds or self._hurry.is_set():
                raise OSError(problem)
            print(f"{problem}; trying again in {pause:g} s", flush=True)
            self._hurry.wait(pause)
            pause, waited = 2 * pause, waited + pause

    def _copy_refusal(self, path: Path, best_step: int | None) -> str | None:
        """Put a copy; what the store said if it refused."""
        assert self._copies is not None
        try:
            if self._copies.epoch is None:
                self._copies.take_over(self._from)
            self._copies.put(path)
        except OSError as error:
            return str(error)
        kept = {int(one.name) for one in checkpoint.steps(self.directory)} | {best_step or -1}
        with suppress(OSError):  # as with those here
            self._copies.prune(kept)
        return None

    def _refusal(self, state: TrainState, facts: Mapping[str, Any]) -> str | None:
        """Write; what the storage said if it refused, and what it would have needed."""
        try:
            checkpoint.save(self.directory, state, facts, self._holder)
        except OSError as error:
            self._failing_since = self._failing_since or time.monotonic()
            needed, free = checkpoint.size_of(state) / 2**20, ""
            with suppress(OSError):
                free = f", {shutil.disk_usage(self.directory).free / 2**20:,.1f} MiB are free"
            return (
                f"{self.directory}: the checkpoint of step {facts['step']} could not be written: {error} "
                f"(it needs {needed:,.1f} MiB{free})"
            )
        self._failing_since = None
        return None

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
