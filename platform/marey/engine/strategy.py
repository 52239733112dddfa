"""How a recipe's step is run: on one process, data-parallel, or partitioned by DeepSpeed. The loop sees one interface.

A strategy knows no recipe: it calls ``recipe(batch, mode=...)``, takes gradients of the loss and steps the optimiser.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from marey.clips.batch import Batch
from marey.config import Config
from marey.engine.optim import OptimConfig, adamw, parameter_groups, set_lr
from marey.nn.block import set_checkpointing
from marey.recipes.base import Mode, Recipe, Step

MOMENTS = ("exp_avg", "exp_avg_sq")


class EngineConfig(Config):
    """How training runs; every choice gives the same mathematics."""

    strategy: Literal["torch", "deepspeed"] = "torch"
    """torch: one process, or DistributedDataParallel; deepspeed: ZeRO."""
    zero: Literal[0, 1, 2, 3] = 1
    """deepspeed: what is partitioned: nothing (0), moments (1), and gradients (2), and parameters (3)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products under autocast; parameters, moments and sums stay fp32."""
    micro_batch: int = Field(16, gt=0)
    """Most clips of one forward pass on one worker; more are accumulated."""
    activation_checkpointing: Literal["off", "blocks"] = "off"
    """blocks: keep each block's input only and compute the block again in the backward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that the worker was given, else the CPU."""

    @model_validator(mode="after")
    def _zero_needs_deepspeed(self) -> "EngineConfig":
        if self.strategy == "torch" and self.zero > 1:
            raise ValueError(f"engine.zero={self.zero} needs engine.strategy=deepspeed; plain torch partitions nothing")
        return self


class StepResult(NamedTuple):
    """One optimiser step: the loss of each worker's share (mean over its clips), and the global gradient norm."""

    losses: list[float]
    metrics: dict[str, float]
    grad_norm: float

    @property
    def loss(self) -> float:
        """Mean over the global batch (workers have equal shares)."""
        return sum(self.losses) / len(self.losses)


@dataclass
class TrainState:
    """Weights and moments by parameter name, whole and on the CPU: the same under any strategy and world size."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Parameter name to {"exp_avg": ..., "exp_avg_sq": ...}; empty before the first step."""
    optimizer_steps: int = 0
    """Steps that Adam's bias correction has counted."""


class Autocast(nn.Module):
    """Runs the recipe under bf16 autocast; inside, so that data-parallel wrappers and DeepSpeed both keep it."""

    def __init__(self, recipe: Recipe, device: torch.device, precision: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.device_type = device.type
        self.enabled = precision == "bf16"

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        """See `Recipe.forward`."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            return self.recipe(batch, mode=mode)


class Strategy:
    """What the strategies share; `TorchStrategy` and `marey.engine.zero.DeepSpeedStrategy` are the two kinds."""

    name: ClassVar[str]

    def __init__(self, recipe: Recipe, config: EngineConfig, device: torch.device) -> None:
        self.recipe = recipe.to(device)
        self.config = config
        self.device = device
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        set_checkpointing(recipe, config.activation_checkpointing == "blocks")

    def step(self, micro_batches: Sequence[Batch], lr: float) -> StepResult:
        """Forward and backward over this worker's micro-batches, one optimiser step. Collective."""
        raise TypeError(f"{type(self).__name__} does not say how to step")

    def forward(self, batch: Batch, mode: Mode) -> Step:
        """Without gradients, in evaluation mode. Collective: every worker calls it equally often."""
        raise TypeError(f"{type(self).__name__} does not say how to run forward")

    def state(self) -> TrainState:
        """The whole state, on rank 0; an empty one elsewhere. Collective."""
        raise TypeError(f"{type(self).__name__} does not say how to save")

    def load(self, state: TrainState) -> None:
        """Take up ``state``, which every worker holds. Collective, before the first step."""
        raise TypeError(f"{type(self).__name__} does not say how to load")

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Every worker's ``values``, by rank. Collective."""
        if self.world == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(everyone, mine)
        return [one.tolist() for one in everyone]

    def _result(self, steps: Sequence[Step], grad_norm: float) -> StepResult:
        """Means over the micro-batches, gathered over the workers."""
        names = sorted(steps[0].metrics)
        scalars = [step.loss.detach() for step in steps]
        columns = [torch.stack(scalars), *(torch.stack([step.metrics[name] for step in steps]) for name in names)]
        gathered = self.gather(torch.stack([column.double().mean() for column in columns]).tolist())
        means = [sum(column) / len(gathered) for column in zip(*gathered, strict=True)]
        return StepResult([row[0] for row in gathered], dict(zip(names, means[1:], strict=True)), grad_norm)


class TorchStrategy(Strategy):
    """Plain PyTorch: one process, or DistributedDataParallel over several."""

    name = "torch"

    def __init__(self, recipe: Recipe, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        super().__init__(recipe, config, device)
        self.clip_grad = optim.clip_grad
        self.parameters = dict(self.recipe.named_parameters())
        wrapped = Autocast(self.recipe, device, config.precision)
        self.module: nn.Module = wrapped
        if self.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.module = DistributedDataParallel(wrapped, device_ids=ids, gradient_as_bucket_view=True)
        self.optimizer = adamw(parameter_groups(recipe, optim.weight_decay, recipe.no_weight_decay), optim)

    def step(self, micro_batches: Sequence[Batch], lr: float) -> StepResult:
        """See `Strategy.step`; gradients are averaged over the workers once, with the last micro-batch."""
        self.module.train()
        steps = []
        for place, batch in enumerate(micro_batches):
            with self._accumulating(place < len(micro_batches) - 1):
                step = self.module(batch.to(self.device))
                (step.loss / len(micro_batches)).backward()
                steps.append(step)
        trained = [p for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if self.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(trained, self.clip_grad, norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._result(steps, float(norm))

    def _accumulating(self, more: bool) -> Any:
        return self.module.no_sync() if more and isinstance(self.module, DistributedDataParallel) else nullcontext()

    @torch.no_grad()
    def forward(self, batch: Batch, mode: Mode) -> Step:
        """See `Strategy.forward`."""
        self.module.eval()
        # The bare module: without gradients there is nothing to synchronise.
        inner = self.module.module if isinstance(self.module, DistributedDataParallel) else self.module
        return inner(batch.to(self.device), mode=mode)

    def state(self) -> TrainState:
        """See `Strategy.state`; every worker has all of it, rank 0 copies it."""
        if self.rank != 0:
            return TrainState({})
        moments, count = moments_of(self.optimizer, self.parameters)
        return TrainState(weights_of(self.recipe), moments, count)

    def load(self, state: TrainState) -> None:
        """See `Strategy.load`."""
        load_weights(self.recipe, state.weights)
        for name, moments in state.moments.items():
            parameter = self.parameters[name]
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(state.optimizer_steps), device=self.device),
                **{key: moments[key].to(parameter.device, copy=True) for key in MOMENTS},
            }


def weights_of(recipe: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in recipe.state_dict().items()}


def moments_of(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Adam's moments by parameter name, on the CPU, and the steps it has counted."""
    moments, count = {}, 0
    for name, parameter in parameters.items():
        if state := optimizer.state.get(parameter):
            moments[name] = {key: state[key].detach().cpu().clone() for key in MOMENTS}
            count = int(state["step"])
    return moments, count


def load_weights(recipe: nn.Module, weights: dict[str, Tensor]) -> None:
    """Weights into the recipe, all of them and no others."""
    recipe.load_state_dict(weights, strict=True)


def device_of(config: EngineConfig) -> torch.device:
    """The device of this process."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def build(
    recipe: Recipe, optim: OptimConfig, config: EngineConfig, device: torch.device, accumulation: int = 1
) -> Strategy:
    """The strategy that ``config`` asks for; ``accumulation`` is the number of micro-batches in a step."""
    if config.strategy == "deepspeed":
        from marey.engine.zero import DeepSpeedStrategy

        return DeepSpeedStrategy(recipe, optim, config, device, accumulation)
    return TorchStrategy(recipe, optim, config, device)
