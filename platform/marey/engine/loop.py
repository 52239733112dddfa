"""The training loop: restore; for each step: feed, step, check, tick, tell, save when due."""

import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed

from marey.clips.loader import FeedOrder
from marey.engine import checkpoint
from marey.engine.checkpoint import CheckpointConfig, Saved
from marey.engine.evaluate import Feed, evaluate, per_source
from marey.engine.events import (
    Asked,
    Clock,
    Ended,
    Evaluated,
    Event,
    Hook,
    Saving,
    Started,
    Stepped,
    Stop,
    Stopped,
    emit,
    nobody_asks,
)
from marey.engine.keeper import Keeper
from marey.engine.optim import Schedule
from marey.engine.strategy import StepResult, Strategy
from marey.errors import TrainingError

MOST_IDS = 64  # clip ids in a message


@dataclass(frozen=True)
class Validation:
    """What is evaluated while training, and how often."""

    order: FeedOrder
    """With an `EvaluationPlan`."""
    every: int
    """Steps from one validation to the next; the last step always has one."""


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
    validation: Validation | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint should say of where it comes from."""
    asked: Asked = nobody_asks
    """Whether to stop after this step, and why; workers need not agree, the highest answer counts."""


def fit(job: Fit, strategy: Strategy, hooks: Sequence[Hook]) -> Clock:
    """Train until ``total_steps``, from the newest whole checkpoint if there is one. Collective.

    Asked to stop, it saves the step it is at, emits `Stopped` and returns.

    Raises `TrainingError` at a loss or gradient that is not finite, before anything of that step is saved.
    """
    saved = _restore(job, strategy)
    clock = Clock(saved.step if saved else 0, job.total_steps, job.order.batch, job.order.plan.epoch_length)
    keeper = Keeper(job.directory, job.checkpoint, strategy, saved)
    emit(hooks, Started(clock, saved.step if saved else None, strategy, keeper.best))
    accumulation = job.order.batch // strategy.world // job.order.micro_batch
    feed = job.feed(job.order, clock.step, job.total_steps, strategy.rank, strategy.world)
    with closing(keeper), closing(feed) as batches:
        while not clock.done:
            began = time.perf_counter()
            micro_batches = [next(batches) for _ in range(accumulation)]
            waited = time.perf_counter() - began
            lr = job.schedule.lr(clock.step)
            result = strategy.step(micro_batches, lr)
            _check_finite(job, clock, result)
            clock = clock.tick()
            seconds = time.perf_counter() - began
            decode = sum(batch.decode_seconds for batch in micro_batches)
            told = strategy.gather([waited, decode, keeper.landed(), keeper.overdue(), job.asked()])
            waits, decodes, landed, overdue, asked = (list(column) for column in zip(*told, strict=True))
            emit(hooks, _stepped(clock, result, lr, seconds, (max(waits), sum(decodes)), strategy))
            keeper.stepped(result.loss)
            _emit_all(hooks, keeper.finish(wait=False) if any(landed) else [])
            if job.validation is not None and (clock.done or clock.step % job.validation.every == 0):
                evaluated = _validate(job, strategy, clock, keeper)
                emit(hooks, evaluated)
            if clock.done or keeper.due(clock) or any(overdue) or any(asked):
                emit(hooks, Saving(clock))
                _emit_all(hooks, keeper.save(clock, _facts(job, clock)))
            if any(asked):
                break
        _emit_all(hooks, keeper.finish())
    emit(hooks, Ended(clock) if clock.done else Stopped(clock, Stop(int(max(asked)))))
    return clock


def _emit_all(hooks: Sequence[Hook], events: Sequence[Event]) -> None:
    for event in events:
        emit(hooks, event)


def _stepped(
    clock: Clock, result: StepResult, lr: float, seconds: float, data: tuple[float, float], strategy: Strategy
) -> Stepped:
    """``data``: seconds that the slowest worker waited for it, and processor seconds that decoded it."""
    return Stepped(clock, result.loss, result.metrics, lr, result.grad_norm, seconds, *data, strategy)


def _validate(job: Fit, strategy: Strategy, clock: Clock, keeper: Keeper) -> Evaluated:
    """Score the validation rows; rank 0 computes the metrics and tells them to the others."""
    assert job.validation is not None
    began = time.perf_counter()
    order = job.validation.order
    with strategy.averaged():
        found = evaluate(strategy, order, job.feed)
    scores = per_source(order.table, found) if found is not None else None
    metrics = strategy.shared(scores.summary() if scores is not None else {})
    keeper.evaluated(clock, metrics)
    return Evaluated(clock, metrics, dict(keeper.best), scores, time.perf_counter() - began)


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


def _facts(job: Fit, clock: Clock) -> dict[str, Any]:
    """What a checkpoint holds beside weights and moments."""
    return {
        "step": clock.step,
        "epoch": clock.epoch,
        "samples": clock.samples,
        "seed": job.order.plan.seed,
        "batch": clock.batch,
        "schedule": vars(job.schedule),
        "lineage": json.loads(json.dumps(job.lineage, default=str)),
    }
