"""VideoMAE V2 with the choices of the published code, pre-training and classifier, written plainly beside ours.

The same mathematics and the same parameter names as `marey.backbones.videomae`, so that one state dict fits both.
What differs is how it is computed: all tubelets are embedded by a Conv3d, tokens are picked by boolean masks,
attention forms its whole matrix of weights, targets are made for every tubelet before most are dropped, and AdamW
goes from parameter to parameter. The choices are those of OpenGVLab/VideoMAEv2 (models/modeling_pretrain.py,
models/modeling_finetune.py, engine_for_pretraining.py).
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from marey.backbones.videomae import PlainTransformerConfig, VideoMAEConfig, VideoMAEPretrainConfig
from marey.nn.block import NORM_EPS, Stack
from marey.nn.droppath import rates
from marey.nn.pixels import MEAN, STD
from marey.nn.position import sincos_table
from marey.nn.tubelet import Shape3


class NaiveAttention(nn.Module):
    """softmax(q kᵀ / √d) v, step by step."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Every token attends to every token; the weights [B, heads, N, N] are in memory."""
        b, n, d = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        qkv = functional.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class PlainMlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class PlainDropPath(nn.Module):
    """Stochastic depth: each clip's branch is kept or zeroed by a draw on the device, as timm does it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, ...] with some clips' values zeroed while training."""
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


class PlainBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = NaiveAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = PlainMlp(width, int(width * mlp_ratio))
        self.drop_path = PlainDropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens in, tokens out."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def plain_blocks(config: PlainTransformerConfig) -> Stack:
    """The encoder's blocks."""
    rate = rates(config.drop_path, config.depth)
    return Stack(PlainBlock(config.width, config.num_heads, config.mlp_ratio, each) for each in rate)


class ConvEmbed(nn.Module):
    """Tubelets to tokens by a convolution whose stride is its kernel."""

    def __init__(self, in_channels: int, width: int, tubelet: Shape3) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, kernel_size=tubelet, stride=tubelet)

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n d"]:
        """All tokens."""
        return self.proj(clip).flatten(2).transpose(1, 2)


class PublishedEncoder(nn.Module):
    """Embeds everything, then keeps what is visible."""

    position: Tensor

    def __init__(self, config: VideoMAEPretrainConfig) -> None:
        super().__init__()
        self.patch_embed = ConvEmbed(config.in_channels, config.width, config.tubelet)
        self.register_buffer("position", sincos_table(config.grid.tokens, config.width), persistent=False)
        self.blocks = plain_blocks(config)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(self, clip: Float[Tensor, "b c t h w"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b v d"]:
        """Tokens that ``mask`` does not hide."""
        x = self.patch_embed(clip) + self.position.type_as(clip).to(clip.device).clone().detach()
        x = pick(x, ~mask)
        for block in self.blocks:
            x = self.blocks.run(block, x)
        return self.norm(x)


class PublishedDecoder(nn.Module):
    """Blocks over everything, norm and head over the mask tokens."""

    def __init__(self, config: VideoMAEPretrainConfig) -> None:
        super().__init__()
        width, heads = config.decoder_width, config.decoder_num_heads
        self.blocks = Stack(PlainBlock(width, heads, config.mlp_ratio) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        t, h, w = config.tubelet
        self.head = nn.Linear(width, config.in_channels * t * h * w)

    def forward(self, x: Float[Tensor, "b n d"], num_decoded: int) -> Float[Tensor, "b k p"]:
        """Pixels of the last ``num_decoded`` tokens."""
        for block in self.blocks:
            x = self.blocks.run(block, x)
        return self.head(self.norm(x[:, -num_decoded:]))


class PublishedVideoMAE(nn.Module):
    """Clip and masks (True = hidden, True = not decoded) to the loss."""

    position: Tensor

    def __init__(self, config: VideoMAEPretrainConfig) -> None:
        super().__init__()
        self.tubelet = config.tubelet
        self.encoder = PublishedEncoder(config)
        self.encoder_to_decoder = nn.Linear(config.width, config.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder = PublishedDecoder(config)
        self.register_buffer("position", sincos_table(config.grid.tokens, config.decoder_width), persistent=False)

    def forward(
        self, clip: Float[Tensor, "b c t h w"], mask: Bool[Tensor, "b n"], decode_mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, ""]:
        """Mean squared error of the tokens that are decoded and were hidden."""
        x = self.encoder_to_decoder(self.encoder(clip, mask))
        position = self.position.expand(x.shape[0], -1, -1).type_as(x).clone().detach()
        decoded = pick(position, ~decode_mask)
        full = torch.cat((x + pick(position, ~mask), self.mask_token + decoded), dim=1)
        prediction = self.decoder(full, decoded.shape[1])
        with torch.no_grad():
            labels = pick(all_targets(clip, self.tubelet), ~decode_mask)
            counts = mask[~decode_mask].reshape(x.shape[0], -1)
        error = ((prediction - labels) ** 2).mean(dim=-1)
        return (error * counts).sum() / counts.sum()


class PublishedClassifier(nn.Module):
    """Clip to logits: all tokens through all blocks, their mean, norm and head."""

    position: Tensor

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.patch_embed = ConvEmbed(config.in_channels, config.width, config.tubelet)
        self.register_buffer("position", sincos_table(config.grid.tokens, config.width), persistent=False)
        self.blocks = plain_blocks(config)
        self.fc_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.head = nn.Linear(config.width, config.num_classes)

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Logits."""
        x = self.patch_embed(clip)
        x = x + self.position.expand(x.shape[0], -1, -1).type_as(x).clone().detach()
        for block in self.blocks:
            x = self.blocks.run(block, x)
        return self.head(self.fc_norm(x.mean(1)))


def pick(x: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"]) -> Float[Tensor, "b k d"]:
    """Tokens by a boolean mask; every clip keeps equally many."""
    return x[keep].reshape(x.shape[0], -1, x.shape[-1])


@torch.no_grad()
def all_targets(clip: Float[Tensor, "b c t h w"], tubelet: Shape3) -> Float[Tensor, "b n p"]:
    """Pixels of every tubelet, normalised in each cube and channel; p runs over (t, h, w, c)."""
    mean, std = (torch.tensor(values, device=clip.device).view(1, 3, 1, 1, 1) for values in (MEAN, STD))
    t, h, w = tubelet
    cubes = rearrange(
        clip * std + mean, "b c (nt t) (nh h) (nw w) -> b (nt nh nw) (t h w) c", t=t, h=h, w=w
    )  # fmt: skip
    centre = cubes.mean(dim=-2, keepdim=True)
    deviation = cubes.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
    return ((cubes - centre) / deviation).flatten(2)


def plain_adamw(model: nn.Module, weight_decay: float, lr: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW that goes from parameter to parameter; vectors and biases do not decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, foreach=False, fused=False)


def grad_norm(model: nn.Module) -> Tensor:
    """Norm of all gradients, one parameter at a time."""
    return torch.norm(torch.stack([torch.norm(p.grad.detach()) for p in model.parameters() if p.grad is not None]))
