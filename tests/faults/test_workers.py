"""Workers that are killed, crash or stand still cost some steps, and change nothing.

The last batch but one is always bad: the unbroken run skips it, the others go back for it, with the same result.
"""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

import worker_group
from faults import faulty_run
from faults.faulty_run import PASSES, WORLD, first_sample, sound
from faulty import FAULTS
from marey.engine.checkpoint import steps
from marey.experiment import assemble
from marey.fleet import train
from marey.fleet.tracker import RemoteTracker
from marey.tracking.base import RunDescription
from marey.tracking.journal import read_points
from marey.tracking.jsonl import JsonlTracker


def unbroken(table, directory: Path, passes: float = PASSES) -> dict[int, float]:
    """Train without faults, and without Ray; the losses by step."""
    worker_group.run(Path(faulty_run.__file__), WORLD, directory, table.path, passes)
    return losses(table, directory, passes)


def go(table, directory: Path, faults: dict[str, str], passes: float = PASSES) -> dict[int, float]:
    """Train under Ray with these faults; the losses by step."""
    marks = directory / "marks"
    marks.mkdir(parents=True)
    settings = faulty_run.faulty(table, directory, faults, passes)
    shares, _ = train.plan_shares(settings)
    tracker = RemoteTracker(JsonlTracker())
    tracker.start(RunDescription("run", directory / "run"))
    assert train.train(settings, table, directory / "run", tracker, shares) is None
    tracker.end("finished")
    happened = {mark.name for mark in marks.iterdir()}
    assert happened == {f"{fault}-{key}" for key, fault in faults.items()}, "each fault has happened"
    return losses(table, directory, passes)


def losses(table, directory: Path, passes: float) -> dict[int, float]:
    """Of a run that is at its end, by step."""
    found = ((point.step, point.values.get("train/loss")) for point in read_points(directory / "run"))
    points = [(step, loss) for step, loss in found if loss is not None]
    total = assemble.total_steps(sound(directory, passes), table)
    good = [step for step in range(1, total + 1) if step != total - 1]
    assert [step for step, _ in points] == good, "no gaps but the bad batch, nothing doubled"
    return dict(points)


def placed(table, names: list[str], seed: int, passes: float = PASSES) -> dict[str, str]:
    """The faults one after the other, each at a random step of its share of the run, at a random rank."""
    settings, draw = sound(Path("/unused"), passes), random.Random(seed)
    span = (assemble.total_steps(settings, table) - 2) // len(names)
    found = {}
    for place, name in enumerate(names):
        step = 1 + place * span + draw.randrange(span)
        rank = 0 if name == "kill_in_save" else draw.randrange(WORLD)
        found[str(first_sample(table, step, rank, passes))] = name
    return found


def weights(directory: Path):
    return load_file(steps(directory / "run" / "checkpoints")[-1] / "weights.safetensors")


def same(one: Path, other: Path) -> bool:
    """Bit for bit."""
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


def check(table, directory: Path, seeds: range) -> None:
    whole = unbroken(table, directory / "unbroken")
    for seed in seeds:
        place = directory / str(seed)
        others = sorted(FAULTS.keys() - {"kill_in_save"})
        # Last, because the save may come some steps later, and end a hang before it is found.
        names = [*random.Random(seed).sample(others, len(others)), "kill_in_save"]
        assert go(table, place, placed(table, names, seed)) == whole
        assert same(place, directory / "unbroken")
        stacks = [path.read_text() for path in (place / "run" / "stacks").iterdir()]
        for text in stacks:
            assert all(f"worker {rank}:" in text for rank in range(WORLD)), "of all workers"
        for sign in ("in hold_lock", "stopped", "in skip_collective"):
            assert any(sign in text for text in stacks), sign


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_fault_once_and_the_weights_are_those_of_the_unbroken_run(ray_cluster, table, tmp_path):
    check(table, tmp_path, range(1))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_fault_with_other_seeds(ray_cluster, table, tmp_path):
    check(table, tmp_path, range(1, 6))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_kills_in_three_hundred_steps(ray_cluster, table, tmp_path, seed):
    passes = 200.0
    whole = unbroken(table, tmp_path / "unbroken", passes)
    assert len(whole) == 300 - 1, "all but the bad one"
    draw = random.Random(seed)
    names = [draw.choice(("kill", "kill", "kill_in_save")) for _ in range(20)]
    assert go(table, tmp_path / "broken", placed(table, names, seed, passes), passes) == whole
    assert same(tmp_path / "broken", tmp_path / "unbroken")
