"""Batch norm over the clips of all workers."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collective


class SyncBatchNorm3d(nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` whose statistics, while training, are those of every worker's clips together.

    PyTorch's own refuses the CPU. Mean and variance are averaged over the workers one after the other, in fp32, so
    that no large sums of squares cancel; every worker must hold equally many values, as equal shares of a batch do.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [B, C, T, H, W]. Collective while training."""
        if not self.training or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().forward(x)
        workers = distributed.get_world_size()
        axes, shape = (0, 2, 3, 4), (1, -1, 1, 1, 1)
        with torch.autocast(x.device.type, enabled=False):
            mean = collective.all_reduce(x.float().mean(axes)) / workers
            centred = x.float() - mean.view(shape)
            variance = collective.all_reduce(centred.square().mean(axes)) / workers
            self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * workers)
            scale = torch.rsqrt(variance + self.eps) * (1 if self.weight is None else self.weight)
            normalised = centred * scale.view(shape)
            return (normalised if self.bias is None else normalised + self.bias.view(shape)).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics; the running variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        part = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, part)
        self.running_var.lerp_(variance * count / max(1, count - 1), part)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the model computes with statistics of the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def synchronise(model: nn.Module) -> None:
    """Make every `torch.nn.BatchNorm3d` of ``model`` one over all workers; names, weights and buffers stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = SyncBatchNorm3d
