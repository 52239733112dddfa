"""Training on a table at a URI is training on the same table in a folder."""

from dataclasses import replace

import pytest
import torch

from marey.clips import loader
from marey.clips.datasets import find_sources
from marey.clips.prepare import prepare_all
from marey.clips.storage import ClipStorage
from marey.clips.table import ClipTable, open_table
from marey.engine.events import Stepped
from marey.engine.loop import fit
from marey.engine.strategy import TorchStrategy
from marey.experiment import Training, assemble

TINY = {"frames": 8, "crop": 32, "depth": 1, "width": 48, "decoder_width": 48, "decoder_depth": 1}


class Losses(list[float]):
    """A hook that keeps the losses."""

    def on(self, event: object) -> None:
        if isinstance(event, Stepped):
            self.append(event.loss)


@pytest.fixture
def training() -> Training:
    return Training(
        name="run", backbone={"name": "videomae_v2_tiny_pretrain", **TINY}, batch=4, clips={"stride": 1},
        recipe={"mask_ratio": 0.75}, engine={"micro_batch": 4, "device": "cpu"}, optim={"warmup_epochs": 1},
        checkpoint={"every": 9},
    )  # fmt: skip


def losses(training: Training, table: ClipTable, directory) -> list[float]:
    order = assemble.feed_order(training, table, world=1)
    job = replace(assemble.fit_of(training, table, order, directory, loader.feed, world=1), total_steps=2)
    torch.manual_seed(training.seed)
    recipe = training.recipe.build(training.backbone)
    found = Losses()
    fit(job, TorchStrategy(recipe, training.optim, training.engine, torch.device("cpu")), [found])
    return found


def test_two_steps_on_it_have_the_losses_of_two_steps_on_the_folder(training, table, store, videos, tmp_path):
    uri = store.uri("training/three")
    prepare_all(find_sources(videos), ClipStorage(max_seconds=1.0), uri, isolate=False)
    remote = open_table(uri)
    assert remote.fingerprint == table.fingerprint
    found = losses(training, remote, tmp_path / "remote")
    assert len(found) == 2
    assert found == losses(training, table, tmp_path / "local")
