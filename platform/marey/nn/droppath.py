"""Stochastic depth (Huang et al. 2016): leave out a whole residual branch for some clips of a batch."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a branch's output [B, ...] for each clip with probability ``rate``, and scale the others by 1/(1 - rate).

    In training the model's owner sets `keys`, one integer a clip, and the choice depends on the clip's key and on
    this layer alone: so it is the same on however many workers the batch is spread, and again when activations are
    computed a second time by checkpointing. Without keys, torch's generator decides.
    """

    def __init__(self, rate: float, layer: int) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path={rate}: a rate in [0, 1) is needed")
        self.rate = rate
        self.layer = layer
        self.keys: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, ...] with some clips' values zeroed while training."""
        if not self.training or self.rate == 0:
            return x
        drawn = torch.rand(x.shape[0], device=x.device) if self.keys is None else uniform(self.keys, self.layer)
        keep = (drawn.to(x.device) >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * keep.view(-1, *([1] * (x.ndim - 1)))


def uniform(keys: Tensor, stream: int) -> Tensor:
    """A number in [0, 1) for each key (int64 [B]) and stream: SplitMix64's mixing, in wrapping int64 arithmetic."""
    z = keys + (((stream + 1) * -7046029254386353131 + 2**63) % 2**64 - 2**63)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ _shift_right(z, shift)) * factor
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).double() * 2.0**-53


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's ``>>`` of a negative int64 brings in ones."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def rates(drop_path: float, depth: int) -> list[float]:
    """The usual rule: from 0 at the first block linearly to ``drop_path`` at the last."""
    return [drop_path * layer / max(1, depth - 1) for layer in range(depth)]


def set_keys(model: nn.Module, keys: Tensor | None) -> None:
    """Hand one int64 key a clip to every `DropPath` of ``model`` (None: back to torch's generator)."""
    for module in model.modules():
        if isinstance(module, DropPath):
            module.keys = keys
