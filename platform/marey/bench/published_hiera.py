"""Hiera with the choices of the published code, classifier and pre-training, written plainly to stand beside ours.

The same mathematics and the same parameter names as `marey.backbones.hiera` and `marey.backbones.hiera_pretrain`, so
that one state dict fits both. What differs is how it is computed: tokens are unrolled by one permutation a level,
hidden ones dropped by a boolean mask over all channels, attention is given to PyTorch with five dimensions (for which
it has no fused kernel on a GPU), visible and mask tokens are joined by products with masks, and the decoder predicts
every position, of which the hidden ones are picked. The choices are those of facebookresearch/hiera (hiera/hiera.py,
hiera/hiera_utils.py, hiera/hiera_mae.py); it is for video (T > 1).
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from marey.backbones.hiera import PATCH, SLOT, UNIT_PIXELS, Head, HieraConfig, PyramidConfig, UnitAttention
from marey.backbones.hiera_pretrain import HieraPretrainConfig
from marey.bench.published import PlainDropPath, PlainMlp
from marey.nn.block import NORM_EPS, Stack
from marey.nn.droppath import rates
from marey.nn.mask_units import LEVELS, SIDE

CELL = 4  # tokens that a pooling makes one


class PlainUnitAttention(UnitAttention):
    """Attention with the windows as a dimension of their own; queries may be pooled."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m e"]:
        """Tokens in unrolled order."""
        b, n, _ = x.shape
        windows = n // self.window if self.window else 1
        qkv = self.qkv(x).reshape(b, -1, windows, 3, self.num_heads, self.proj.out_features // self.num_heads)
        q, k, v = qkv.permute(3, 0, 4, 2, 1, 5)
        if self.pools:
            q = q.reshape(b, self.num_heads, windows, CELL, -1, q.shape[-1]).max(dim=3).values
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 3).reshape(b, -1, self.proj.out_features))


class PlainHieraBlock(nn.Module):
    """A pre-norm block that may widen and pool."""

    def __init__(
        self, inside: int, outside: int, num_heads: int, window: int = 0, pools: bool = False, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.pools = pools
        self.norm1 = nn.LayerNorm(inside, eps=NORM_EPS)
        self.attn = PlainUnitAttention(inside, outside, num_heads, window, pools)
        self.norm2 = nn.LayerNorm(outside, eps=NORM_EPS)
        self.mlp = PlainMlp(outside, 4 * outside)
        self.drop_path = PlainDropPath(drop_path)
        self.proj = nn.Linear(inside, outside) if inside != outside else None

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m e"]:
        """Tokens in, tokens out; a quarter of them if it pools."""
        y = self.norm1(x)
        if self.proj is not None:
            x = self.proj(y)
            if self.pools:
                x = x.view(x.shape[0], CELL, -1, x.shape[-1]).max(dim=1).values
        x = x + self.drop_path(self.attn(y))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MaskedPatchEmbed(nn.Module):
    """Overlapping patches of a clip whose hidden pixels are zeroed by a mask that is enlarged to its size."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, (3, 7, 7), (SLOT, PATCH, PATCH), padding=(1, 3, 3))

    def forward(self, clip: Float[Tensor, "b c t h w"], keep: Tensor | None) -> Float[Tensor, "b n d"]:
        """``keep``: bool [B, 1, t, h, w] over units, or None."""
        if keep is not None:
            clip = clip * functional.interpolate(keep.float(), size=clip.shape[2:]).bool()
        x = self.proj(clip)
        return x.reshape(x.shape[0], x.shape[1], -1).transpose(2, 1)


class PublishedHieraEncoder(nn.Module):
    """Patches, positions, unrolling and the four stages."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.grid, self.units = config.grid, config.units
        self.patch_embed = MaskedPatchEmbed(config.in_channels, config.width)
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, self.grid.slot, config.width))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.grid.t, config.width))
        self.blocks = Stack(_blocks(config))
        self.stage_ends = [sum(config.depths[: stage + 1]) - 1 for stage in range(4)]

    def encode(self, clip: Float[Tensor, "b c t h w"], keep: Bool[Tensor, "b u"] | None = None) -> list[Tensor]:
        """Tokens [B, N, D] at the end of each stage; with ``keep`` of the units where it is True."""
        shape = (clip.shape[0], 1, *self.units)
        x = self.patch_embed(clip, None if keep is None else keep.view(shape))
        space = self.pos_embed_spatial.repeat(1, self.grid.t, 1)
        x = unrolled(x + space + self.pos_embed_temporal.repeat_interleave(self.grid.slot, dim=1), self.grid)
        if keep is not None:
            x = x[keep[..., None].tile(1, SIDE**2, x.shape[2])].view(x.shape[0], -1, x.shape[-1])
        ends = []
        for number, block in enumerate(self.blocks):
            x = self.blocks.run(block, x)
            if number in self.stage_ends:
                ends.append(x)
        return ends


class PublishedHiera(PublishedHieraEncoder):
    """Clip to logits."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(8 * config.width, eps=NORM_EPS)
        self.head = Head(8 * config.width, config.num_classes)

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.norm(self.encode(clip)[-1].mean(dim=1)))


class PublishedHieraPretrain(PublishedHieraEncoder):
    """Clip and mask (True = hidden) to the loss."""

    def __init__(self, config: HieraPretrainConfig) -> None:
        super().__init__(config)
        width, inner = 8 * config.width, config.decoder_width
        self.mask_ratio = 0.9
        self.multi_scale_fusion_heads = nn.ModuleList(
            nn.Conv3d(config.width * 2**stage, width, (1, size, size), (1, size, size))
            for stage, size in enumerate((4, 2))
        )
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, CELL * self.units.tokens, inner))
        self.decoder_blocks = Stack(
            PlainHieraBlock(inner, inner, config.decoder_num_heads) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(inner, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(inner, (UNIT_PIXELS // 2) ** 2 * config.in_channels)

    def forward(self, clip: Float[Tensor, "b c t h w"], mask: Bool[Tensor, "b u"] | None = None) -> Float[Tensor, ""]:
        """Mean squared error of the hidden tokens; without ``mask`` nine tenths of the units are drawn."""
        keep = self._draw(clip) if mask is None else ~mask
        prediction, visible = self._decode(self._fused(self.encode(clip, keep)), keep)
        labels = _all_patches(clip)[~visible]
        mean, variance = labels.mean(dim=-1, keepdim=True), labels.var(dim=-1, keepdim=True)
        return ((prediction[~visible] - (labels - mean) / (variance + 1e-6) ** 0.5) ** 2).mean()

    def _draw(self, clip: Tensor) -> Bool[Tensor, "b u"]:
        """Units to keep, by sorting noise on the device."""
        units, kept = self.units.tokens, int(self.units.tokens * (1 - self.mask_ratio))
        places = torch.rand(clip.shape[0], units, device=clip.device).argsort(dim=1).argsort(dim=1)
        keep = torch.zeros(clip.shape[0], units, device=clip.device)
        keep[:, :kept] = 1
        return keep.gather(1, places).bool()

    def _fused(self, ends: list[Tensor]) -> Float[Tensor, "b k t y x d"]:
        """Stages 1, 2 and 4 of every unit at 2×2 tokens, added."""
        first, second, _, last = ends
        fused = rerolled(last, 1)
        for head, end, levels in zip(self.multi_scale_fusion_heads, (first, second), (3, 2), strict=True):
            maps = rerolled(end, levels)
            y = head(rearrange(maps, "b k t y x d -> (b k) d t y x"))
            fused = fused + rearrange(y, "(b k) d t y x -> b k t y x d", b=maps.shape[0])
        return self.encoder_norm(fused)

    def _decode(self, x: Tensor, keep: Bool[Tensor, "b u"]) -> tuple[Tensor, Bool[Tensor, "b n"]]:
        """Predictions of all positions, and which of them are of visible units."""
        x = self.decoder_embed(x)
        whole = torch.zeros(*keep.shape, *x.shape[2:], device=x.device, dtype=x.dtype)
        there = keep[:, :, None, None, None, None].expand(*keep.shape, *x.shape[2:])
        whole[there] = x.flatten()
        whole = ~there * self.mask_token.view(1, 1, 1, 1, 1, -1) + there * whole
        tokens = self._in_space(whole) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = self.decoder_blocks.run(block, tokens)
        return self.decoder_pred(self.decoder_norm(tokens)), self._in_space(there[..., :1])[..., 0]

    def _in_space(self, x: Tensor) -> Float[Tensor, "b n d"]:
        t, h, w = self.units
        return rearrange(x, "b (t h w) s y x d -> b (t s h y w x) d", t=t, h=h, w=w)


def unrolled(tokens: Float[Tensor, "b n d"], grid: tuple[int, int, int]) -> Float[Tensor, "b n d"]:
    """Tokens of (t, h, w) order with each 2×2 cell's places first, level after level; a copy for each level."""
    b, n, d = tokens.shape
    x = tokens.view(b, *grid, d)
    for _ in range(LEVELS):
        x = rearrange(x, "b t (h y) (w x) d -> (b y x) t h w d", y=2, x=2)
    return x.reshape(b, n, d)


def rerolled(x: Float[Tensor, "b n d"], levels: int) -> Float[Tensor, "b k t y x d"]:
    """Each unit's tokens as a map of 2^levels × 2^levels; a copy for each level."""
    x = x[:, :, None, None, None]
    for _ in range(levels):
        x = rearrange(x, "b (j i k) t y x d -> b k t (j y) (i x) d", j=2, i=2)
    return x


def _all_patches(clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n p"]:
    """Pixels of every decoded position, in the first frame of its slot."""
    size = UNIT_PIXELS // 2
    frames = clip[:, :, ::SLOT].permute(0, 2, 3, 4, 1)
    cut = frames.unfold(2, size, size).unfold(3, size, size)  # [b, t, h, w, c, y, x]
    return rearrange(cut, "b t h w c y x -> b (t h w) (y x c)")


def _blocks(config: PyramidConfig) -> list[PlainHieraBlock]:
    """All blocks; a stage's first one attends as the stage before it."""
    rate, blocks = rates(config.drop_path, sum(config.depths)), list[PlainHieraBlock]()
    for stage, depth in enumerate(config.depths):
        outside, heads = config.width * 2**stage, config.num_heads * 2**stage
        for place in range(depth):
            first = place == 0 and stage > 0
            before = stage - first
            window = SIDE**2 // CELL**before if before < 2 else 0
            pools = first and stage <= config.poolings
            inside = outside // 2 if first else outside
            blocks.append(PlainHieraBlock(inside, outside, heads, window, pools, rate[len(blocks)]))
    return blocks
