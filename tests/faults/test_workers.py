"""Workers that are killed, crash or stand still cost some steps, and change nothing."""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from faulty import FAULTS, FaultyConfig
from marey.engine.checkpoint import steps
from marey.experiment import assemble
from marey.fleet import train
from marey.fleet.tracker import RemoteTracker
from marey.tracking.base import RunDescription
from marey.tracking.journal import read_points
from marey.tracking.jsonl import JsonlTracker
from tiny_training import tiny

WORLD, STEPS, EVERY = 2, 48, 4
HANGS = ("stop", "hold_lock", "skip_collective")


def training(directory: Path):
    settings = tiny()
    fleet = settings.fleet.replace(workers=WORLD, cpus_per_worker=0.5, hang_seconds=5.0, max_failures=2)
    checkpoint = settings.checkpoint.replace(every=EVERY, keep_last=2)
    return settings.replace(results=directory, fleet=fleet, checkpoint=checkpoint, epochs=STEPS * 8 / (3 * 2))


def go(table, directory: Path, faults: dict[str, str]) -> dict[int, float]:
    """Train under Ray with these faults; the losses by step."""
    marks, saved = directory / "marks", directory / "run" / "checkpoints"
    marks.mkdir(parents=True)
    settings = training(directory)
    settings = settings.replace(
        recipe=FaultyConfig(mask_ratio=0.75, faults=faults, marks=str(marks), checkpoints=str(saved))
    )
    shares, _ = train.plan_shares(settings)
    tracker = RemoteTracker(JsonlTracker())
    tracker.start(RunDescription("run", directory / "run"))
    assert train.train(settings, table, directory / "run", tracker, shares) is None
    tracker.end("finished")
    assert {mark.name for mark in marks.iterdir()} == set(faults.values()), "each fault has happened"
    points = [
        (point.step, point.values["train/loss"])
        for point in read_points(directory / "run")
        if "train/loss" in point.values
    ]
    assert [step for step, _ in points] == list(range(1, total(settings, table) + 1)), "no gaps, nothing doubled"
    return dict(points)


def total(settings, table) -> int:
    return assemble.total_steps(settings, table)


def placed(table, directory: Path, seed: int) -> dict[str, str]:
    """Every fault at a random step and rank, in random order and a few steps from one another."""
    settings, draw = training(directory), random.Random(seed)
    order = assemble.feed_order(settings, table, WORLD)
    span = (total(settings, table) - 2) // len(FAULTS)
    names = draw.sample(sorted(FAULTS), len(FAULTS))
    found = {}
    for place, name in enumerate(names):
        step = 1 + place * span + draw.randrange(span)
        rank = 0 if name == "kill_in_save" else draw.randrange(WORLD)
        found[str(order.plan.slice(step, order.batch, rank, WORLD)[0].key)] = name
    return found


def weights(directory: Path):
    return load_file(steps(directory / "run" / "checkpoints")[-1] / "weights.safetensors")


def check(table, directory: Path, seeds: range) -> None:
    whole = go(table, directory / "unbroken", {})
    expected = weights(directory / "unbroken")
    for seed in seeds:
        place = directory / str(seed)
        assert go(table, place, placed(table, place, seed)) == whole
        found = weights(place)
        assert found.keys() == expected.keys()
        assert all(found[name].equal(tensor) for name, tensor in expected.items())
        stacks = [path.read_text() for path in (place / "run" / "stacks").iterdir()]
        assert len(stacks) >= len(HANGS)
        for text in stacks:
            assert all(f"worker {rank}:" in text for rank in range(WORLD)), "of all workers"
        assert any("in hold_lock" in text for text in stacks)
        assert any("stopped" in text for text in stacks)
        assert any("in skip_collective" in text for text in stacks)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_fault_once_and_the_weights_are_those_of_the_unbroken_run(ray_cluster, table, tmp_path):
    check(table, tmp_path, range(1))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_fault_with_other_seeds(ray_cluster, table, tmp_path):
    check(table, tmp_path, range(1, 6))
