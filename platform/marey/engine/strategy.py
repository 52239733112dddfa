"""How a recipe's step is run: on one process, data-parallel, or partitioned by DeepSpeed. The loop sees one interface.

A strategy knows no recipe: it calls ``recipe(batch, mode=...)``, takes gradients of the loss and steps the optimiser.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from marey.clips.batch import Batch
from marey.config import Config
from marey.engine.ema import Ema
from marey.engine.optim import MOMENTS, OptimConfig, optimizer, parameter_groups, set_lr
from marey.engine.staging import Staging
from marey.nn.batch_norm import synchronise
from marey.nn.block import set_checkpointing
from marey.recipes.base import Mode, Recipe, Step

Shared = TypeVar("Shared")


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
    sync_batch_norm: bool = False
    """Batch norm over the clips of all workers' passes, not of each worker's own."""
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
    """Parameter name to the optimiser's own tensors of it (`optim.MOMENTS`); empty before the first step."""
    optimizer_steps: int = 0
    """Steps that Adam's bias correction has counted."""
    ema: dict[str, Tensor] = field(default_factory=dict)
    """The moving average of the weights, where there is one."""
    ema_updates: int = 0
    """Steps that it has averaged."""


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

    def __init__(self, recipe: Recipe, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        self.recipe = recipe.to(device)
        self.optim = optim
        self.moments = MOMENTS[optim.kind]
        self.ema: Ema | None = None
        self.config = config
        self.device = device
        self.staging = Staging()
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        set_checkpointing(recipe, config.activation_checkpointing == "blocks")
        if config.sync_batch_norm:
            synchronise(recipe)

    def step(self, micro_batches: Sequence[Batch], lr: float) -> StepResult:
        """Forward and backward over this worker's micro-batches, one optimiser step. Collective."""
        raise TypeError(f"{type(self).__name__} does not say how to step")

    def forward(self, batch: Batch, mode: Mode) -> Step:
        """Without gradients, in evaluation mode. Collective: every worker calls it equally often."""
        raise TypeError(f"{type(self).__name__} does not say how to run forward")

    def state(self) -> TrainState:
        """The whole state, on rank 0; an empty one elsewhere. Its memory is used again by the next call. Collective."""
        raise TypeError(f"{type(self).__name__} does not say how to save")

    def reserve(self) -> None:
        """On rank 0, beside the first steps: touch the memory that `state` will copy into, where that is known."""

    def load(self, state: TrainState) -> None:
        """Take up ``state``, which every worker holds. Collective, before the first step."""
        raise TypeError(f"{type(self).__name__} does not say how to load")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, `forward` computes with the moving average of the weights, if there is one. Collective."""
        if self.ema is None:
            yield
            return
        with self.ema.swapped(self._live()):
            yield

    def align_buffers(self) -> None:
        """Rank 0's running statistics on every worker, so that all evaluate the model that is saved. Collective."""
        if self.world > 1:
            for _, buffer in self._buffers():
                distributed.broadcast(buffer, src=0)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers that are part of the state; tables that a model computes itself are not."""
        kept = set(self.recipe.state_dict())
        return ((name, buffer) for name, buffer in self.recipe.named_buffers() if name in kept)

    def _live(self) -> dict[str, Tensor]:
        """The tensors that the moving average follows, as this worker holds them: weights and floating buffers."""
        return {name: tensor.data for name, tensor in self.recipe.state_dict().items() if tensor.is_floating_point()}

    def _start_ema(self) -> None:
        if self.optim.ema is not None and self.ema is None:
            self.ema = Ema(self.optim.ema, self._live())

    def _update_ema(self) -> None:
        if self.ema is not None:
            self.ema.update(self._live())

    def _new_optimizer(self) -> torch.optim.Optimizer:
        decay = self.optim.layer_decay
        groups = parameter_groups(
            self.recipe,
            self.optim.weight_decay,
            self.recipe.no_weight_decay,
            lambda name: self.recipe.lr_scale(name, decay),
        )
        return optimizer(groups, self.optim)

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Every worker's ``values``, by rank. Collective."""
        if self.world == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(everyone, mine)
        return [one.tolist() for one in everyone]

    def shared(self, values: Shared) -> Shared:
        """Rank 0's ``values``, which are pickled, on every worker. Collective."""
        if self.world == 1:
            return values
        held: list[Any] = [values]
        distributed.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def gather_rows(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Every worker's ``keys`` [n] and ``values`` [n, K], equally many each, on the CPU. Collective."""
        if self.world == 1:
            return keys.cpu(), values.cpu()
        whole = []
        for mine in (keys.to(self.device), values.contiguous()):
            parts = [torch.empty_like(mine) for _ in range(self.world)]
            distributed.all_gather(parts, mine)
            whole.append(torch.cat(parts).cpu())
        return whole[0], whole[1]

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
        super().__init__(recipe, optim, config, device)
        self.parameters = dict(self.recipe.named_parameters())
        wrapped = Autocast(self.recipe, device, config.precision)
        self.module: nn.Module = wrapped
        if self.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.module = DistributedDataParallel(wrapped, device_ids=ids, gradient_as_bucket_view=True)
        self.optimizer = self._new_optimizer()
        self._start_ema()

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
        if self.optim.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(trained, self.optim.clip_grad, norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._update_ema()
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
        moments, count = moments_of(self.optimizer, self.parameters, self.moments, self.staging)
        return TrainState(weights_of(self.recipe, self.staging), moments, count, *copied(self.ema, self.staging))

    def reserve(self) -> None:
        """See `Strategy.reserve`; what is copied meanwhile is of no step, and of moments not even they."""
        weights_of(self.recipe, self.staging)
        copied(self.ema, self.staging)
        for name, parameter in self.parameters.items():
            for key in self.moments if parameter.requires_grad else ():
                self.staging.copy(f"{key}/{name}", parameter)

    def load(self, state: TrainState) -> None:
        """See `Strategy.load`."""
        load_weights(self.recipe, state.weights)
        load_moments(self.optimizer, self.parameters, state, self.moments)
        load_ema(self.ema, state, self._live())


def weights_of(recipe: nn.Module, staging: Staging) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU."""
    return {name: staging.copy(f"weights/{name}", tensor) for name, tensor in recipe.state_dict().items()}


def moments_of(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], keys: tuple[str, ...], staging: Staging
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """The optimiser's tensors by parameter name, on the CPU, and the steps it has counted."""
    moments, count = {}, 0
    for name, parameter in parameters.items():
        if state := optimizer.state.get(parameter):
            moments[name] = {key: staging.copy(f"{key}/{name}", state[key]) for key in keys}
            count = int(state.get("step", 0))
    return moments, count


def load_moments(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    state: TrainState,
    keys: tuple[str, ...],
) -> None:
    """The optimiser's tensors from a state that holds them whole."""
    for name, moments in state.moments.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: moments[key].to(parameter.device, copy=True) for key in keys}
        if "exp_avg" in keys:
            optimizer.state[parameter]["step"] = torch.tensor(float(state.optimizer_steps), device=parameter.device)


def copied(ema: Ema | None, staging: Staging) -> tuple[dict[str, Tensor], int]:
    """Averages on the CPU, and how many steps they are of."""
    if ema is None:
        return {}, 0
    return {name: staging.copy(f"ema/{name}", average) for name, average in ema.averages.items()}, ema.updates


def load_ema(ema: Ema | None, state: TrainState, live: dict[str, Tensor]) -> None:
    """Go on with the averages of a state; from its weights, ``live``, where it holds none."""
    if ema is None:
        return
    ema.updates = state.ema_updates
    for name, average in ema.averages.items():
        average.copy_(state.ema.get(name, live[name]))


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
