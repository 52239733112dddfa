"""Hiera (Ryali et al. 2023, arXiv:2306.00989): a pyramid of plain transformer blocks, pre-trained by masking units.

    clip [B, 3, 16, 224, 224]   (an image model: one frame, 7×7 convolution, no temporal positions)
      │ conv 3×7×7 / (2, 4, 4), + learned positions (space + time)           8×56×56 tokens
      │ masked: pixels of hidden units are zeroed before it, their tokens dropped after it
      ▼
    stage 1: depths[0] × block(width), attention within mask units of 8×8    8×56×56   ──┐ fusion: convolutions
    stage 2: depths[1] × block(2 width), within units; first block pools     8×28×28   ──┤ bring both to 2×2 tokens
    stage 3: depths[2] × block(4 width), first block pools; then global      8×14×14     │ a unit, and are added
    stage 4: depths[3] × block(8 width), global; first block pools           8×7×7     ──┘ to the last stage
      ▼                                                                        ▼ (pre-training: stage 4 does not pool)
    mean over tokens, norm, head: logits [B, K]       norm, linear to decoder width, mask tokens, + positions,
                                                      decoder_depth × block, norm, 16·16·3 pixels of hidden tokens

The first block of a stage doubles width and heads and pools its queries by a maximum over 2×2; its shortcut is the
maximum of a linear map of its norm. That block still attends within units at stage 3.

Numbers from facebookresearch/hiera (hiera.py, hiera_mae.py); training code was never released. Where we depart:
the head gives logits, where the published one ends in a softmax outside training. The masked model is in
`marey.backbones.hiera_pretrain`.
"""

from typing import Annotated, Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from marey.backbones.base import BackboneConfig, Features, check_heads
from marey.nn import masks
from marey.nn.block import NORM_EPS, Stack
from marey.nn.droppath import DropPath, rates
from marey.nn.mask_units import SIDE, hide_pixels, keep_units, reroll, unroll
from marey.nn.mlp import Mlp
from marey.nn.tubelet import Grid

PATCH = 4  # pixels from one token to the next
SLOT = 2  # frames from one slot of tokens to the next
UNIT_PIXELS = PATCH * SIDE
START_BIAS = 0.02  # of linear maps and norms, as published
_Depth = Annotated[int, Field(gt=0)]


class PyramidConfig(BackboneConfig):
    """Sizes of the encoder, which classification and pre-training share."""

    width: int = Field(96, gt=0)
    """Channels of a token in stage 1; each stage doubles them."""
    depths: tuple[_Depth, _Depth, _Depth, _Depth] = (2, 3, 16, 3)
    """Blocks of the four stages."""
    num_heads: int = Field(1, gt=0)
    """Attention heads in stage 1; each stage doubles them."""
    poolings: ClassVar[int] = 3

    @property
    def units(self) -> Grid:
        """Mask units along (t, h, w)."""
        return Grid(max(1, self.frames // SLOT), self.crop // UNIT_PIXELS, self.crop // UNIT_PIXELS)

    @property
    def grid(self) -> Grid:
        """Tokens along (t, h, w) before the first pooling."""
        return Grid(self.units.t, self.crop // PATCH, self.crop // PATCH)

    @model_validator(mode="after")
    def _divides(self) -> "PyramidConfig":
        if self.crop % UNIT_PIXELS:
            raise ValueError(f"crop={self.crop} is not a multiple of the {UNIT_PIXELS} pixels of a mask unit")
        if self.frames > 1 and self.frames % SLOT:
            raise ValueError(f"frames={self.frames}: 1 (an image model) or a multiple of {SLOT} is needed")
        check_heads(self.width, self.num_heads)
        return self


class HieraConfig(PyramidConfig):
    """A classifier."""

    num_classes: int = Field(400, gt=0)
    """Classes of the head."""

    def build(self) -> "Hiera":
        """See `BackboneConfig.build`."""
        return Hiera(self)


class UnitAttention(nn.Module):
    """Attention within units of ``window`` tokens, or over all tokens (0); queries may be pooled over 2×2."""

    def __init__(self, inside: int, outside: int, num_heads: int, window: int, pools: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.pools = pools
        self.qkv = nn.Linear(inside, 3 * outside)
        self.proj = nn.Linear(outside, outside)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m e"]:
        """Tokens [B, P·U, D] in the order of `marey.nn.mask_units`; a quarter of them if it pools."""
        b, n, _ = x.shape
        p = self.window or n
        q, k, v = rearrange(self.qkv(x), "b (p u) (x h d) -> x (b u) h p d", p=p, x=3, h=self.num_heads)
        if self.pools:
            q = q.unflatten(2, (4, -1)).amax(2)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(y, "(b u) h p d -> b (p u) (h d)", b=b))


class HieraBlock(nn.Module):
    """A pre-norm block that may widen, and pool by a maximum."""

    def __init__(
        self, inside: int, outside: int, num_heads: int, window: int, pools: bool, drop_path: float, layer: int
    ) -> None:
        super().__init__()
        self.pools = pools
        self.norm1 = nn.LayerNorm(inside, eps=NORM_EPS)
        self.attn = UnitAttention(inside, outside, num_heads, window, pools)
        self.norm2 = nn.LayerNorm(outside, eps=NORM_EPS)
        self.mlp = Mlp(outside, 4 * outside)
        self.proj = nn.Linear(inside, outside) if inside != outside else None
        self.drop_path1 = DropPath(drop_path, 2 * layer)
        self.drop_path2 = DropPath(drop_path, 2 * layer + 1)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m e"]:
        """Tokens in, tokens out; a quarter of them if it pools."""
        y = self.norm1(x)
        if self.proj is not None:
            x = self.proj(y)
            x = x.unflatten(1, (4, -1)).amax(1) if self.pools else x
        x = x + self.drop_path1(self.attn(y))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Overlapping patches: [B, C, T, H, W], or [B, C, H, W] of an image model, to tokens in (t, h, w) order."""

    def __init__(self, channels: int, width: int, frames: int) -> None:
        super().__init__()
        self.proj: nn.Conv2d | nn.Conv3d
        if frames == 1:
            self.proj = nn.Conv2d(channels, width, 7, PATCH, padding=3)
        else:
            self.proj = nn.Conv3d(channels, width, (3, 7, 7), (SLOT, PATCH, PATCH), padding=(1, 3, 3))

    def forward(self, clip: Float[Tensor, "b c *size"]) -> Float[Tensor, "b n d"]:
        """One token for every 4×4 pixels of every second frame."""
        return self.proj(clip).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Patches, positions and the four stages."""

    no_weight_decay: tuple[str, ...] = ("pos_embed", "pos_embed_spatial", "pos_embed_temporal")

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.in_channels, config.width, config.frames)
        grid = config.grid
        if config.frames == 1:
            self.pos_embed = nn.Parameter(torch.zeros(1, grid.slot, config.width))
        else:
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, grid.slot, config.width))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, grid.t, config.width))
        self.blocks = Stack(_blocks(config))
        self.stage_ends = [sum(config.depths[: stage + 1]) - 1 for stage in range(4)]

    def encode(self, clip: Tensor, mask: Bool[Tensor, "b u"] | None = None) -> list[Tensor]:
        """Tokens at the end of each stage as [B, P, U, D]; with ``mask`` of the units that it does not hide."""
        clip = self._checked(clip)
        if mask is not None:
            clip = hide_pixels(clip, mask.to(clip.device), self.config.units)
        x = self.patch_embed(clip)
        x = unroll(x + self._position().to(x.dtype), self.config.grid)
        if mask is not None:
            x = keep_units(x, masks.indices(~mask).to(x.device))
        b, _, u, _ = x.shape
        x, ends = x.reshape(b, -1, x.shape[-1]), []
        for number, block in enumerate(self.blocks):
            x = self.blocks.run(block, x)
            if number in self.stage_ends:
                ends.append(x.view(b, -1, u, x.shape[-1]))
        return ends

    def _position(self) -> Tensor:
        if self.config.frames == 1:
            return self.pos_embed
        space, time = self.pos_embed_spatial, self.pos_embed_temporal
        return (space[:, None] + time[:, :, None]).flatten(1, 2)

    def _checked(self, clip: Tensor) -> Tensor:
        """The clip without its time axis for an image model; ``ValueError`` for another size than the model's."""
        c = self.config
        if c.frames == 1 and clip.ndim == 5 and clip.shape[2] == 1:
            clip = clip[:, :, 0]
        size = (c.in_channels, c.crop, c.crop) if c.frames == 1 else (c.in_channels, c.frames, c.crop, c.crop)
        if tuple(clip.shape[1:]) != size:
            raise ValueError(
                f"{c.name or type(self).__name__} takes clips [B, {', '.join(map(str, size))}], got "
                f"{list(clip.shape)}; set frames= and crop= when creating the model"
            )
        return clip


class Head(nn.Module):
    """The linear head, under its published name."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, num_classes)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.projection(x)


class Hiera(Encoder):
    """The classifier: clip [B, C, T, H, W] (or image [B, C, H, W]) to logits [B, K]."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        width = 8 * config.width
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = Head(width, config.num_classes)
        start(self)
        with torch.no_grad():
            self.head.projection.weight.mul_(0.001)
            self.head.projection.bias.mul_(0.001)

    def pyramid(self, clip: Tensor) -> list[Features]:
        """Tokens at the end of each stage, from fine to coarse."""
        units = self.config.units
        return [Features(reroll(x, units), _grid(x, units)) for x in self.encode(clip)]

    def features(self, clip: Tensor) -> Features:
        """Tokens of the last stage."""
        return self.pyramid(clip)[-1]

    def forward(self, clip: Float[Tensor, "b c *size"]) -> Float[Tensor, "b k"]:
        """Logits of the mean token."""
        return self.head(self.norm(self.encode(clip)[-1].mean((1, 2))))

    @property
    def num_layers(self) -> int:
        """See `Classifier`."""
        return sum(self.config.depths)

    def layer_of(self, parameter: str) -> int:
        """See `Classifier`: patches and positions, then block by block, then norm and head."""
        if parameter.startswith("blocks."):
            return int(parameter.split(".")[1]) + 1
        return 0 if parameter.startswith(("patch_embed.", "pos_embed")) else self.num_layers + 1


def _grid(x: Float[Tensor, "b p u d"], units: Grid) -> Grid:
    side = 2 ** ((x.shape[1].bit_length() - 1) // 2)
    return Grid(units.t, side * units.h, side * units.w)


def _blocks(config: PyramidConfig) -> list[HieraBlock]:
    """All blocks in order. A stage's first block still attends as the stage before it."""
    rate, blocks, window = rates(config.drop_path, sum(config.depths)), list[HieraBlock](), SIDE**2
    for stage, depth in enumerate(config.depths):
        for place in range(depth):
            first = place == 0 and stage > 0
            pools = first and stage <= config.poolings
            outside = config.width * 2**stage
            local = stage < 2 or (stage == 2 and first)
            number = len(blocks)
            blocks.append(
                HieraBlock(
                    outside // 2 if first else outside, outside, config.num_heads * 2**stage,
                    window if local else 0, pools, rate[number], number,
                )
            )  # fmt: skip
            window = window // 4 if pools else window
    return blocks


def start(model: nn.Module) -> None:
    """The published start: truncated normal weights and positions, biases at 0.02."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.constant_(module.bias, START_BIAS)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.constant_(module.bias, START_BIAS)
    for name, parameter in model.named_parameters():
        if "pos_embed" in name or name == "mask_token":
            nn.init.trunc_normal_(parameter, std=0.02)


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 96, "depths": (1, 2, 7, 2), "num_heads": 1},
    "small": {"width": 96, "depths": (1, 2, 11, 2), "num_heads": 1},
    "base": {"width": 96, "depths": (2, 3, 16, 3), "num_heads": 1},
    "base_plus": {"width": 112, "depths": (2, 3, 16, 3), "num_heads": 2},
    "large": {"width": 144, "depths": (2, 6, 36, 4), "num_heads": 2},
    "huge": {"width": 256, "depths": (2, 6, 36, 4), "num_heads": 4},
}
IMAGE: dict[str, Any] = {"frames": 1, "crop": 224}
# Tiny and small for video are ours: the image models' sizes.
VARIANTS: dict[str, BackboneConfig] = {
    **{f"hiera_{name}_224": HieraConfig(**size, **IMAGE, num_classes=1000) for name, size in SIZES.items()},
    **{f"hiera_{name}_16x224": HieraConfig(**size) for name, size in SIZES.items()},
}


def rename(name: str) -> str:
    """A tensor's name in the authors' files as ours: the same, less the wrappers' prefixes."""
    return name.removeprefix("module.")


def encoder_name(name: str) -> str | None:
    """A tensor of the pre-training model as the classifier's name for it; None for what the classifier lacks."""
    return name if name.startswith(("patch_embed.", "pos_embed", "blocks.")) else None
