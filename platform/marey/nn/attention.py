"""Multi-head self-attention through PyTorch's fused kernel."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class LinearWithBias(nn.Linear):
    """A linear map whose bias is put together by its caller.

    A module of its own, called as one, because ZeRO-3 gathers a weight only when the module that owns it is called.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x @ weightᵀ + bias``."""
        return functional.linear(x, self.weight, bias)


class Attention(nn.Module):
    """Self-attention with learned biases on queries and values and none on keys (BEiT, VideoMAE).

    A key bias adds the same to every logit of a query, so that the softmax removes it.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width={width} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.qkv = LinearWithBias(width, 3 * width)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Every token attends to every token."""
        b, n, d = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        q, k, v = self.qkv(x, bias).view(b, n, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))
