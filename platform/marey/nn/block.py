"""The pre-norm transformer block and a stack of them."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from marey.nn.attention import Attention
from marey.nn.droppath import DropPath, rates
from marey.nn.mlp import Mlp

NORM_EPS = 1e-6  # of ViT and its descendants; PyTorch's default is 1e-5


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0, layer: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path1 = DropPath(drop_path, 2 * layer)
        self.drop_path2 = DropPath(drop_path, 2 * layer + 1)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens in, tokens out."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Stack(nn.ModuleList):
    """Blocks in order; with ``checkpointing`` each one's activations are computed again in the backward pass."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.checkpointing = False

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block's output."""
        # Non-reentrant: the reentrant kind loses gradients where the input needs none.
        return checkpoint(block, x, use_reentrant=False) if self.checkpointing and self.training else block(x)


class Blocks(Stack):
    """A stack of equal blocks."""

    def __init__(self, depth: int, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        rate = rates(drop_path, depth)
        super().__init__(Block(width, num_heads, mlp_ratio, rate[layer], layer) for layer in range(depth))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """One block after the other."""
        for block in self:
            x = self.run(block, x)
        return x


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """Switch activation checkpointing in every stack of ``model``."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.checkpointing = on


def set_compiled(model: nn.Module) -> None:
    """Compile every block of ``model``, each kind of block once; a model without stacks as a whole. In place.

    Names of parameters stay. Blocks alone, because what lies between them (masks, views) changes from step to step.
    """
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    for module in (block for stack in stacks for block in stack):
        module.compile()
    if not stacks:
        model.compile()
