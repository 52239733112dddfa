"""Runs that wait for their clips say so, and what would mend it."""

import time
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from marey.clips import loader
from marey.engine.data_wait import WINDOW, DataWait
from marey.engine.loop import fit
from marey.engine.strategy import TorchStrategy
from marey.experiment import Training, assemble
from marey.recipes.base import Recipe, Step


class Idle(Recipe):
    """A recipe that computes nothing, for so many seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.model = torch.nn.Identity()
        self.weight, self.seconds = torch.nn.Parameter(torch.ones(1)), seconds

    def forward(self, batch, mode="train") -> Step:
        time.sleep(self.seconds)
        return Step(self.weight.sum(), {})


@pytest.fixture
def said(table, tmp_path, capsys):
    """What is told of a run with this recipe and feed."""

    def run(recipe: Recipe, steps: int = 2 * WINDOW + 10, feed=loader.feed, storage="h264") -> list[str]:
        training = Training(
            backbone={"name": "videomae_v2_tiny_pretrain", "frames": 8, "crop": 32}, batch=2, clips={"stride": 1},
            engine={"device": "cpu"}, checkpoint={"every": 1000},
        )  # fmt: skip
        job = assemble.fit_of(training, table, assemble.feed_order(training, table, 1), tmp_path, feed, 1)
        strategy = TorchStrategy(recipe, training.optim, training.engine, torch.device("cpu"))
        fit(replace(job, total_steps=steps), strategy, [DataWait(0, storage)])
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("data ")]

    return run


def test_a_run_that_waits_for_decoding_says_once_what_it_needs(said, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    (line,) = said(Idle())
    assert f"% of the last {WINDOW} steps was waiting for clips; decoding takes" in line
    assert "processors for it where it has 0.0" in line
    assert "fleet.decode_actors" in line
    assert "about: jpeg (70 %), raw (6 %); or raise repeats" in line
    assert float(line.split("%")[0].split()[-1]) > 10


def test_where_decoding_would_keep_up_the_table_is_named(said):
    def slow(*arguments):
        for batch in loader.feed(*arguments):
            time.sleep(0.005)
            yield replace(batch, decode_seconds=1e-6)

    (line,) = said(Idle(0.002), feed=slow)
    assert "a worker are enough: reading the table is slow, or other work takes them" in line


def test_a_run_that_does_not_wait_says_nothing(said):
    def ready(order, start, stop, rank, world):
        batch = next(loader.feed(order, 0, 1))
        yield from repeat(batch, stop - start)

    assert said(Idle(0.01), steps=WINDOW + 5, feed=ready) == []
