"""Run by `test_bad_steps` in two processes: trainings with bad steps under every strategy, and what they end with."""

import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed

from marey.backbones.zoo import configure
from marey.clips import loader
from marey.clips.batch import Batch
from marey.clips.table import open_table
from marey.engine.bad_steps import LEFT_OUT
from marey.engine.events import LeftOut, Stepped
from marey.engine.loop import fit
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig, Strategy, build
from marey.engine.train_state import TrainState
from marey.experiment import assemble
from marey.recipes.supervised import SupervisedConfig
from poison import keys_of, poison
from tiny_training import Diary, tiny
from worker_group import join

KINDS = [("torch", 1), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3)]
WORLD = 2


def training(kind: str, zero: int, **bad_steps):
    """Two workers, two passes a step, clipping and a moving average."""
    return tiny().replace(
        engine={"micro_batch": 2, "device": "cpu", "strategy": kind, "zero": zero}, bad_steps=bad_steps,
        optim={"base_lr": 0.03, "warmup_epochs": 0, "clip_grad": 1.0, "ema": 0.9},
        checkpoint={"every": 4, "wait": True},
    )  # fmt: skip


def run(chosen, table, directory: Path, places=(), steps: int = 8) -> tuple[Diary, Strategy]:
    """Train with a loss that is not finite at each (step, rank) of ``places``."""
    order = assemble.feed_order(chosen, table, world=WORLD)
    job = assemble.fit_of(chosen, table, order, directory, loader.feed, world=WORLD)
    torch.manual_seed(chosen.seed)
    recipe = poison(chosen.recipe.build(chosen.backbone), keys_of(order, places, WORLD))
    strategy = build(recipe, chosen.optim, chosen.engine, torch.device("cpu"), accumulation=2)
    diary = Diary()
    fit(replace(job, total_steps=steps), strategy, [diary])
    return diary, strategy


def reference(chosen, table, directory: Path, listed, steps: int = 8) -> tuple[Diary, Strategy]:
    """Train without the batches of the ranges ``listed``, which are never computed."""
    if distributed.get_rank() == 0:
        (directory / "checkpoints").mkdir(parents=True)
        (directory / "checkpoints" / LEFT_OUT).write_text(json.dumps({"left_out": listed}))
    distributed.barrier()
    return run(chosen, table, directory, steps=steps)


def tensors(state: TrainState) -> dict[str, Tensor]:
    """All of a state, under one name each."""
    moments = {f"{name}/{key}": one for name, each in state.moments.items() for key, one in each.items()}
    return state.weights | moments | {f"{name}/ema": one for name, one in state.ema.items()}


def unlike(one: Strategy, other: Strategy) -> list[str]:
    """What of two states is not the same bit for bit. Collective."""
    a, b = one.state(), other.state()
    if one.rank != 0:
        return []
    x, y = tensors(a), tensors(b)
    assert x.keys() == y.keys()
    assert len(x) > len(a.weights) + len(a.ema) > len(a.weights)
    counts = [] if (a.optimizer_steps, a.ema_updates) == (b.optimizer_steps, b.ema_updates) else ["counts"]
    return counts + [name for name in x if not torch.equal(x[name], y[name])]


def left_out(diary: Diary) -> list[int]:
    return [event.clock.step for event in diary.events if isinstance(event, LeftOut)]


def everyones(value):
    """``value`` of every rank."""
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def skipped(table, folder: Path, kind: str, zero: int) -> dict[str, object]:
    """A run that skips, one of which the machine was at fault and that was killed after; each against its reference."""
    chosen = training(kind, zero, not_finite="skip")
    diary, strategy = run(chosen, table, folder / "skip", [(2, 0), (3, 1), (7, 1)])
    other, expected = reference(chosen, table, folder / "skip-reference", [[2, 2], [3, 3], [7, 7]])
    run(chosen, table, folder / "killed", [(2, 0), (3, 1)], steps=4)
    _, resumed = run(chosen, table, folder / "killed", [(7, 1)])
    return {
        "left out": everyones(left_out(diary)),
        "unlike": unlike(strategy, expected),
        "unlike, resumed": unlike(resumed, expected),
        "losses": [diary.losses(), other.losses()],
    }


def rolled_back(table, folder: Path, kind: str, zero: int) -> dict[str, object]:
    """A run that goes back to step 4, and then without leaving more out once more, against its reference."""
    chosen = training(kind, zero, not_finite="rollback", before=1)
    diary, strategy = run(chosen, table, folder / "back", [(7, 1), (8, 0)])
    _, expected = reference(chosen, table, folder / "back-reference", [[6, 7], [7, 8]])
    computed = [event.clock.step for event in diary.events if isinstance(event, Stepped)]
    return {"left out": everyones(left_out(diary)), "unlike": unlike(strategy, expected), "computed": computed}


def clip_of(number: int, rank: int) -> list[Batch]:
    """One pass of two clips."""
    seeded = torch.Generator().manual_seed(100 * number + rank)
    pixels = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8, generator=seeded)
    keys = torch.tensor([2, 3]) + 100 * number + 10 * rank
    return [Batch(pixels, keys, ("clip", "clip"), torch.tensor([rank, 2]))]


def network(kind: str, zero: int, sync: bool) -> Strategy:
    """A network with batch norm, which a bad batch poisons in the forward pass already."""
    torch.manual_seed(0)
    backbone = configure("r3d_18", frames=4, crop=32, width=8, depths=(1, 1, 1, 1), num_classes=5)
    config = EngineConfig(strategy=kind, zero=zero, device="cpu", sync_batch_norm=sync)
    optim = OptimConfig(kind="sgd", base_lr=1e-2, ema=0.8)
    return build(SupervisedConfig().build(backbone), optim, config, torch.device("cpu"), 1)


def discarded(kind: str, zero: int, sync: bool) -> list[str]:
    """What differs after some steps of which one was computed and dropped: its weights, statistics, average."""
    one, other = network(kind, zero, sync), network(kind, zero, sync)
    poison(one.recipe, {2 + 200 + 10})  # of rank 1 alone
    for number in range(4):
        for strategy in (one, other):
            if number == 2 and strategy is one:
                assert not math.isfinite(one.compute(clip_of(number, one.rank)).grad_norm)
                one.discard()
            elif number != 2:
                strategy.step(clip_of(number, strategy.rank), 1e-2)
    return unlike(one, other)


def many(table, folder: Path, rounds: int) -> dict[str, object]:
    """``rounds`` bad steps in one run, each at a random step on a random rank, against its reference."""
    drawn, steps = random.Random(20), 2 * rounds
    asked = sorted(drawn.sample(range(1, steps + 1), rounds))
    chosen = training("torch", 1, not_finite="skip", most=rounds)
    diary, strategy = run(chosen, table, folder / "many", [(step, drawn.randrange(WORLD)) for step in asked], steps)
    _, expected = reference(chosen, table, folder / "many-reference", [[step, step] for step in asked], steps)
    return {"asked": asked, "left out": everyones(left_out(diary)), "unlike": unlike(strategy, expected)}


def main(folder: Path, place: str, rounds: int) -> None:
    """Each of these under each strategy; then ``rounds`` bad steps in one run."""
    told: dict[str, object] = {}
    table = open_table(place)
    for kind, zero in KINDS:
        told[f"skipped {kind}{zero}"] = skipped(table, folder / f"{kind}{zero}", kind, zero)
        told[f"rolled back {kind}{zero}"] = rolled_back(table, folder / f"{kind}{zero}", kind, zero)
        told[f"discarded {kind}{zero}"] = discarded(kind, zero, False) + discarded(kind, zero, True)
    told["many"] = many(table, folder, rounds)
    if distributed.get_rank() == 0:
        (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    join(lambda: main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
