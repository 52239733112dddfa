"""How a recipe's step is run: on one process, data-parallel, or partitioned by DeepSpeed. The loop sees one interface.

A strategy knows no recipe: it calls ``recipe(batch, mode=...)``, takes gradients of the loss and steps the optimiser.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from marey.clips.batch import Batch
from marey.config import Config
from marey.engine.ema import Ema
from marey.engine.optim import MOMENTS, OptimConfig, optimizer, parameter_groups, set_lr
from marey.engine.precision import Autocast, LossScale, Precision
from marey.engine.staging import Staging
from marey.engine.train_state import (
    TrainState,
    copied,
    load_ema,
    load_moments,
    load_weights,
    moments_of,
    weights_of,
)
from marey.nn.batch_norm import synchronise
from marey.nn.block import set_checkpointing, set_compiled
from marey.nn.layout import set_channels_last
from marey.recipes.base import Mode, Recipe, Step

Shared = TypeVar("Shared")


class EngineConfig(Config):
    """How training runs; every choice gives the same mathematics."""

    strategy: Literal["torch", "deepspeed"] = "torch"
    """torch: one process, or DistributedDataParallel; deepspeed: ZeRO."""
    zero: Literal[0, 1, 2, 3] = 1
    """deepspeed: what is partitioned: nothing (0), moments (1), and gradients (2), and parameters (3)."""
    precision: Precision = "fp32"
    """bf16, fp16: matrix products and convolutions under autocast; parameters, moments and sums stay fp32. fp16 is for
    GPUs without bf16: its loss is scaled, and a step whose gradients overflow is computed again with half the scale."""
    micro_batch: int = Field(16, gt=0)
    """Most clips of one forward pass on one worker; more are accumulated."""
    activation_checkpointing: Literal["off", "blocks"] = "off"
    """blocks: keep each block's input only and compute the block again in the backward pass."""
    compile: bool = False
    """Compile the model's blocks (torch.compile): the first step takes a minute or more, the others less time."""
    channels_last: bool = False
    """Convolutions over clips with their channels side by side in memory, which GPUs' units for them read faster."""
    sync_batch_norm: bool = False
    """Batch norm over the clips of all workers' passes, not of each worker's own."""
    check_replicas: int | None = Field(500, gt=0)
    """Steps from one comparison of all workers' weights, bit for bit, to the next; none: never. Under ZeRO stage 3
    there is nothing to compare: each worker holds a part of its own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that the worker was given, else the CPU."""

    @model_validator(mode="after")
    def _zero_needs_deepspeed(self) -> "EngineConfig":
        if self.strategy == "torch" and self.zero > 1:
            raise ValueError(f"engine.zero={self.zero} needs engine.strategy=deepspeed; plain torch partitions nothing")
        if self.strategy == "deepspeed" and self.zero == 0 and self.precision == "fp16":
            raise ValueError("engine.precision=fp16 needs engine.zero=1 or more, or engine.strategy=torch")
        if self.compile and self.strategy == "deepspeed" and self.zero == 3:
            raise ValueError(
                "engine.compile=true needs engine.zero=2 or less: stage 3 takes parameters apart within blocks"
            )
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


class Strategy:
    """What the strategies share; `TorchStrategy` and `marey.engine.zero.DeepSpeedStrategy` are the two kinds."""

    name: ClassVar[str]

    def __init__(self, recipe: Recipe, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        self.recipe = recipe.to(device)
        self.optim = optim
        self.moments = MOMENTS[optim.kind]
        self.ema: Ema | None = None
        self.scale = LossScale(config.precision)
        self._buffers_before: dict[str, Tensor] = {}
        self.config = config
        self.device = device
        self.staging = Staging()
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        set_checkpointing(recipe, config.activation_checkpointing == "blocks")
        if config.channels_last:
            set_channels_last(recipe)
        if config.compile:
            set_compiled(recipe)
        if config.sync_batch_norm:
            synchronise(recipe)

    def step(self, micro_batches: Sequence[Batch], lr: float) -> StepResult:
        """One optimiser step, whatever its numbers are. Collective."""
        result = self.compute(micro_batches)
        self.apply(lr)
        return result

    def compute(self, micro_batches: Sequence[Batch]) -> StepResult:
        """Forward and backward over this worker's micro-batches. Collective.

        Weights, moments and the moving average stay as they are: `apply` or `discard` must follow.
        """
        self._remember_buffers()
        result = self._compute(micro_batches)
        while self.scale.overflowed(result.losses, result.grad_norm):
            self.discard()
            result = self._compute(micro_batches)
        return result

    def apply(self, lr: float) -> None:
        """Clip the gradients that `compute` has left and step with them; then they are gone. Collective."""
        self._apply(lr)
        self.scale.stepped()
        self._update_ema()

    def _compute(self, micro_batches: Sequence[Batch]) -> StepResult:
        raise TypeError(f"{type(self).__name__} does not say how to compute gradients")

    def _apply(self, lr: float) -> None:
        raise TypeError(f"{type(self).__name__} does not say how to step")

    def discard(self) -> None:
        """Drop the gradients that `compute` has left, and what its forward passes changed. Collective.

        Afterwards the state is, bit for bit, that before `compute`: running statistics of batch norms go back too.
        """
        self._drop_gradients()
        for name, buffer in self._buffers():
            buffer.copy_(self._buffers_before[name])

    def _drop_gradients(self) -> None:
        raise TypeError(f"{type(self).__name__} does not say how to drop gradients")

    def _remember_buffers(self) -> None:
        """What `discard` puts back; called before the first forward pass of a step."""
        self._buffers_before = {name: buffer.clone() for name, buffer in self._buffers()}

    def forward(self, batch: Batch, mode: Mode) -> Step:
        """Without gradients, in evaluation mode. Collective: every worker calls it equally often."""
        raise TypeError(f"{type(self).__name__} does not say how to run forward")

    def state(self) -> TrainState:
        """The whole state, on rank 0; an empty one elsewhere. Its memory is used again by the next call. Collective."""
        raise TypeError(f"{type(self).__name__} does not say how to save")

    def reserve(self) -> None:
        """On rank 0, beside the first steps: touch the memory that `state` will copy into, where that is known."""

    def load(self, state: TrainState) -> None:
        """Take up ``state``, which every worker holds, in the place of all there is. Collective, between two steps."""
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

    def replicas(self) -> dict[str, Tensor]:
        """What every worker should hold alike, bit for bit: parameters, and synchronised batch norms' statistics."""
        statistics = dict(self._buffers()) if self.config.sync_batch_norm else {}
        return {name: parameter.data for name, parameter in self.recipe.named_parameters()} | statistics

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

    def _scale(self) -> tuple[float, int]:
        return (self.scale.value, self.scale.steps) if self.scale.on else (0.0, 0)

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

    def _result(self, steps: Sequence[Step], grad_norm: Tensor) -> StepResult:
        """Means over the micro-batches, gathered over the workers; so all of them see, and judge, the same numbers."""
        names = sorted(steps[0].metrics)
        scalars = [step.loss.detach() for step in steps]
        columns = [torch.stack(scalars), *(torch.stack([step.metrics[name] for step in steps]) for name in names)]
        means = [column.double().mean() for column in columns]
        gathered = self.gather(torch.stack([*means, grad_norm.double().to(self.device)]).tolist())
        losses, *metrics, norms = (list(column) for column in zip(*gathered, strict=True))
        # Equal on all workers, unless one of them is broken: then the first that shows it.
        norm = next((one for one in norms if not math.isfinite(one)), norms[0])
        averages = [sum(column) / len(column) for column in metrics]
        return StepResult(losses, dict(zip(names, averages, strict=True)), norm)


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

    def _compute(self, micro_batches: Sequence[Batch]) -> StepResult:
        """Gradients are averaged over the workers once, with the last micro-batch."""
        self.module.train()
        steps = []
        for place, batch in enumerate(micro_batches):
            with self._accumulating(place < len(micro_batches) - 1):
                step = self.module(batch.to(self.device))
                (step.loss * (self.scale.value / len(micro_batches))).backward()
                steps.append(step)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if self.scale.on:
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        self._norm = nn.utils.get_total_norm(gradients)
        return self._result(steps, self._norm)

    def _apply(self, lr: float) -> None:
        if self.optim.clip_grad is not None:
            trained = [p for p in self.parameters.values() if p.grad is not None]
            nn.utils.clip_grads_with_norm_(trained, self.optim.clip_grad, self._norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _drop_gradients(self) -> None:
        self.optimizer.zero_grad()

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
        weights = weights_of(self.recipe, self.staging)
        return TrainState(weights, moments, count, *copied(self.ema, self.staging), *self._scale())

    def reserve(self) -> None:
        """See `Strategy.reserve`."""
        for name, tensor in self.recipe.state_dict().items():
            self.staging.hold(f"weights/{name}", tensor)
        for name, average in self.ema.averages.items() if self.ema else ():
            self.staging.hold(f"ema/{name}", average)
        for name, parameter in self.parameters.items():
            for key in self.moments if parameter.requires_grad else ():
                self.staging.hold(f"{key}/{name}", parameter)

    def load(self, state: TrainState) -> None:
        """See `Strategy.load`."""
        load_weights(self.recipe, state.weights)
        load_moments(self.optimizer, self.parameters, state, self.moments)
        load_ema(self.ema, state, self._live())
        self.scale.load(state.loss_scale, state.loss_scale_steps)


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
