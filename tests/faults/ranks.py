"""Run by `test_checkpoint_faults` in two processes: a training on two workers, of which the first cannot write."""

import json
import os
import resource
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed

from marey.clips import loader
from marey.clips.table import open_table
from marey.engine import checkpoint
from marey.engine.events import CheckpointFailed, CheckpointWritten, Saving, Stepped
from marey.errors import MareyError
from marey.experiment import assemble
from tiny_training import tiny

ROOM = 1 << 20  # bytes of the largest file that may be written: less than a checkpoint's


class Storage:
    """A hook: rank 0 may write no large file from one step's save to another's. And it remembers what came of saves."""

    def __init__(self, rank: int, first: int, last: int) -> None:
        self.rank, self.first, self.last = rank, first, last
        self.ends: list[list] = []
        self.steps = 0

    def on(self, event) -> None:
        if isinstance(event, Stepped):
            self.steps = event.clock.step
        elif isinstance(event, Saving) and self.rank == 0:
            full = self.first <= event.clock.step <= self.last
            limit(ROOM if full else resource.RLIM_INFINITY)
        elif isinstance(event, (CheckpointWritten, CheckpointFailed)):
            self.ends.append([type(event).__name__.removeprefix("Checkpoint"), event.clock.step])


def limit(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def train(table, folder: Path, first: int, last: int) -> dict:
    """What this worker saw, and the error that it ended with."""
    rank = distributed.get_rank()
    saving = {"every": 2, "keep_last": 9, "wait": True, "retry_seconds": 0, "max_failed": 2}
    training = tiny().replace(checkpoint=saving)
    storage, problem = Storage(rank, first, last), ""
    try:
        assemble.train(training, table, folder, loader.feed, None, more=[storage])
    except MareyError as error:
        problem = f"{type(error).__name__}: {error}"
    limit(resource.RLIM_INFINITY)
    distributed.barrier()
    newest = checkpoint.steps(folder / "checkpoints")[-1]
    return {"ends": storage.ends, "steps": storage.steps, "problem": problem, "newest": str(newest)}


def main(folder: Path, table: Path) -> None:
    """No trouble; trouble that passes; trouble that stays, and what is trained when it is gone."""
    opened = open_table(table)
    told = {
        "unbroken": train(opened, folder / "unbroken", 0, 0),
        "passes": train(opened, folder / "passes", 3, 5),
        "stays": train(opened, folder / "stays", 4, 99),
        "resumed": train(opened, folder / "stays", 0, 0),
    }
    (folder / f"told{distributed.get_rank()}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # a gloo thread that lets go of its last tensor at the interpreter's end may abort the process
