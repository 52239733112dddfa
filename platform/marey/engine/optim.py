"""The optimiser and its schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from marey.config import Config

Group = dict[str, object]

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimiser keeps of every parameter, under PyTorch's names."""


class OptimConfig(Config):
    """An optimiser under a cosine schedule; the defaults are VideoMAE's pre-training (facts in the job files)."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """adamw; sgd: with Nesterov momentum, usual for convolutional networks."""

    base_lr: float = Field(1.5e-4, gt=0)
    """Peak learning rate for a global batch of 256; scaled in proportion to the batch."""
    min_lr: float = Field(1e-5, ge=0)
    """Learning rate at the end, for a global batch of 256; scaled likewise."""
    warmup_epochs: float = Field(40.0, ge=0)
    """Epochs over which the rate grows linearly from 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay (decoupled under AdamW); not applied to biases, norms, mask tokens and position tables."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Fine-tuning: each layer's rate as a multiple of that of the layer above (Clark et al. 2020); 1: all alike."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Adam's decay rates of the moments."""
    eps: float = Field(1e-8, gt=0)
    """Adam's denominator offset."""
    momentum: float = Field(0.9, gt=0, lt=1)
    """sgd: share of the step before that is kept."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the gradient; a larger one is scaled down to it. None: no limit."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is then what is evaluated; none: no average."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: linear warm-up from 0, then a half cosine down to the minimum."""

    peak: float
    minimum: float
    warmup_steps: int
    total_steps: int

    def lr(self, step: int) -> float:
        """The rate of step ``step``, from 0 to ``total_steps`` - 1."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps)
        return self.minimum + (self.peak - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def schedule(config: OptimConfig, batch: int, total_steps: int, steps_per_epoch: float) -> Schedule:
    """The schedule of a run with global batch ``batch`` (linear scaling rule, Goyal et al. 2017)."""
    scale = batch / 256
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    return Schedule(config.base_lr * scale, config.min_lr * scale, warmup, total_steps)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    never: frozenset[str],
    scale: Callable[[str], float] = lambda name: 1.0,
) -> list[Group]:
    """Groups of equal decay and rate: matrices decay, 1-D tensors, biases and ``never`` do not; frozen ones in none.

    ``scale``: the rate of a parameter of this name, as a multiple of the schedule's (layer-wise decay).
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.endswith("bias") or name in never
            members.setdefault((scale(name), exempt), []).append(parameter)
    return [
        {"params": members[key], "weight_decay": 0.0 if key[1] else weight_decay, "lr_scale": key[0]}
        for key in sorted(members)
    ]


def optimizer(groups: list[Group], config: OptimConfig) -> torch.optim.Optimizer:
    """PyTorch's own, fused where the parameters' device has the kernel (CPU and CUDA do)."""
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.base_lr, momentum=config.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=config.base_lr, betas=config.betas, eps=config.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate ``lr``, times the group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
