"""From settings to a running loop: what a worker does, with or without Ray."""

from pathlib import Path
from typing import Any

import torch
from torch import distributed

from marey.clips.loader import FeedOrder
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan
from marey.clips.table import ClipTable
from marey.engine import strategy
from marey.engine.events import Clock, Hook
from marey.engine.hooks import Pictures, Progress, Tracking
from marey.engine.loop import Feed, Fit, fit
from marey.engine.optim import schedule
from marey.experiment.training import Training
from marey.tracking.base import Tracker


def feed_order(training: Training, table: ClipTable, world: int) -> FeedOrder:
    """What the run feeds, checked against the table; raises `ClipError` if the table does not fit."""
    backbone = training.backbone
    pipeline = Pipeline(backbone.frames, backbone.crop, training.clips, training.augment)
    pipeline.check(table)
    plan = Plan(len(table), training.seed, training.repeats)
    return FeedOrder(table, plan, pipeline, training.batch, training.micro_batch(world))


def fit_of(training: Training, order: FeedOrder, directory: Path, feed: Feed) -> Fit:
    """The loop's job."""
    steps = order.plan.num_steps(training.epochs, training.batch)
    return Fit(
        order=order,
        feed=feed,
        schedule=schedule(training.optim, training.batch, steps, order.plan.epoch_length / training.batch),
        directory=directory / "checkpoints",
        checkpoint=training.checkpoint,
        total_steps=steps,
        lineage=lineage(training, order.table),
    )


def lineage(training: Training, table: ClipTable) -> dict[str, Any]:
    """What a checkpoint says of where it comes from."""
    from marey.config import to_tree
    from marey.experiment.revision import revision

    return {"settings": to_tree(training), "table_fingerprint": table.fingerprint, **revision()}


def train(training: Training, table: ClipTable, directory: Path, feed: Feed, tracker: Tracker | None) -> Clock:
    """Run one worker to the end. ``tracker``: rank 0's, None elsewhere. Collective over torch's process group."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    order = feed_order(training, table, world)
    torch.manual_seed(training.seed)  # the same initial weights on every worker
    recipe = training.recipe.build(training.backbone)
    accumulation = training.batch // world // order.micro_batch
    chosen = strategy.build(recipe, training.optim, training.engine, strategy.device_of(training.engine), accumulation)
    hooks: list[Hook] = [
        Progress(training.log, rank),
        Tracking(tracker, training.log),
        Pictures(tracker, training.log, order),
    ]
    return fit(fit_of(training, order, directory, feed), chosen, hooks)
