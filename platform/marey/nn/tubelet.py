"""Tubelet embedding: a clip cut into cubes of t × h × w pixels, each mapped to one token (Arnab et al. 2021, ViViT)."""

from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Shape3 = tuple[int, int, int]


class Grid(NamedTuple):
    """How many tokens (or mask units) a clip has along time, height and width."""

    t: int
    h: int
    w: int

    @property
    def slot(self) -> int:
        """Tokens in one temporal slot."""
        return self.h * self.w

    @property
    def tokens(self) -> int:
        """Tokens in the clip."""
        return self.t * self.h * self.w


def grid_of(clip: Shape3, tubelet: Shape3) -> Grid:
    """The token grid of a clip of (frames, height, width); ``ValueError`` where it does not divide into tubelets."""
    for size, step, axis in zip(clip, tubelet, ("frames", "height", "width"), strict=True):
        if size % step or size < step:
            raise ValueError(f"{axis} = {size} is not a multiple of the tubelet's {step}; tubelets are {tubelet}")
    return Grid(*(size // step for size, step in zip(clip, tubelet, strict=True)))


class TubeletEmbed(nn.Module):
    """[B, C, T, H, W] to tokens [B, N, D] in (t, h, w) order.

    The published models use a Conv3d whose stride is its kernel. That is one matrix product over cut-out cubes, and
    is computed so: the weight keeps the convolution's shape and name, and only the cubes asked for are embedded.
    """

    def __init__(self, in_channels: int, width: int, tubelet: Shape3) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.proj = CubeLinear(in_channels, width, tubelet)

    def forward(self, clip: Float[Tensor, "b c t h w"], keep: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Tokens of all tubelets, or of those whose indices are in ``keep`` [B, n]."""
        cubes = cut(clip, self.tubelet)
        if keep is not None:
            cubes = gather_tokens(cubes, keep)
        return self.proj(cubes)


class CubeLinear(nn.Conv3d):
    """A Conv3d that is given its cubes already cut out: [B, N, C·t·h·w] to [B, N, D]."""

    def __init__(self, in_channels: int, width: int, tubelet: Shape3) -> None:
        super().__init__(in_channels, width, kernel_size=tubelet, stride=tubelet)

    def forward(self, cubes: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """One product with the flattened kernel."""
        return nn.functional.linear(cubes, self.weight.flatten(1), self.bias)


def cut(clip: Float[Tensor, "b c t h w"], tubelet: Shape3) -> Float[Tensor, "b n p"]:
    """Cubes in (t, h, w) order, each flattened as (c, t, h, w): the order of a convolution's kernel."""
    t, h, w = tubelet
    return rearrange(clip, "b c (nt t) (nh h) (nw w) -> b (nt nh nw) (c t h w)", t=t, h=h, w=w)


def gather_tokens(tokens: Float[Tensor, "b n *d"], indices: Tensor) -> Float[Tensor, "b k *d"]:
    """The tokens at ``indices`` int64 [B, k], for each clip its own."""
    shape = tokens.shape[2:]
    return tokens.gather(1, indices.view(*indices.shape, *([1] * len(shape))).expand(-1, -1, *shape))
