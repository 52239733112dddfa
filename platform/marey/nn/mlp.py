"""The transformer's two-layer perceptron."""

from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, exact GELU, linear: [..., D] to [..., D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``fc2(gelu(fc1(x)))``."""
        return self.fc2(self.act(self.fc1(x)))
