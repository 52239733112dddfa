"""The training of `test_workers`, with faults or without; run by it in two processes, which is without Ray.

python tests/faults/faulty_run.py DIRECTORY TABLE PASSES
"""

import sys
from pathlib import Path

from torch import distributed

from faulty import FaultyConfig
from marey.clips import loader
from marey.clips.table import open_table
from marey.experiment import assemble
from marey.tracking.base import RunDescription
from marey.tracking.jsonl import JsonlTracker
from tiny_training import tiny
from worker_group import join

WORLD, EVERY = 2, 4
PASSES = 30.0  # of six rows with two samples each, eight to a step: 45 steps


def sound(directory: Path, passes: float = PASSES):
    """Without faults, and without the bad batch."""
    settings = tiny()
    fleet = settings.fleet.replace(workers=WORLD, cpus_per_worker=0.5, hang_seconds=5.0, max_failures=2)
    checkpoint = settings.checkpoint.replace(every=EVERY, keep_last=2)
    return settings.replace(results=directory, fleet=fleet, checkpoint=checkpoint, epochs=passes)


def first_sample(table, step: int, rank: int, passes: float) -> int:
    """The key by which a worker's pass is known."""
    order = assemble.feed_order(sound(Path("/unused"), passes), table, WORLD)
    return order.plan.slice(step, order.batch, rank, WORLD)[0].key


def faulty(table, directory: Path, faults: dict[str, str], passes: float = PASSES):
    """With these faults; without any it skips the bad batch."""
    settings = sound(directory, passes)
    marks, saved = directory / "marks", directory / "run" / "checkpoints"
    poison = first_sample(table, assemble.total_steps(settings, table) - 2, 1, passes)
    recipe = FaultyConfig(mask_ratio=0.75, faults=faults, marks=str(marks), checkpoints=str(saved), poison=poison)
    return settings.replace(recipe=recipe, bad_steps={"not_finite": "rollback" if faults else "skip"})


def main(directory: Path, place: str, passes: float) -> None:
    """This worker's part of the unbroken training."""
    table, tracker = open_table(place), None
    if distributed.get_rank() == 0:
        tracker = JsonlTracker()
        tracker.start(RunDescription("run", directory / "run"))
    assemble.train(faulty(table, directory, {}, passes), table, directory / "run", loader.feed, tracker)
    if tracker is not None:
        tracker.end("finished")


if __name__ == "__main__":
    join(lambda: main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
