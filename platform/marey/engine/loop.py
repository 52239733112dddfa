"""The training loop: restore; for each step: feed, step, check, tick, tell, save when due."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed

from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder
from marey.engine import checkpoint
from marey.engine.checkpoint import CheckpointConfig, Saved
from marey.engine.events import CheckpointWritten, Clock, Ended, Hook, Saving, Started, Stepped, emit
from marey.engine.optim import Schedule
from marey.engine.strategy import StepResult, Strategy
from marey.errors import TrainingError

Feed = Callable[[FeedOrder, int, int, int, int], Iterator[Batch]]
MOST_IDS = 64  # clip ids in a message


@dataclass(frozen=True)
class Fit:
    """Everything that one run of the loop needs; equal on every worker."""

    order: FeedOrder
    feed: Feed
    schedule: Schedule
    directory: Path
    """Where checkpoints go."""
    checkpoint: CheckpointConfig
    total_steps: int
    lineage: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint should say of where it comes from."""


def fit(job: Fit, strategy: Strategy, hooks: Sequence[Hook]) -> Clock:
    """Train until ``total_steps``, from the newest whole checkpoint if there is one. Collective.

    Raises `TrainingError` at a loss or gradient that is not finite, before anything of that step is saved.
    """
    saved = _restore(job, strategy)
    clock = Clock(saved.step if saved else 0, job.total_steps, job.order.batch, job.order.plan.epoch_length)
    keeper = _Keeper(job, strategy, saved)
    emit(hooks, Started(clock, saved.step if saved else None, strategy))
    batches = job.feed(job.order, clock.step, job.total_steps, strategy.rank, strategy.world)
    accumulation = job.order.batch // strategy.world // job.order.micro_batch
    while not clock.done:
        began = time.perf_counter()
        micro_batches = [next(batches) for _ in range(accumulation)]
        waited = time.perf_counter() - began
        lr = job.schedule.lr(clock.step)
        result = strategy.step(micro_batches, lr)
        _check_finite(job, clock, result)
        clock = clock.tick()
        seconds = time.perf_counter() - began
        waited = max(row[0] for row in strategy.gather([waited]))
        emit(hooks, Stepped(clock, result.loss, result.metrics, lr, result.grad_norm, seconds, waited, strategy))
        keeper.seen(result.loss)
        if clock.done or clock.step % job.checkpoint.every == 0:
            emit(hooks, Saving(clock))
            emit(hooks, keeper.save(clock))
    emit(hooks, Ended(clock))
    return clock


def _restore(job: Fit, strategy: Strategy) -> Saved | None:
    """Load the newest whole checkpoint; rank 0 looks first, alone, because looking may set a damaged one aside."""
    if strategy.rank == 0:
        checkpoint.newest(job.directory)
    if strategy.world > 1:
        distributed.barrier()
    saved = checkpoint.newest(job.directory)
    if saved is not None:
        strategy.load(checkpoint.read(saved))
    return saved


def _check_finite(job: Fit, clock: Clock, result: StepResult) -> None:
    """Stop before a poisoned state is saved; every worker sees the same numbers and so decides alike."""
    if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
        return
    world = len(result.losses)
    at_fault = [rank for rank, loss in enumerate(result.losses) if not math.isfinite(loss)] or range(world)
    samples = [one for rank in at_fault for one in job.order.plan.slice(clock.step, job.order.batch, rank, world)]
    sources, starts = (job.order.table.column(name) for name in ("source_id", "start_s"))
    ids = list(dict.fromkeys(f"{sources[one.row]}@{starts[one.row]:.3f}" for one in samples))
    listed = ", ".join(ids[:MOST_IDS]) + (f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else "")
    raise TrainingError(
        f"step {clock.step + 1}: loss {result.loss}, gradient norm {result.grad_norm}, learning rate "
        f"{job.schedule.lr(clock.step):.3g}; training stops and keeps the checkpoint before. Clips of the batch: "
        f"{listed}. A lower optim.base_lr or optim.clip_grad=1.0 may help"
    )


class _Keeper:
    """Saves, remembers the best, and deletes what need not be kept."""

    def __init__(self, job: Fit, strategy: Strategy, saved: Saved | None) -> None:
        self.job = job
        self.strategy = strategy
        self.losses: list[float] = []
        state = saved.state if saved else {}
        self.best_step: int | None = state.get("best_step")
        best = state.get("best_loss")
        self.best_loss: float = math.inf if best is None else best

    def seen(self, loss: float) -> None:
        """Take note of a step's loss."""
        self.losses.append(loss)

    def save(self, clock: Clock) -> CheckpointWritten:
        """Collect the state from all workers and let rank 0 write it; returns when it is committed."""
        began = time.perf_counter()
        mean = sum(self.losses) / max(1, len(self.losses))
        self.losses = []
        if self.job.checkpoint.keep_best == "loss" and mean < self.best_loss:
            self.best_step, self.best_loss = clock.step, mean
        state = self.strategy.state()
        path = self.job.directory / f"{clock.step:012d}"
        if self.strategy.rank == 0:
            checkpoint.save(self.job.directory, state, self._facts(clock, mean))
            checkpoint.prune(self.job.directory, self.job.checkpoint, self.best_step)
        if self.strategy.world > 1:
            distributed.barrier()
        return CheckpointWritten(clock, path, time.perf_counter() - began)

    def _facts(self, clock: Clock, mean: float) -> dict[str, Any]:
        plan = self.job.order.plan
        return {
            "step": clock.step,
            "epoch": clock.epoch,
            "samples": clock.samples,
            "seed": plan.seed,
            "batch": clock.batch,
            "mean_loss": mean,
            "best_step": self.best_step,
            "best_loss": self.best_loss if self.best_step is not None else None,
            "schedule": vars(self.job.schedule),
            "lineage": json.loads(json.dumps(self.job.lineage, default=str)),
        }
