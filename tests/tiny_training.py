"""A training so small that its steps take milliseconds, run in this process."""

from dataclasses import replace

import torch

from marey.clips import loader
from marey.engine.events import Stepped
from marey.engine.loop import fit
from marey.engine.strategy import TorchStrategy
from marey.experiment import Training, assemble

TINY = {"frames": 8, "crop": 32, "depth": 1, "width": 48, "decoder_width": 48, "decoder_depth": 1, "drop_path": 0.2}


class Diary:
    """A hook that remembers."""

    def __init__(self) -> None:
        self.events = []

    def on(self, event) -> None:
        self.events.append(event)

    def losses(self) -> dict[int, float]:
        return {event.clock.step: event.loss for event in self.events if isinstance(event, Stepped)}


def tiny() -> Training:
    return Training(
        name="run", backbone={"name": "videomae_v2_tiny_pretrain", **TINY}, batch=8, repeats=2, epochs=6,
        clips={"stride": 1}, recipe={"mask_ratio": 0.75}, engine={"micro_batch": 4, "device": "cpu"},
        optim={"base_lr": 0.03, "warmup_epochs": 1, "clip_grad": 1.0}, checkpoint={"every": 4, "keep_last": 9},
    )  # fmt: skip


def elastic() -> Training:
    """One that two workers do, or one; long enough to be stopped."""
    fleet = {"workers": 2, "min_workers": 1, "cpus_per_worker": 1, "storage": "shared", "max_failures": 1}
    return tiny().replace(epochs=10_000, checkpoint={"every": 5}, fleet=fleet)


def run(training, table, directory, steps: int | None = None, recipe=None, more=()):
    """Train to ``steps`` (default: all); the diary, and the strategy with its weights."""
    order = assemble.feed_order(training, table, world=1)
    job = assemble.fit_of(training, table, order, directory, loader.feed, world=1)
    torch.manual_seed(training.seed)
    strategy = TorchStrategy(
        recipe or training.recipe.build(training.backbone), training.optim, training.engine, torch.device("cpu")
    )
    diary = Diary()
    fit(replace(job, total_steps=steps or job.total_steps), strategy, [diary, *more])
    return diary, strategy
