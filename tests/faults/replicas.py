"""Run by `test_replicas` in several processes: one bit of one parameter of one worker flips while it trains."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from marey.clips import loader
from marey.clips.table import open_table
from marey.engine.events import Stepped
from marey.engine.loop import fit
from marey.engine.strategy import build
from marey.errors import TrainingError
from marey.experiment import assemble
from tiny_training import Diary, tiny
from worker_group import join

FLIPPED = "model.decoder.blocks.0.mlp.fc1.weight"


class BitFlip:
    """A hook that flips the lowest bit of one number on one rank after a step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank = rank
        self.step = step

    def on(self, event) -> None:
        if isinstance(event, Stepped) and event.clock.step == self.step and event.strategy.rank == self.rank:
            word = dict(event.strategy.recipe.named_parameters())[FLIPPED].data.view(-1)[-1:]
            word.view(torch.int32).bitwise_xor_(1)


def train(table, directory: Path, kind: str, zero: int, hooks, **engine) -> str:
    """Six steps, compared after every second one; what stopped them."""
    settings = {"micro_batch": 2, "device": "cpu", "strategy": kind, "zero": zero, "check_replicas": 2, **engine}
    chosen = tiny().replace(batch=12, engine=settings, checkpoint={"every": 2, "wait": True})
    world = distributed.get_world_size()
    order = assemble.feed_order(chosen, table, world)
    job = assemble.fit_of(chosen, table, order, directory, loader.feed, world)
    torch.manual_seed(chosen.seed)
    recipe, accumulation = chosen.recipe.build(chosen.backbone), 12 // world // order.micro_batch
    strategy = build(recipe, chosen.optim, chosen.engine, torch.device("cpu"), accumulation)
    try:
        fit(replace(job, total_steps=6), strategy, [Diary(), *hooks])
    except TrainingError as error:
        return str(error)
    return ""


def main(folder: Path, place: str) -> None:
    """Flip a bit of the last rank, and none."""
    table, world = open_table(place), distributed.get_world_size()
    told = {}
    for kind, zero in [("torch", 1), ("deepspeed", 2), ("deepspeed", 3)][: 3 if world == 2 else 1]:
        for name, hooks in {"sound": [], "flipped": [BitFlip(world - 1, 4)]}.items():
            if name == "flipped" and zero == 3:
                continue  # a worker holds a part of its own
            case = f"{kind}{zero} {name}"
            told[case] = [None] * world
            distributed.all_gather_object(told[case], train(table, folder / case, kind, zero, hooks))
    if distributed.get_rank() == 0:
        (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    join(lambda: main(Path(sys.argv[1]), sys.argv[2]))
