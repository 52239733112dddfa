"""From settings to a running loop: what a worker does, with or without Ray."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from marey.backbones import zoo
from marey.backbones.base import BackboneConfig
from marey.clips.augment import mirrored
from marey.clips.loader import FeedOrder
from marey.clips.mapped import filled, gather
from marey.clips.pipeline import Pipeline
from marey.clips.plan import EvaluationPlan, Plan
from marey.clips.quotas import Quotas, mixed, quotas
from marey.clips.table import ClipTable
from marey.config import to_tree
from marey.engine import checkpoint, heap, strategy
from marey.engine.data_wait import DataWait
from marey.engine.evaluate import Feed
from marey.engine.events import Asked, Hook, Stopped, nobody_asks
from marey.engine.hooks import Progress, Tracking
from marey.engine.loop import Fit, Validation, fit
from marey.engine.optim import schedule
from marey.engine.pictures import Reconstructions, ValidationPictures
from marey.engine.stopping import StopNote
from marey.errors import WeightsError
from marey.experiment.training import Training
from marey.inference.opened import open_weights
from marey.recipes.base import Recipe
from marey.tracking.base import Tracker


def resolve(training: Training, table: ClipTable) -> Training:
    """Settings that follow from the table: the head has its number of classes."""
    if not training.recipe.labelled:
        return training
    backbone = training.backbone
    if backbone.classes is None:
        training.recipe.build(backbone)  # says why not, and what to choose
    return training.replace(backbone=to_tree(backbone) | {"num_classes": len(table.class_names())})


def feed_order(training: Training, table: ClipTable, world: int) -> FeedOrder:
    """What the run feeds, checked against the table; raises `ClipError` if the table does not fit."""
    backbone = training.backbone
    rows = table.split(training.split)
    if training.recipe.labelled:
        rows.check_labelled()
    augment = training.augment
    swapped = mirrored(augment, table.class_names()) if augment.flip_classes else {}
    pipeline = Pipeline(
        backbone.frames, backbone.crop, training.clips, augment, training.validation.views, mirrored=swapped
    )
    pipeline.check(rows)
    plan = Plan(len(rows), training.seed, training.repeats, _quotas(training, rows))
    return FeedOrder(rows, plan, pipeline, training.batch, training.micro_batch(world))


def _quotas(training: Training, rows: ClipTable) -> Quotas | None:
    balance, shares = training.balance, training.shares
    if balance.is_off and not shares:
        return None
    sections = filled(len(rows), np.int16, lambda part: rows.sections(np.arange(part.start, part.stop)))
    if balance.is_off:
        return mixed(sections, shares)
    rows.check_labelled()
    labels = gather((found.column("label").to_numpy() for found in rows.columns("label")), np.int32)
    names = rows.class_names()
    return mixed(sections, shares, labels, names, balance) if shares else quotas(labels, names, balance)


def total_steps(training: Training, table: ClipTable) -> int:
    """Optimiser steps of the whole run."""
    rows = len(table.split(training.split))
    return Plan(rows, training.seed, training.repeats).num_steps(training.epochs, training.batch)


def validation_of(training: Training, table: ClipTable, order: FeedOrder, world: int) -> Validation | None:
    """What is evaluated while training, if anything."""
    if training.validation.split is None:
        return None
    rows, views = table.split(training.validation.split), training.validation.views
    rows.check_labelled()
    plan = EvaluationPlan(len(rows), temporal=views.temporal, spatial=views.spatial)
    evaluated = FeedOrder(rows, plan, order.pipeline, world * order.micro_batch, order.micro_batch)
    every = max(1, round(training.validation.every * order.plan.epoch_length / training.batch))
    return Validation(evaluated, every)


def fit_of(training: Training, table: ClipTable, order: FeedOrder, directory: Path, feed: Feed, world: int) -> Fit:
    """The loop's job."""
    steps = order.plan.num_steps(training.epochs, training.batch)
    return Fit(
        order=order,
        feed=feed,
        schedule=schedule(training.optim, training.batch, steps, order.plan.epoch_length / training.batch),
        directory=directory / "checkpoints",
        checkpoint=training.checkpoint,
        bad_steps=training.bad_steps,
        check_replicas=training.engine.check_replicas,
        total_steps=steps,
        validation=validation_of(training, table, order, world),
        lineage=lineage(training, table),
    )


def lineage(training: Training, table: ClipTable) -> dict[str, Any]:
    """What a checkpoint says of where it comes from."""
    from marey.experiment.revision import revision

    classes = {"classes": table.class_names()} if training.recipe.labelled else {}
    return {"settings": to_tree(training), "table_fingerprint": table.fingerprint, **classes, **revision()}


def train(
    training: Training,
    table: ClipTable,
    directory: Path,
    feed: Feed,
    tracker: Tracker | None,
    asked: Asked = nobody_asks,
    more: Sequence[Hook] = (),
) -> Stopped | None:
    """Run one worker to the end, or until it is ``asked`` to stop; then where it stopped.

    ``tracker``: rank 0's, None elsewhere. Collective over torch's process group.
    """
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    order = feed_order(training, table, world)
    torch.manual_seed(training.seed)  # the same initial weights on every worker
    recipe = training.recipe.build(training.backbone, training.repeats)
    begun: dict[str, Any] = {}
    if training.init is not None and not checkpoint.steps(directory / "checkpoints"):
        start = _start(recipe, training, report=print if rank == 0 else None)
        begun = {"init": checkpoint.reference(start)} if rank == 0 else {}  # reads all of it; rank 0 alone saves
    accumulation = training.batch // world // order.micro_batch
    device = strategy.device_of(training.engine)
    if device.type == "cpu":
        heap.keep_freed()
    chosen = strategy.build(recipe, training.optim, training.engine, device, accumulation)
    job = fit_of(training, table, order, directory, feed, world)
    job = replace(job, lineage=job.lineage | begun, asked=asked)
    note = StopNote(directory, rank, asked)
    hooks: list[Hook] = [
        Progress(training.log, rank),
        Tracking(tracker, training.log),
        DataWait(rank, table.settings["storage"], training.fleet.decode_actors),
        *([Reconstructions(tracker, training.log, order)] if training.recipe.pictures else []),
        *([ValidationPictures(tracker, job.validation.order, table.class_names())] if job.validation else []),
        note,
        *more,
    ]
    fit(job, chosen, hooks)
    return note.stopped


def check_start(training: Training, directory: Path) -> None:
    """Whether the weights of ``training.init`` fit, before any worker is started; raises `WeightsError` if not."""
    if training.init is None or checkpoint.steps(directory / "checkpoints"):
        return
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        _start(training.recipe.build(training.backbone, training.repeats), training, report=None)


def _start(recipe: Recipe, training: Training, report: Callable[[str], None] | None) -> Path:
    """Begin with the weights of ``training.init``; where these are."""
    assert training.init is not None
    opened = open_weights(training.init, training.results)
    try:
        fresh = zoo.start_from(recipe.model, opened.weights).missing
    except WeightsError as error:
        known = opened.backbone
        told = "" if known is None else f"\nthey are of {known.name}{fitting_words(training.backbone, known)}"
        raise WeightsError(f"init={training.init}: {error}{told}") from None
    if report:
        report(f"init     {opened.path}" + (f"; as initialised: {', '.join(fresh)}" if fresh else ""))
    return opened.path


def fitting_words(backbone: BackboneConfig, trained: BackboneConfig) -> str:
    """What to write so that ``backbone`` gets the sizes of a ``trained`` model of its family; else nothing."""
    if set(type(backbone).mro()) & set(type(trained).mro()) <= set(BackboneConfig.mro()):
        return ", which is another family than " + backbone.name
    ours, theirs = to_tree(backbone), to_tree(trained)
    own = {"name", "num_classes", "drop_path"}
    sizes = [key for key in theirs if key in ours and key not in own and ours[key] != theirs[key]]
    return "; add " + " ".join(f"backbone.{key}={theirs[key]}".replace(" ", "") for key in sizes) if sizes else ""
