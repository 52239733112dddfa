"""The training loop: restore; for each step: feed, compute, judge, apply, tick, tell, save when due."""

import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder
from marey.engine import checkpoint, replicas
from marey.engine.bad_steps import BadSteps, BadStepsConfig, Verdict
from marey.engine.checkpoint import Saved
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.evaluate import Feed, evaluate, per_source
from marey.engine.events import (
    Asked,
    Clock,
    Ended,
    Evaluated,
    Event,
    GoingBack,
    Hook,
    LeftOut,
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
    bad_steps: BadStepsConfig
    check_replicas: int | None = None
    """Steps from one comparison of the workers' weights to the next; the last step always has one."""
    validation: Validation | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint should say of where it comes from, beside the one before it."""
    asked: Asked = nobody_asks
    """Whether to stop after this step, and why; workers need not agree, the highest answer counts."""


def fit(job: Fit, strategy: Strategy, hooks: Sequence[Hook]) -> Clock:
    """Train until ``total_steps``, from the newest whole checkpoint if there is one. Collective.

    Asked to stop, it saves the step it is at, emits `Stopped` and returns.

    Raises `TrainingError` at a bad step (`BadStepsConfig`) that stops the run, before anything of it is saved, where
    workers that should hold the same weights do not, and where storage takes no checkpoint any more.
    """
    clock, stop = _go(job, strategy, hooks)
    while not clock.done and not stop:
        clock, stop = _go(job, strategy, hooks)
    emit(hooks, Ended(clock) if clock.done else Stopped(clock, stop))
    return clock


def _go(job: Fit, strategy: Strategy, hooks: Sequence[Hook]) -> tuple[Clock, Stop]:
    """From the newest checkpoint to the end, to a bad step at which to go back there, or to a stop; when that was."""
    saved = _restore(job, strategy)
    job = replace(job, lineage=_lineage(job, saved))
    clock = Clock(saved.step if saved else 0, job.total_steps, job.order.batch, job.order.plan.epoch_length)
    keeper = Keeper(job.directory, job.checkpoint, strategy, saved)
    bad = BadSteps(job.bad_steps, job.directory, saved.state if saved else {}, strategy.rank)
    emit(hooks, Started(clock, saved.step if saved else None, strategy, keeper.best))
    accumulation = job.order.batch // strategy.world // job.order.micro_batch
    stop = Stop.GO_ON
    feed = job.feed(job.order, clock.step, job.total_steps, strategy.rank, strategy.world)
    with closing(keeper), closing(feed) as batches:
        while not clock.done:
            began = time.perf_counter()
            micro_batches = [next(batches) for _ in range(accumulation)]
            waited = time.perf_counter() - began
            lr = job.schedule.lr(clock.step)
            outcome = _attempt(job, strategy, clock, micro_batches, lr, bad)
            if isinstance(outcome, Verdict) and outcome.action == "rollback":
                _emit_all(hooks, keeper.finish())
                if _go_back(job, strategy, clock, bad):
                    emit(hooks, GoingBack(clock, outcome.reason))
                    return clock, Stop.GO_ON
            clock = clock.tick()
            seconds = time.perf_counter() - began
            decode = sum(batch.decode_seconds for batch in micro_batches)
            told = strategy.gather([waited, decode, keeper.landed(), keeper.overdue(), job.asked()])
            waits, decodes, landed, overdue, asked = (list(column) for column in zip(*told, strict=True))
            if isinstance(outcome, StepResult):
                emit(hooks, _stepped(clock, outcome, lr, seconds, (max(waits), sum(decodes)), strategy))
                keeper.stepped(outcome.loss)
            else:
                emit(hooks, LeftOut(clock, bad.count(clock.step), outcome.reason))
            _emit_all(hooks, keeper.finish() if any(landed) else [])
            if job.check_replicas and (clock.done or clock.step % job.check_replicas == 0):
                replicas.check(strategy, clock.step)
            if job.validation is not None and (clock.done or clock.step % job.validation.every == 0):
                evaluated = _validate(job, strategy, clock, keeper)
                emit(hooks, evaluated)
            if clock.done or keeper.due(clock) or any(overdue) or any(asked):
                emit(hooks, Saving(clock))
                _emit_all(hooks, keeper.save(clock, _facts(job, clock) | bad.facts()))
            stop = Stop(int(max(asked)))
            if stop:
                break
        _emit_all(hooks, keeper.finish())
    if stop and keeper.newest != clock.step:
        raise TrainingError(f"stopped by {stop} at step {clock.step}, which could not be saved; see above")
    return clock, stop


def _attempt(
    job: Fit, strategy: Strategy, clock: Clock, micro_batches: Sequence[Batch], lr: float, bad: BadSteps
) -> StepResult | Verdict:
    """One step, unless its batch is or was judged bad: then the state is as before, and the verdict says why."""
    step = clock.step + 1
    if bad.leaves_out(step):
        return Verdict("skip", "as was decided before")
    result = strategy.compute(micro_batches)
    verdict = bad.judge(step, result)
    if verdict is None:
        strategy.apply(lr)
        return result
    rate = f"learning rate {lr:.3g}"
    clips = f"Clips of the batch: {_clips(job, clock, result)}"
    if verdict.action == "stop":
        raise TrainingError(
            f"step {step}: {verdict.reason}, {rate}; training stops and keeps the checkpoint before. {clips}. A lower "
            "optim.base_lr or optim.clip_grad=1.0 may help; settings bad_steps.… can leave such batches out"
        )
    strategy.discard()
    if verdict.action == "skip":
        bad.leave_out(step)
    return Verdict(verdict.action, f"{verdict.reason}, {rate}. {clips}")


def _go_back(job: Fit, strategy: Strategy, clock: Clock, bad: BadSteps) -> bool:
    """Leave the batch out; whether there is a checkpoint to go back to. Rank 0 looks for all. Collective."""
    known = checkpoint.steps(job.directory)
    since = int(strategy.shared({"since": int(known[-1].name) if known else -1})["since"])
    bad.leave_out(clock.step + 1, since if since >= 0 else None)
    return since >= 0


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
    """Load the newest whole checkpoint, which rank 0 alone chooses, so that all have the same."""
    found = checkpoint.newest(job.directory) if strategy.rank == 0 else None
    step = strategy.shared(found.step if found else None)
    saved = found if strategy.rank == 0 or step is None else checkpoint.verify(job.directory / f"{step:012d}")
    if saved is not None:
        strategy.load(checkpoint.read(saved))
    return saved


def _lineage(job: Fit, saved: Saved | None) -> dict[str, Any]:
    """With the checkpoint that the run goes on from; the weights that it began with are handed on."""
    if saved is None:
        return job.lineage
    begun = {key: value for key, value in saved.state.get("lineage", {}).items() if key == "init"}
    return {**job.lineage, **begun, "parent": checkpoint.reference(saved.path)}


def _clips(job: Fit, clock: Clock, result: StepResult) -> str:
    """The clips of the workers whose loss is not finite; of all, where none's is so."""
    world = len(result.losses)
    at_fault = [rank for rank, loss in enumerate(result.losses) if not math.isfinite(loss)] or range(world)
    samples = [one for rank in at_fault for one in job.order.plan.slice(clock.step, job.order.batch, rank, world)]
    sources, starts = (job.order.table.column(name) for name in ("source_id", "start_s"))
    ids = list(dict.fromkeys(f"{sources[one.row]}@{starts[one.row]:.3f}" for one in samples))
    return ", ".join(ids[:MOST_IDS]) + (f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else "")


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
