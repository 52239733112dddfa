"""VideoMAE V2 (Wang et al. 2023, arXiv:2303.16727) and VideoMAE (Tong et al. 2022, arXiv:2203.12602).

A plain vision transformer over tubelets, pre-trained by reconstructing the pixels of masked ones. V2 masks twice:
the encoder sees the tenth of the tokens that a tube mask leaves, and the decoder reconstructs the half of all
positions that a running-cell mask keeps.

    clip [B, 3, 16, 224, 224]
      │ tubelets 2×16×16 (g: 2×14×14), + fixed sine-cosine position            1568 tokens (g: 2048)
      ├─────────── classification ───────────┐ ├──────── pre-training ────────────────────────────┐
      │ all tokens                           │ │ visible tokens only (tube mask 0.9)  160 (g: 208)│
      ▼                                      │ ▼                                                  │
    depth × block (width)                    │ depth × block (width), norm                        │
      ▼                                      │ ▼ linear to decoder width, + position              │
    mean over tokens, fc_norm, head          │ visible ++ one mask token for each position kept   │
      ▼                                      │   by the running cells                 160 + 784   │
    logits [B, K]                            │ ▼ decoder_depth × block (decoder_width)            │
                                             │ mask tokens: norm, head to 2·16·16·3 pixels        │
                                             │ ▼                                                  │
                                             │ squared error at tokens hidden from the encoder    │
                                             └────────────────────────────────────────────────────┘

Numbers from OpenGVLab/VideoMAEv2 (models/modeling_finetune.py, modeling_pretrain.py). Where we depart: with
``embed="visible"`` only the tubelets that are kept are embedded, where the published code embeds all and drops nine
tenths; tokens are gathered by index, not by boolean masks; the loss is the mean of the clips' means, which
is the published mean wherever all clips have equally many tokens (always, for the masks of the paper), and does not
depend on how a batch is spread over workers.
"""

from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from marey.backbones.base import BackboneConfig, Features, MaskedOutput, check_heads
from marey.nn import masks
from marey.nn.block import NORM_EPS, Blocks
from marey.nn.masks import Rng
from marey.nn.pixels import denormalise
from marey.nn.position import sincos_table
from marey.nn.tubelet import Grid, TubeletEmbed, cut, gather_tokens, grid_of

MASK_RATIO = 0.9
DECODER_MASK_RATIO = 0.5


class PlainTransformerConfig(BackboneConfig):
    """Sizes of the encoder, which classification and pre-training share."""

    width: int = Field(768, gt=0)
    """Channels of a token."""
    depth: int = Field(12, gt=0)
    """Number of blocks."""
    num_heads: int = Field(12, gt=0)
    """Attention heads."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden channels of the perceptron, as a multiple of width."""
    tubelet: tuple[int, int, int] = (2, 16, 16)
    """Frames, height and width of a tubelet in pixels."""

    @property
    def grid(self) -> Grid:
        """Tokens along (t, h, w)."""
        return grid_of((self.frames, self.crop, self.crop), self.tubelet)

    @model_validator(mode="after")
    def _divides(self) -> "PlainTransformerConfig":
        for name, size, step in (("frames", self.frames, self.tubelet[0]), ("crop", self.crop, self.tubelet[1])):
            if size % step:
                raise ValueError(f"{name}={size} is not a multiple of the tubelet's {step}")
        check_heads(self.width, self.num_heads)
        return self


class VideoMAEConfig(PlainTransformerConfig):
    """A classifier."""

    num_classes: int = Field(400, gt=0)
    """Classes of the head."""

    def build(self) -> "VideoMAE":
        """See `BackboneConfig.build`."""
        return VideoMAE(self)


class VideoMAEPretrainConfig(PlainTransformerConfig):
    """Encoder and decoder for masked pre-training."""

    purpose: ClassVar[str] = "masked pre-training"

    decoder_width: int = Field(384, gt=0)
    """Channels of a token in the decoder."""
    decoder_depth: int = Field(4, gt=0)
    """Number of decoder blocks."""
    decoder_num_heads: int = Field(6, gt=0)
    """Attention heads of the decoder."""
    embed: Literal["all", "visible"] = "all"
    """Tubelets that are embedded: all, as published, or only the visible ones (same result, fewer operations)."""

    @model_validator(mode="after")
    def _decoder_divides(self) -> "VideoMAEPretrainConfig":
        check_heads(self.decoder_width, self.decoder_num_heads, "decoder_")
        return self

    def build(self) -> "VideoMAEPretrain":
        """See `BackboneConfig.build`."""
        return VideoMAEPretrain(self)


class Encoder(nn.Module):
    """Tubelets, positions and blocks."""

    position: Tensor
    embed_visible = False

    def __init__(self, config: PlainTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.patch_embed = TubeletEmbed(config.in_channels, config.width, config.tubelet)
        self.register_buffer("position", sincos_table(self.grid.tokens, config.width), persistent=False)
        self.blocks = Blocks(config.depth, config.width, config.num_heads, config.mlp_ratio, config.drop_path)

    def encode(self, clip: Float[Tensor, "b c t h w"], keep: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Tokens after the last block; of all tubelets, or only of those at indices ``keep`` int64 [B, n]."""
        self._check(clip)
        if self.embed_visible and keep is not None:
            x = self.patch_embed(clip, keep)
            x = x + gather_tokens(self.position.to(x.dtype).expand(x.shape[0], -1, -1), keep)
        else:
            x = self.patch_embed(clip)
            x = x + self.position.to(x.dtype)
            x = x if keep is None else gather_tokens(x, keep)
        return self.blocks(x)

    def _check(self, clip: Tensor) -> None:
        c = self.config
        expected = (c.in_channels, c.frames, c.crop, c.crop)
        if clip.ndim != 5 or tuple(clip.shape[1:]) != expected:
            raise ValueError(
                f"{c.name or type(self).__name__} takes clips [B, {', '.join(map(str, expected))}], "
                f"got {list(clip.shape)}; set frames= and crop= when creating the model"
            )


class VideoMAE(Encoder):
    """The classifier: clip [B, C, T, H, W] to logits [B, K]."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__(config)
        self.fc_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.head = nn.Linear(config.width, config.num_classes)
        self.apply(_truncated_normal)
        with torch.no_grad():
            self.head.weight.mul_(0.001)  # init_scale of the published fine-tuning

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Features:
        """Tokens [B, N, D] of the last block."""
        return Features(self.encode(clip), self.grid)

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the mean token."""
        return self.head(self.fc_norm(self.encode(clip).mean(1)))

    @property
    def num_layers(self) -> int:
        """See `Classifier`."""
        return self.config.depth

    def layer_of(self, parameter: str) -> int:
        """See `Classifier`: the embedding, then block by block, then norm and head."""
        if parameter.startswith("blocks."):
            return int(parameter.split(".")[1]) + 1
        return 0 if parameter.startswith("patch_embed.") else self.num_layers + 1


class PretrainEncoder(Encoder):
    """The encoder of pre-training ends in a norm, which the classifier does not have."""

    def __init__(self, config: VideoMAEPretrainConfig) -> None:
        super().__init__(config)
        self.embed_visible = config.embed == "visible"
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(self, clip: Float[Tensor, "b c t h w"], keep: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Normalised tokens of the tubelets at indices ``keep``."""
        return self.norm(self.encode(clip, keep))


class Decoder(nn.Module):
    """Blocks over visible and mask tokens; a norm and a head over the mask tokens alone."""

    def __init__(self, config: VideoMAEPretrainConfig) -> None:
        super().__init__()
        t, h, w = config.tubelet
        self.blocks = Blocks(config.decoder_depth, config.decoder_width, config.decoder_num_heads, config.mlp_ratio)
        self.norm = nn.LayerNorm(config.decoder_width, eps=NORM_EPS)
        self.head = nn.Linear(config.decoder_width, config.in_channels * t * h * w)

    def forward(self, x: Float[Tensor, "b n d"], num_decoded: int) -> Float[Tensor, "b k p"]:
        """Pixels of the last ``num_decoded`` tokens."""
        return self.head(self.norm(self.blocks(x)[:, -num_decoded:]))


class VideoMAEPretrain(nn.Module):
    """Masked pre-training: clip and masks to a loss; see the drawing above."""

    position: Tensor
    no_weight_decay = ("mask_token",)

    def __init__(self, config: VideoMAEPretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.encoder = PretrainEncoder(config)
        self.encoder_to_decoder = nn.Linear(config.width, config.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder = Decoder(config)
        self.register_buffer("position", sincos_table(self.grid.tokens, config.decoder_width), persistent=False)
        self.apply(_xavier)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def draw_masks(
        self, rng: Rng, ratio: float = MASK_RATIO, decoder_ratio: float = DECODER_MASK_RATIO
    ) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"] | None]:
        """One clip's tube mask and running-cell mask (None at ``decoder_ratio`` 0: decode what is masked)."""
        mask = torch.from_numpy(masks.tube(self.grid, ratio, rng))
        skip = torch.from_numpy(masks.running_cell(self.grid, decoder_ratio, rng)) if decoder_ratio > 0 else None
        return mask, skip

    def forward(
        self,
        clip: Float[Tensor, "b c t h w"],
        mask: Bool[Tensor, "b n"] | None = None,
        decode_mask: Bool[Tensor, "b n"] | None = None,
        generator: Rng | torch.Generator | None = None,
    ) -> MaskedOutput:
        """Loss, reconstruction and targets [B, n_decoded, p] of a normalised clip.

        mask: True = hidden from the encoder; None draws masks of the paper's ratios from ``generator``.
        decode_mask: True = not decoded; None = decode what is masked. A token counts in the loss if it is decoded
        and was hidden from the encoder.
        """
        if mask is None:
            if decode_mask is not None:
                raise ValueError("decode_mask is given without mask; give both, or neither to have them drawn")
            mask, decode_mask = self._draw(clip.shape[0], generator)
        decoded = masks.indices(mask if decode_mask is None else ~decode_mask)
        counts = mask.gather(1, decoded).to(clip.device, torch.float32)
        decoded = decoded.to(clip.device)
        visible = masks.indices(~mask).to(clip.device)

        x = self.encoder_to_decoder(self.encoder(clip, visible))
        reconstruction = self.decoder(self._decoder_input(x, visible, decoded), decoded.shape[1])
        targets = self._targets(clip, decoded)
        error = (reconstruction.float() - targets).square().mean(-1)
        loss = ((error * counts).sum(1) / counts.sum(1)).mean()
        return MaskedOutput(loss, reconstruction, targets)

    @torch.no_grad()
    def reconstruct(
        self,
        clip: Float[Tensor, "b c t h w"],
        mask: Bool[Tensor, "b n"],
        decode_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[MaskedOutput, Float[Tensor, "b t h w c"], Float[Tensor, "b t h w c"]]:
        """(output, masked, reconstructed): pixels in 0..1 to look at.

        The model predicts pixels normalised within each tubelet, so that a reconstruction needs the tubelet's own
        mean and deviation to be shown; they are taken from the original, as the authors' pictures do. Hidden tokens
        are grey in ``masked``; in ``reconstructed`` they show the prediction where there is one and stay grey where
        the decoder skipped them.
        """
        output = self(clip, mask, decode_mask)
        decoded = masks.indices(mask if decode_mask is None else ~decode_mask).to(clip.device)
        cubes = self._pixels(cut(clip.float(), self.config.tubelet))
        mean, deviation = _statistics(cubes)
        shown = gather_tokens(deviation, decoded) * _split(output.reconstruction, cubes) + gather_tokens(mean, decoded)
        hidden = mask.to(clip.device)[:, :, None, None]
        masked = torch.where(hidden, torch.full_like(cubes, 0.5), cubes)
        filled = masked.scatter(1, decoded[:, :, None, None].expand_as(shown), shown.to(masked.dtype))
        return output, self._assemble(masked), self._assemble(torch.where(hidden, filled, cubes)).clamp(0, 1)

    def _draw(self, num_clips: int, generator: Rng | torch.Generator | None) -> tuple[Tensor, Tensor]:
        rng = masks.as_rng(generator)
        drawn = [self.draw_masks(rng) for _ in range(num_clips)]
        return torch.stack([mask for mask, _ in drawn]), torch.stack([skip for _, skip in drawn if skip is not None])

    def _decoder_input(self, visible_tokens: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
        """[visible + position, mask token + position]: attention does not care for the order of its tokens."""
        position = self.position.to(visible_tokens.dtype).expand(visible_tokens.shape[0], -1, -1)
        return torch.cat(
            (
                visible_tokens + gather_tokens(position, visible),
                self.mask_token.to(visible_tokens.dtype) + gather_tokens(position, decoded),
            ),
            dim=1,
        )

    @torch.no_grad()
    def _targets(self, clip: Tensor, decoded: Tensor) -> Float[Tensor, "b n p"]:
        """Pixels in 0..1, normalised in each cube and channel, flattened as (t h w) then channel."""
        cubes = self._pixels(gather_tokens(cut(clip.float(), self.config.tubelet), decoded))
        mean, deviation = _statistics(cubes)
        return ((cubes - mean) / deviation).flatten(2)

    def _pixels(self, cubes: Float[Tensor, "b n cp"]) -> Float[Tensor, "b n p c"]:
        """Normalised cubes as pixels in 0..1."""
        return denormalise(rearrange(cubes, "b n (c p) -> b n p c", c=self.config.in_channels), channel=-1)

    def _assemble(self, cubes: Float[Tensor, "b n p c"]) -> Float[Tensor, "b t h w c"]:
        (nt, nh, nw), (t, h, w) = self.grid, self.config.tubelet
        return rearrange(
            cubes, "b (nt nh nw) (t h w) c -> b (nt t) (nh h) (nw w) c", nt=nt, nh=nh, nw=nw, t=t, h=h, w=w
        )


def _statistics(cubes: Float[Tensor, "b n p c"]) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased deviation + 1e-6) of each cube and channel, [B, n, 1, c]."""
    return cubes.mean(2, keepdim=True), cubes.std(2, keepdim=True) + 1e-6


def _split(tokens: Float[Tensor, "b n pc"], like: Float[Tensor, "b m p c"]) -> Float[Tensor, "b n p c"]:
    return tokens.float().unflatten(-1, like.shape[-2:])


def _truncated_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


VARIANTS: dict[str, PlainTransformerConfig] = {
    "videomae_v2_tiny_16x224": VideoMAEConfig(width=192, depth=12, num_heads=3),
    "videomae_v2_small_16x224": VideoMAEConfig(width=384, depth=12, num_heads=6),
    "videomae_v2_base_16x224": VideoMAEConfig(width=768, depth=12, num_heads=12),
    "videomae_v2_large_16x224": VideoMAEConfig(width=1024, depth=24, num_heads=16),
    "videomae_v2_huge_16x224": VideoMAEConfig(width=1280, depth=32, num_heads=16),
    "videomae_v2_giant_16x224": VideoMAEConfig(
        width=1408, depth=40, num_heads=16, mlp_ratio=48 / 11, tubelet=(2, 14, 14)
    ),
    # tiny is ours: DeiT-Ti's encoder under half-width decoder blocks, for CPUs.
    "videomae_v2_tiny_pretrain": VideoMAEPretrainConfig(
        width=192, depth=12, num_heads=3, decoder_width=96, decoder_num_heads=3
    ),
    "videomae_v2_small_pretrain": VideoMAEPretrainConfig(
        width=384, depth=12, num_heads=6, decoder_width=192, decoder_num_heads=3
    ),
    "videomae_v2_base_pretrain": VideoMAEPretrainConfig(
        width=768, depth=12, num_heads=12, decoder_width=384, decoder_num_heads=6
    ),
    "videomae_v2_large_pretrain": VideoMAEPretrainConfig(
        width=1024, depth=24, num_heads=16, decoder_width=512, decoder_num_heads=8
    ),
    "videomae_v2_huge_pretrain": VideoMAEPretrainConfig(
        width=1280, depth=32, num_heads=16, decoder_width=512, decoder_num_heads=8
    ),
    "videomae_v2_giant_pretrain": VideoMAEPretrainConfig(
        width=1408, depth=40, num_heads=16, mlp_ratio=48 / 11, tubelet=(2, 14, 14),
        decoder_width=512, decoder_num_heads=8,
    ),
}  # fmt: skip


def rename(name: str) -> str:
    """A tensor's (or module's) name in the authors' files as ours: the same, less the wrappers' prefixes."""
    for wrapper in ("module.", "model.", "backbone.", "_orig_mod."):
        name = name.removeprefix(wrapper)
    return name


def encoder_name(name: str) -> str | None:
    """A tensor of the pre-training model as the classifier's name for it; None for what the classifier lacks."""
    inner = name.removeprefix("encoder.")
    return inner if inner != name and not inner.startswith("norm.") else None
