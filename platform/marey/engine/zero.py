"""DeepSpeed: ZeRO stages 0 to 3 behind the same interface; the state stays portable.

DeepSpeed's own checkpoints are never written: whole tensors are collected by parameter name and given back by name,
so that what one stage and world size saved, any other loads, and plain torch too. DeepSpeed is imported in the
constructor of `DeepSpeedStrategy` alone, because importing it takes seconds and only workers need it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from marey.clips.batch import Batch
from marey.engine.extension_locks import refuse_stale_locks
from marey.engine.optim import OptimConfig, set_lr
from marey.engine.precision import Autocast
from marey.engine.strategy import EngineConfig, StepResult, Strategy
from marey.engine.train_state import (
    TrainState,
    copied,
    load_ema,
    load_moments,
    load_weights,
    moments_of,
    weights_of,
)
from marey.recipes.base import Mode, Recipe, Step


class DeepSpeedStrategy(Strategy):
    """A recipe in a DeepSpeed engine, with PyTorch's AdamW inside ZeRO's optimiser."""

    name = "deepspeed"

    def __init__(
        self, recipe: Recipe, optim: OptimConfig, config: EngineConfig, device: torch.device, accumulation: int = 1
    ) -> None:
        super().__init__(recipe, optim, config, device)
        refuse_stale_locks()
        self.deepspeed = _import_deepspeed(device)
        self.accumulation = accumulation
        self.engine: Any = None
        self._norms: list[Tensor] = []

    def _start(self) -> None:
        """Wrap the recipe; put off until weights are loaded, because stage 3 takes them apart here."""
        self.engine, *_ = self.deepspeed.initialize(
            model=Autocast(self.recipe, self.device, self.config.precision),
            optimizer=self._new_optimizer(),
            config=self._settings(),
            dist_init_required=False,
        )
        self.parameters: dict[str, Any] = dict(self.recipe.named_parameters())
        self._start_ema()

    def _settings(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own arithmetic reads it
            "gradient_accumulation_steps": self.accumulation,
            "zero_optimization": {
                "stage": self.config.zero,
                "overlap_comm": self.device.type == "cuda",
                # What stays whole would not see the moving average put in the place of its partition.
                **({"stage3_param_persistence_threshold": 0} if self.optim.ema is not None else {}),
            },
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": self.optim.clip_grad or 0.0,
            "steps_per_print": 2**31,
            "wall_clock_breakdown": False,
        }

    def _compute(self, micro_batches: Sequence[Batch]) -> StepResult:
        if self.engine is None:
            self._start()
        assert len(micro_batches) == self.accumulation, "DeepSpeed counts micro-batches itself"
        self.engine.train()
        if self.scale.on:
            self.engine.optimizer.loss_scale = self.scale.value
        steps = []
        for batch in micro_batches:
            step = self.engine(batch.to(self.device))
            self.engine.backward(step.loss)
            steps.append(step)
            if len(steps) < len(micro_batches):
                self.engine.step()
        self._norms = self._norms_of_groups()
        return self._result(steps, self._combined(self._norms) / self.scale.value)

    def _apply(self, lr: float) -> None:
        set_lr(self.engine.optimizer, lr)
        with self._answering(self._norms):
            self.engine.step()

    def _drop_gradients(self) -> None:
        """At an infinite norm, stages 1 to 3 leave a step out by themselves, and clear all that they keep for it."""
        if self.config.zero == 0:
            self.engine.zero_grad()
            self.engine.micro_steps += 1
            return
        with self._answering([torch.full_like(self._norms[0], torch.inf)]):
            self.engine.step()

    def _norms_of_groups(self) -> list[Tensor]:
        """Norms of the averaged gradients: of each of stage 3's groups, else one of all."""
        if self.config.zero == 0:
            return [_plain_norm(self.parameters.values())]
        if self.config.zero == 3:
            return self.engine.optimizer._get_norm_groups()
        return [self.engine.optimizer.scaled_global_norm()]

    def _combined(self, norms: list[Tensor]) -> Tensor:
        """The norm over all groups; infinite where that of one is not finite (which ZeRO marks by -1)."""
        if self.config.zero < 3:
            return norms[0]
        from deepspeed.runtime.utils import combine_grad_norm_groups

        return combine_grad_norm_groups(norms)

    @contextmanager
    def _answering(self, norms: list[Tensor]) -> Iterator[None]:
        """Inside, ZeRO's optimiser takes ``norms`` for those of its gradients, rather than compute them again."""
        if self.config.zero == 0:
            yield
            return
        optimizer = self.engine.optimizer
        question = "_get_norm_groups" if self.config.zero == 3 else "scaled_global_norm"
        assert hasattr(optimizer, question)
        setattr(optimizer, question, lambda: norms if self.config.zero == 3 else norms[0])
        try:
            yield
        finally:
            delattr(optimizer, question)

    @torch.no_grad()
    def forward(self, batch: Batch, mode: Mode) -> Step:
        """See `Strategy.forward`; through the engine, so that stage 3 gathers the parameters."""
        if self.engine is None:
            self._start()
        self.engine.eval()
        return self.engine(batch.to(self.device), mode=mode)

    def state(self) -> TrainState:
        """See `Strategy.state`; whole tensors are put together from the partitions, one parameter at a time."""
        if self.engine is None:
            self._start()
        if self.config.zero == 0:
            if self.rank != 0:
                return TrainState({})
            moments = moments_of(self._inner(), self.parameters, self.moments, self.staging)
            return TrainState(weights_of(self.recipe, self.staging), *moments, *copied(self.ema, self.staging))
        return self._collect()

    def _collect(self) -> TrainState:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link_moments()
        started = any(self.moments[0] in state for state in self._inner().state.values())
        state, copy = TrainState({}), self.staging.copy
        if self.rank == 0:
            state.weights = {name: copy(f"weights/{name}", buffer) for name, buffer in self._buffers()}
        for name, parameter in self.parameters.items():
            whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad else _gathered(parameter)
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in self.moments} if started else {}
            if self.rank == 0:
                state.weights[name] = copy(f"weights/{name}", whole, torch.float32)
                if moments and parameter.requires_grad:
                    state.moments[name] = {key: copy(f"{key}/{name}", moment) for key, moment in moments.items()}
        state.optimizer_steps = self._counted() if started else 0
        state.ema, state.ema_updates = self._whole_ema()
        state.loss_scale, state.loss_scale_steps = self._scale()
        return state if self.rank == 0 else TrainState({})

    def load(self, state: TrainState) -> None:
        """See `Strategy.load`.

        At first, weights go into the recipe before DeepSpeed takes it apart.
        """
        if self.engine is None:
            load_weights(self.recipe, state.weights)
            self._start()
        else:
            self._replace_weights(state.weights)
        self._load_ema(state)
        self.scale.load(state.loss_scale, state.loss_scale_steps)
        self._inner().state.clear()
        if not state.moments:
            return
        if self.config.zero == 0:
            load_moments(self._inner(), self.parameters, state, self.moments)
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        self._make_moments(state.optimizer_steps)
        self._link_moments()
        for name, moments in state.moments.items():
            parameter = self.parameters[name]
            for key in self.moments:
                if self.config.zero == 3:
                    # Setting the whole fails where a parameter does not divide by the number of workers (0.19.8).
                    safe_set_local_optimizer_state(parameter, self._partition(name, moments[key]), key)
                else:
                    safe_set_full_optimizer_state(parameter, moments[key].to(self.device), key)

    def _replace_weights(self, weights: dict[str, Tensor]) -> None:
        """Other weights for an engine that has been started: what it computes with, and the fp32 copies it steps on."""
        if self.config.zero < 3:
            load_weights(self.recipe, weights)
            if self.config.zero > 0:
                self.engine.optimizer.refresh_fp32_params()
            return
        from deepspeed.utils import safe_set_local_fp32_param

        for name, buffer in self._buffers():
            buffer.copy_(weights[name])
        for name, parameter in self.parameters.items():
            own = self._partition(name, weights[name]).to(self.device)
            parameter.ds_tensor.data.copy_(own)
            if parameter.requires_grad:
                safe_set_local_fp32_param(parameter, own)
            if parameter.numel() == parameter.ds_numel:  # gathered at the moment, or kept whole
                parameter.data.copy_(weights[name])

    def replicas(self) -> dict[str, Tensor]:
        """See `Strategy.replicas`; in stage 3 each worker holds a part of its own, and there is nothing to compare."""
        return {} if self.config.zero == 3 else super().replicas()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """See `Strategy.averaged`; stage 3 keeps gathered parameters for a while, and must not take them for others."""
        if self.ema is not None:
            self.engine.empty_partition_cache()
        with super().averaged():
            yield
            if self.ema is not None:
                self.engine.empty_partition_cache()

    def _live(self) -> dict[str, Tensor]:
        """See `Strategy._live`; in stage 3 a worker holds a partition of each parameter."""
        if self.config.zero < 3:
            return super()._live()
        buffers = {name: buffer.data for name, buffer in self._buffers() if buffer.is_floating_point()}
        return buffers | {name: parameter.ds_tensor.data for name, parameter in self.parameters.items()}

    def _whole_ema(self) -> tuple[dict[str, Tensor], int]:
        """Averages of whole tensors: in stage 3 put together from all workers' partitions, which follow each other."""
        if self.ema is None or (self.config.zero < 3 and self.rank != 0):
            return {}, 0
        if self.config.zero < 3:
            return copied(self.ema, self.staging)
        whole = {}
        for name, mine in self.ema.averages.items():
            average, parameter = mine, self.parameters.get(name)
            if parameter is not None:
                parts = [torch.empty_like(mine) for _ in range(self.world)]
                distributed.all_gather(parts, mine)
                average = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
            if self.rank == 0:
                whole[name] = self.staging.copy(f"ema/{name}", average)
        return whole, self.ema.updates

    def _load_ema(self, state: TrainState) -> None:
        if self.ema is None or self.config.zero < 3:
            load_ema(self.ema, state, self._live())
            return
        live = self._live()
        own = {name: self._partition(name, tensor) for name, tensor in state.ema.items()}
        load_ema(self.ema, TrainState({}, ema=own, ema_updates=state.ema_updates), live)

    def _partition(self, name: str, whole: Tensor) -> Tensor:
        """What of a whole tensor this worker holds in stage 3: its place in the flat, padded parameter."""
        if name not in self.parameters:
            return whole
        size = self.parameters[name].ds_tensor.numel()
        flat = torch.zeros(size * self.world, dtype=whole.dtype)
        flat[: whole.numel()] = whole.flatten()
        return flat[self.rank * size : (self.rank + 1) * size]

    def _make_moments(self, count: int) -> None:
        """Zero moments for every fp32 partition, which is what a first step would begin with."""
        optimizer, inner = self.engine.optimizer, self._inner()
        stage3 = self.config.zero == 3
        partitions = optimizer.fp32_partitioned_groups_flat if stage3 else optimizer.single_partition_of_fp32_groups
        for partition in partitions:
            inner.state[partition] = {key: torch.zeros_like(partition) for key in self.moments}
            if "exp_avg" in self.moments:
                inner.state[partition]["step"] = torch.tensor(float(count), device=self.device)

    def _link_moments(self) -> None:
        """Let DeepSpeed look for the moments again.

        Stages 1 and 2 link them once, after the first group's first step, when the other groups have none yet, and
        take them for linked from then on (0.19.8); a test watches this.
        """
        optimizer = self.engine.optimizer
        if hasattr(optimizer, "_hp_optimizer_states_linked"):
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def _inner(self) -> torch.optim.Optimizer:
        """PyTorch's optimiser, at whatever depth DeepSpeed wrapped it."""
        optimizer = self.engine.optimizer
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        return optimizer

    def _counted(self) -> int:
        return max((int(entry["step"]) for entry in self._inner().state.values() if "step" in entry), default=0)


def _gathered(parameter: nn.Parameter) -> Tensor:
    """A frozen parameter, whole, also where stage 3 has taken it apart."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _plain_norm(parameters: Any) -> Tensor:
    """Norm of the averaged gradients: stage 0 in fp32 does not keep one."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed logs a page at INFO; warnings still come through."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, ready to use in this process' group."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _quiet():
        import deepspeed
        import deepspeed.ops

        if device.type == "cpu":
            # Otherwise a C++ extension is compiled at first use (a minute, needs ninja) that gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if not distributed.is_initialized():
            _alone()
        deepspeed.init_distributed(dist_backend=distributed.get_backend(), verbose=False)
    return deepspeed


def _alone() -> None:
    """A process group of one: DeepSpeed needs a group, and its launcher's variable, even for a single worker."""
    os.environ.setdefault("LOCAL_RANK", "0")
    store = distributed.HashStore()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
