"""Masked pre-training of Hiera (Ryali et al. 2023; facebookresearch/hiera, hiera_mae.py): hide mask units, fuse stages.

The drawing is in `marey.backbones.hiera`. Stage 4 does not pool here, so that a unit ends as 2×2 tokens; query pooling
has no parameters, so the weights are the classifier's. Hidden are whole units of 32×32 pixels in two frames; targets
are the 16×16 pixels of each hidden token in the first frame of its slot, normalised over all their values together.

Where we depart: masks are True where a unit is *hidden*; the loss is the mean of the clips' means, which is the
published mean, since all clips hide equally many units.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from marey.backbones.base import BackboneConfig, MaskedOutput, check_heads
from marey.backbones.hiera import (
    IMAGE,
    SIZES,
    SLOT,
    UNIT_PIXELS,
    Encoder,
    HieraBlock,
    PyramidConfig,
    encoder_name,
    rename,
    start,
)
from marey.errors import ConfigError
from marey.nn import masks
from marey.nn.block import NORM_EPS, Stack
from marey.nn.mask_units import spread, unit_maps
from marey.nn.masks import Rng
from marey.nn.pixels import denormalise
from marey.nn.tubelet import Grid, gather_tokens

__all__ = ["VARIANTS", "HieraPretrain", "HieraPretrainConfig", "encoder_name", "rename"]


class HieraPretrainConfig(PyramidConfig):
    """Encoder, fusion and decoder for masked pre-training."""

    purpose: ClassVar[str] = "masked pre-training"
    poolings: ClassVar[int] = 2

    decoder_width: int = Field(512, gt=0)
    """Channels of a token in the decoder."""
    decoder_depth: int = Field(8, gt=0)
    """Number of decoder blocks."""
    decoder_num_heads: int = Field(16, gt=0)
    """Attention heads of the decoder."""

    @model_validator(mode="after")
    def _decoder_divides(self) -> "HieraPretrainConfig":
        check_heads(self.decoder_width, self.decoder_num_heads, "decoder_")
        return self

    def build(self) -> "HieraPretrain":
        """See `BackboneConfig.build`."""
        return HieraPretrain(self)


class HieraPretrain(Encoder):
    """Masked pre-training: clip and mask of units to a loss; see the drawing above."""

    no_weight_decay = (*Encoder.no_weight_decay, "mask_token", "decoder_pos_embed")
    config: HieraPretrainConfig

    def __init__(self, config: HieraPretrainConfig) -> None:
        super().__init__(config)
        video, width, inner = config.frames > 1, 8 * config.width, config.decoder_width
        self.multi_scale_fusion_heads = nn.ModuleList(
            nn.Conv3d(config.width * 2**stage, width, (1, size, size), (1, size, size))
            if video
            else nn.Conv2d(config.width * 2**stage, width, size, size)
            for stage, size in enumerate((4, 2))
        )
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.decoder_grid = Grid(config.units.t, 2 * config.units.h, 2 * config.units.w)
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.decoder_grid.tokens, inner))
        self.decoder_blocks = Stack(
            HieraBlock(inner, inner, config.decoder_num_heads, 0, False, 0.0, layer)
            for layer in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(inner, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(inner, (UNIT_PIXELS // 2) ** 2 * config.in_channels)
        start(self)

    def draw_masks(self, rng: Rng, ratio: float, decoder_ratio: float) -> tuple[Bool[Tensor, " u"], None]:
        """One clip's mask over units; the decoder reconstructs all that is hidden."""
        if decoder_ratio > 0:
            raise ConfigError(
                f"recipe.decoder_mask_ratio={decoder_ratio}: Hiera's decoder reconstructs all hidden units; say 0"
            )
        total = self.config.units.tokens
        return torch.from_numpy(masks.exactly(total, total - int(total * (1 - ratio)), rng)), None

    def forward(
        self,
        clip: Float[Tensor, "b c *size"],
        mask: Bool[Tensor, "b u"] | None = None,
        decode_mask: Tensor | None = None,
        generator: Rng | torch.Generator | None = None,
    ) -> MaskedOutput:
        """Loss, reconstruction and targets [B, n, p] of the hidden tokens (16×16 pixels) in (t, h, w) order.

        mask: True = hidden, over mask units in (t, h, w) order; None hides nine tenths (of an image six), drawn from
        ``generator``. p runs over (h, w, c) of a slot's first frame; over (c, h, w) of an image.
        """
        if decode_mask is not None:
            raise ValueError("decode_mask: Hiera's decoder reconstructs all hidden units; leave it out")
        if mask is None:
            rng, ratio = masks.as_rng(generator), 0.6 if self.config.frames == 1 else 0.9
            mask = torch.stack([self.draw_masks(rng, ratio, 0.0)[0] for _ in range(clip.shape[0])])
        hidden = masks.indices(self._hidden_tokens(mask)).to(clip.device)
        x = self._decode(self._fuse(self.encode(clip, mask)), masks.indices(~mask).to(clip.device))
        reconstruction = self.decoder_pred(gather_tokens(x, hidden))
        targets = gather_tokens(_normalised(self._patches(self._checked(clip)))[0], hidden)
        loss = (reconstruction.float() - targets).square().mean((1, 2)).mean()
        return MaskedOutput(loss, reconstruction, targets)

    @torch.no_grad()
    def reconstruct(
        self, clip: Float[Tensor, "b c t h w"], mask: Bool[Tensor, "b u"], decode_mask: Tensor | None = None
    ) -> tuple[MaskedOutput, Float[Tensor, "b t h w c"], Float[Tensor, "b t h w c"]]:
        """(output, masked, reconstructed): pixels in 0..1 to look at; hidden units are grey in ``masked``.

        A patch is shown with the original's own mean and deviation, which the model does not predict. Of each slot it
        predicts the first frame, which ``reconstructed`` therefore shows for the whole slot.
        """
        output = self(clip, mask, decode_mask)
        hidden = masks.indices(self._hidden_tokens(mask)).to(clip.device)
        patches = self._patches(self._checked(clip).float())
        _, mean, deviation = _normalised(patches)
        shown = output.reconstruction.float() * gather_tokens(deviation, hidden) + gather_tokens(mean, hidden)
        filled = patches.scatter(1, hidden[:, :, None].expand_as(shown), shown)
        whole = clip if clip.ndim == 5 else clip[:, :, None]
        pixels = spread(mask.to(clip.device), self.config.units, tuple(whole.shape[2:]))
        frames = self._pictures(filled).repeat_interleave(whole.shape[2] // self.config.units.t, 2)
        original = denormalise(whole.float())
        masked = torch.where(pixels, torch.full_like(original, 0.5), original)
        filled_in = torch.where(pixels, denormalise(frames), original).clamp(0, 1)
        return output, masked.movedim(1, -1), filled_in.movedim(1, -1)

    def _hidden_tokens(self, mask: Bool[Tensor, "b u"]) -> Bool[Tensor, "b n"]:
        """The mask over the decoder's tokens, four to a unit."""
        return spread(mask, self.config.units, tuple(self.decoder_grid)).flatten(1)

    def _fuse(self, ends: Sequence[Tensor]) -> Float[Tensor, "b k *cells e"]:
        """Stages 1, 2 and 4 of every unit, brought to 2×2 tokens and added."""
        b, _, k, _ = ends[-1].shape
        maps = [unit_maps(ends[stage]) for stage in (0, 1, 3)]
        if self.config.frames > 1:
            maps = [each.unsqueeze(2) for each in maps]
        fused = maps[2] + sum(head(each) for head, each in zip(self.multi_scale_fusion_heads, maps, strict=False))
        return self.encoder_norm(fused.movedim(1, -1).unflatten(0, (b, k)))

    def _decode(self, x: Tensor, keep: Int64[Tensor, "b k"]) -> Float[Tensor, "b n d"]:
        """The decoder's tokens of the whole clip, mask tokens where a unit is not in ``keep``."""
        visible = self.decoder_embed(x).flatten(2, -2)  # [b, k, 4, d], rows of a unit's 2×2
        b, _, cells, d = visible.shape
        whole = self.mask_token.to(visible.dtype).expand(b, self.decoder_grid.tokens, d).view(b, -1, cells, d)
        whole = whole.scatter(1, keep[:, :, None, None].expand_as(visible), visible)
        t, h, w = self.config.units
        tokens = rearrange(whole, "b (t h w) (y x) d -> b (t h y w x) d", t=t, h=h, w=w, y=2)
        tokens = tokens + self.decoder_pos_embed.to(tokens.dtype)
        for block in self.decoder_blocks:
            tokens = self.decoder_blocks.run(block, tokens)
        return self.decoder_norm(tokens)

    def _patches(self, clip: Float[Tensor, "b c *size"]) -> Float[Tensor, "b n p"]:
        """Pixels of the decoder's patches, as given: the published targets undo no normalisation."""
        size = {"y": UNIT_PIXELS // 2, "x": UNIT_PIXELS // 2}
        if self.config.frames == 1:
            return rearrange(clip, "b c (h y) (w x) -> b (h w) (c y x)", **size)
        return rearrange(clip[:, :, ::SLOT], "b c t (h y) (w x) -> b (t h w) (y x c)", **size)

    def _pictures(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b c t h w"]:
        t, h, w = self.decoder_grid
        size = {"t": t, "h": h, "w": w, "y": UNIT_PIXELS // 2, "x": UNIT_PIXELS // 2}
        inner = "(c y x)" if self.config.frames == 1 else "(y x c)"
        return rearrange(patches, f"b (t h w) {inner} -> b c t (h y) (w x)", **size)


def _normalised(patches: Float[Tensor, "b n p"]) -> tuple[Tensor, Tensor, Tensor]:
    """Each patch over all its values, with its mean and deviation; fp32."""
    patches = patches.float()
    mean = patches.mean(-1, keepdim=True)
    deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation


VARIANTS: dict[str, BackboneConfig] = {
    **{f"hiera_{name}_224_pretrain": HieraPretrainConfig(**size, **IMAGE) for name, size in SIZES.items()},
    **{f"hiera_{name}_16x224_pretrain": HieraPretrainConfig(**size) for name, size in SIZES.items()},
}
