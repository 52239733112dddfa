"""Position tables."""

import torch
from torch import Tensor


def sincos_table(num_tokens: int, width: int) -> Tensor:
    """Fixed sine-cosine table float32 [1, N, D] over the flattened token index (Vaswani et al. 2017).

    sin on even and cos on odd channels of ``position / 10000^(2⌊i/2⌋ / D)``, as VideoMAE computes it (in float64).
    """
    channel = torch.arange(width, dtype=torch.float64)
    rate = torch.pow(10000.0, 2 * torch.div(channel, 2, rounding_mode="floor") / width)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / rate
    even = torch.arange(width) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).float().unsqueeze(0)
