"""One process of `test_strategies`: ``python ranks.py RANK WORLD FOLDER`` runs every strategy, one after another.

Rank 0 writes losses and norms to FOLDER/world<N>.json and states to FOLDER/<strategy>@<world>.pt.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from marey.backbones.zoo import configure
from marey.clips.batch import Batch
from marey.engine import strategy
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig, Strategy, TrainState
from marey.recipes.masked import MaskedConfig

STEPS, HALF = 20, 10
BATCH, PASSES = 8, 2
TINY = {"frames": 4, "crop": 32, "depth": 2, "width": 48, "num_heads": 3, "drop_path": 0.3}
DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_num_heads": 3}
STRATEGIES = {"torch": ("torch", 1), **{f"zero{stage}": ("deepspeed", stage) for stage in range(4)}}
# Which states are taken up by which strategies, at which number of workers.
TAKEN_UP = {1: ("zero3@2", ("torch", "zero0", "zero1")), 2: ("torch@2", ("zero1", "zero2", "zero3"))}
CLIP = 0.05


def micro_batches(step: int, rank: int, world: int) -> list[Batch]:
    """A worker's share of the step's global batch, in two passes; the clips move, so that there is something to see."""
    generator = torch.Generator().manual_seed(step)
    clip = torch.randint(0, 256, (BATCH, 3, 4, 32, 32), generator=generator, dtype=torch.uint8)
    key = torch.randint(2**62, (BATCH,), generator=generator)
    share, size = BATCH // world, BATCH // world // PASSES
    places = range(rank * share, (rank + 1) * share, size)
    return [Batch(clip[i : i + size], key[i : i + size], ("clip",) * size) for i in places]


def make(name: str) -> Strategy:
    """The strategy around the same weights each time."""
    torch.manual_seed(0)
    kind, zero = STRATEGIES[name]
    recipe = MaskedConfig(mask_ratio=0.75).build(configure("videomae_v2_tiny_pretrain", **TINY, **DECODER))
    config = EngineConfig(strategy=kind, zero=zero, device="cpu")
    return strategy.build(recipe, OptimConfig(clip_grad=CLIP), config, torch.device("cpu"), PASSES)


def train(chosen: Strategy, start: int, stop: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of steps ``start`` to ``stop``."""
    found = []
    for step in range(start, stop):
        result = chosen.step(micro_batches(step, chosen.rank, chosen.world), lr=3e-3 * min(1, step / 5))
        found.append((result.loss, result.grad_norm))
    return found


def main(rank: int, world: int, folder: Path) -> None:
    """Unbroken runs of all strategies, then those that take up a state."""
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)})
    if world > 1:
        store = distributed.FileStore(str(folder / f"store{world}"), world)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    curves, states = {}, {}
    for name in STRATEGIES:
        chosen = make(name)
        curves[name] = train(chosen, 0, HALF)
        states[name] = chosen.state()
        curves[name] += train(chosen, HALF, STEPS)
        if rank == 0:
            torch.save(vars(states[name]), folder / f"{name}@{world}.pt")
    if world > 1:
        distributed.barrier()
    source, takers = TAKEN_UP[world]
    for name in takers:
        chosen = make(name)
        chosen.load(TrainState(**torch.load(folder / f"{source}.pt")))
        curves[f"{name} after {source}"] = train(chosen, HALF, STEPS)
    if rank == 0:
        (folder / f"world{world}.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
