"""How tensors lie in memory."""

import torch
from torch import nn


def set_channels_last(model: nn.Module) -> None:
    """Lay the weights of all 3-D convolutions out with channels last; what they compute takes the layout up."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
