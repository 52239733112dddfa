"""Training steps as the published code writes them out: a loss, plain loops around it, an optimiser by its defaults.

After OpenGVLab/VideoMAEv2: engine_for_pretraining.py, engine_for_finetuning.py, optim_factory.py, utils.py (gradient
norm), and timm's Mixup, which mixes a whole batch by one draw with itself in reverse order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.bench.published import grad_norm
from marey.clips.mix import MixConfig


def plain_step(
    loss: Callable[[], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    bf16: bool,
    clip_grad: float | None = None,
) -> Callable[[], float]:
    """A training step without an engine: loss, backward, gradient norm, optimiser."""

    def step() -> float:
        with _tried_convolutions(device):
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                value = loss()
            shown = value.item()
            value.backward()
            if clip_grad is None:
                grad_norm(model)
            else:
                nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
            optimizer.step()
            optimizer.zero_grad()
        return shown

    return step


@contextmanager
def _tried_convolutions(device: torch.device) -> Iterator[None]:
    """cuDNN tries its algorithms and keeps the fastest (``cudnn.benchmark``)."""
    if device.type != "cuda":
        yield
        return
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot targets [B, K] with ``smoothing`` spread over all classes."""
    return functional.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch."""
    return torch.sum(-targets * functional.log_softmax(logits, dim=-1), dim=-1).mean()


def mix_batch(clip: Tensor, targets: Tensor, config: MixConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch mixed with itself in reverse order, one share (and box) for all; ``clip`` is changed in place."""
    if not config.on:
        return clip, targets
    cuts = config.cutmix > 0 and (config.mixup == 0 or rng.random() < config.switch)
    alpha = config.cutmix if cuts else config.mixup
    share = float(rng.beta(alpha, alpha))
    other = clip.flip(0)
    if cuts:
        height, width = clip.shape[-2:]
        half = 0.5 * np.sqrt(1 - share)
        y, x = rng.integers(height), rng.integers(width)
        top, bottom = (int(np.clip(y + sign * int(half * height), 0, height)) for sign in (-1, 1))
        left, right = (int(np.clip(x + sign * int(half * width), 0, width)) for sign in (-1, 1))
        clip[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        clip.mul_(share).add_(other.mul_(1 - share))
    return clip, targets * share + targets.flip(0) * (1 - share)
