"""Run by `test_strategies` in one or two processes: the same steps under every strategy, and from what others saved."""

import json
import sys
from pathlib import Path

import torch
from torch import distributed

from marey.backbones.zoo import configure
from marey.clips.batch import Batch
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig, Strategy, build
from marey.engine.train_state import TrainState
from marey.recipes.masked import MaskedConfig
from marey.recipes.supervised import SupervisedConfig
from submitting import until
from worker_group import join

STEPS, SAVED_AT = 20, 12
BATCH, PASSES = 8, 2
KINDS = [("torch", 1), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3)]
OF_TWO = ("deepspeed3x2", "deepspeed2x2", "deepspeed0x2")  # what two workers save in three ways is taken up by any
TINY = {"frames": 4, "crop": 32, "depth": 2, "width": 48, "decoder_width": 48, "decoder_depth": 1, "drop_path": 0.2}


# Fine-tuning, with each of the optimisers: layer-wise decay, a moving average, a head.
CLASSIFIER = {"frames": 4, "crop": 32, "depth": 2, "width": 48, "num_classes": 5, "drop_path": 0.2}
OPTIMISERS = {
    "adamw": OptimConfig(base_lr=1e-3, clip_grad=0.5, layer_decay=0.7, ema=0.8),
    "sgd": OptimConfig(kind="sgd", base_lr=1e-2, layer_decay=0.7, ema=0.8, weight_decay=1e-3),
}
TUNING_STEPS, TUNING_SAVED_AT = 8, 4


def micro_batches(step: int, rank: int, world: int, passes: int = PASSES) -> list[Batch]:
    """This worker's share of a global batch that is the same for any number of workers, in equal passes."""
    pixels = torch.randint(
        0, 256, (BATCH, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(step)
    )
    keys = torch.arange(BATCH) * 104729 + step
    size = BATCH // world // passes
    firsts = [rank * BATCH // world + place * size for place in range(passes)]
    labels = torch.arange(BATCH) % 5
    return [
        Batch(pixels[first : first + size], keys[first : first + size], ("clip",) * size, labels[first : first + size])
        for first in firsts
    ]


def fresh(kind: str, zero: int) -> Strategy:
    torch.manual_seed(0)
    recipe = MaskedConfig(mask_ratio=0.5).build(configure("videomae_v2_tiny_pretrain", **TINY))
    config = EngineConfig(strategy=kind, zero=zero, device="cpu")
    return build(recipe, OptimConfig(base_lr=1e-3, clip_grad=0.15), config, torch.device("cpu"), PASSES)


def fresh_classifier(kind: str, zero: int, optimiser: str) -> Strategy:
    torch.manual_seed(0)
    recipe = SupervisedConfig(label_smoothing=0.1).build(configure("videomae_v2_tiny_16x224", **CLASSIFIER))
    config = EngineConfig(strategy=kind, zero=zero, device="cpu")
    return build(recipe, OPTIMISERS[optimiser], config, torch.device("cpu"), PASSES)


def tune(kind: str, zero: int, optimiser: str, saved: TrainState | None) -> tuple[list[list[float]], TrainState]:
    """Loss, gradient norm, and loss under the moving average after each step; the state before the last steps."""
    strategy = fresh_classifier(kind, zero, optimiser)
    if saved is not None:
        strategy.load(saved)
    told, state = [], TrainState({})
    for number in range(0 if saved is None else TUNING_SAVED_AT, TUNING_STEPS):
        if number == TUNING_SAVED_AT:
            state = strategy.state()
        step = strategy.step(micro_batches(number, strategy.rank, strategy.world), 1e-2)
        with strategy.averaged():
            scores = strategy.forward(micro_batches(0, 0, 1)[0], "predict").metrics["scores"]
        told.append([step.loss, step.grad_norm, float(scores[:, 0].log().mean())])
    return told, state


def synchronised(kind: str, zero: int) -> list[list[float]]:
    """A network with batch norm over all workers: loss and gradient norm, then what its running statistics predict."""
    torch.manual_seed(0)
    network = configure("r3d_18", frames=4, crop=32, width=8, depths=(1, 1, 1, 1), num_classes=5)
    config = EngineConfig(strategy=kind, zero=zero, device="cpu", sync_batch_norm=True)
    optim = OptimConfig(kind="sgd", base_lr=1e-2)
    strategy = build(SupervisedConfig().build(network), optim, config, torch.device("cpu"), 1)
    told = []
    for number in range(TUNING_STEPS):
        step = strategy.step(micro_batches(number, strategy.rank, strategy.world, passes=1), 1e-2)
        scores = strategy.forward(micro_batches(0, 0, 1)[0], "predict").metrics["scores"]
        told.append([step.loss, step.grad_norm, float(scores[:, 0].log().mean())])
    return told


def shared(state: TrainState) -> TrainState:
    """Rank 0's state on every worker."""
    held = [state]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def fine_tuning(world: int) -> dict[str, list[list[float]]]:
    """Every strategy from the start, and from what another has saved."""
    told = {}
    for optimiser in OPTIMISERS:
        states = {}
        for kind, zero in KINDS:
            name = f"{optimiser} {kind}{zero}x{world}"
            told[name], state = tune(kind, zero, optimiser, None)
            states[f"{kind}{zero}"] = shared(state)
        for source, (kind, zero) in {"deepspeed3": KINDS[0], "deepspeed2": KINDS[4], "torch1": KINDS[2]}.items():
            told[f"{optimiser} {source} as {kind}{zero}x{world}"] = tune(kind, zero, optimiser, states[source])[0]
    return told


def steps(strategy: Strategy, first: int, last: int) -> list[list[float]]:
    """Loss and gradient norm of each step."""
    results = (
        strategy.step(micro_batches(n, strategy.rank, strategy.world), 1e-4 * (1 + n)) for n in range(first, last)
    )
    return [[result.loss, result.grad_norm] for result in results]


def write_state(path: Path, state: TrainState) -> None:
    """Under its name once it is whole: workers of another group may wait for it."""
    written = path.with_suffix(".writing")
    torch.save({"weights": state.weights, "moments": state.moments, "steps": state.optimizer_steps}, written)
    written.rename(path)


def read_state(path: Path) -> TrainState:
    until(path.exists)
    held = torch.load(path, weights_only=True)
    return TrainState(held["weights"], held["moments"], held["steps"])


def crossings(world: int) -> list[tuple[str, str, int]]:
    """Saved states, and the strategies that take them up: those of two workers all, one worker's own ZeRO-3."""
    own = [(f"{kind}{zero}x1", "deepspeed", 3) for kind, zero in KINDS] if world == 1 else []
    return [(saved, kind, zero) for saved in OF_TWO for kind, zero in KINDS] + own


def main(folder: Path) -> None:
    """Every strategy from the start, saving at `SAVED_AT`; then the others; then what goes on from saved states."""
    world = distributed.get_world_size()
    told: dict[str, list[list[float]]] = {}
    for kind, zero in KINDS:
        strategy = fresh(kind, zero)
        early = steps(strategy, 0, SAVED_AT)
        state = strategy.state()
        told[f"{kind}{zero}x{world}"] = early + steps(strategy, SAVED_AT, STEPS)
        if strategy.rank == 0:
            write_state(folder / f"{kind}{zero}x{world}.pt", state)
    told |= fine_tuning(world)
    told |= {f"synchronised {kind}{zero}x{world}": synchronised(kind, zero) for kind, zero in KINDS}
    for saved, kind, zero in crossings(world):
        strategy = fresh(kind, zero)
        strategy.load(read_state(folder / f"{saved}.pt"))
        told[f"{saved} as {kind}{zero}x{world}"] = steps(strategy, SAVED_AT, STEPS)
    if distributed.get_rank() == 0:
        (folder / f"told{world}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    join(lambda: main(Path(sys.argv[1])))
