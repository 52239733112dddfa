"""The FLOPs of a training step explained: closed forms, part by part, beside the operator-level count of `flops`.

A multiply-add counts as two. Counted are matrix products and convolutions; norms, activations, softmax, masks, targets
and the optimiser are not. The backward pass costs twice the forward one, a product for the gradient of each factor; the
embedding's costs once, since nobody asks for the gradient of the pixels. What activation checkpointing or a fused
attention kernel computes a second time does not count: these are the model's FLOPs, by which MFU is reckoned.

With n tokens of width d, a block has 4 n d² multiply-adds of attention projections (queries, keys, values, output),
2 n m d of attention products (queries by keys, weights by values; each query sees m tokens: all, or its mask unit) and
2 n d (ratio d) of the MLP.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from marey.backbones.base import BackboneConfig
from marey.backbones.hiera import UNIT_PIXELS, PyramidConfig
from marey.backbones.hiera_pretrain import HieraPretrainConfig
from marey.backbones.videomae import (
    DECODER_MASK_RATIO,
    MASK_RATIO,
    PlainTransformerConfig,
    VideoMAEPretrainConfig,
)
from marey.errors import ConfigError
from marey.nn import masks
from marey.nn.mask_units import SIDE

Name = Literal[
    "embedding", "attention projections", "attention products", "MLP", "shortcuts", "fusion", "decoder", "head"
]


@dataclass(frozen=True)
class Part:
    """FLOPs of one clip."""

    name: Name
    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Of both passes."""
        return self.forward + self.backward


Sums = dict[Name, int]
"""Multiply-adds of the forward pass by part."""


def explain(config: BackboneConfig) -> list[Part]:
    """The parts of a step of pre-training (masks of the paper) or classification, as `config`'s model is for."""
    match config:
        case VideoMAEPretrainConfig():
            sums = _videomae_pretraining(config)
        case PlainTransformerConfig():
            sums = _videomae(config, config.grid.tokens, config.grid.tokens) | {"head": config.width * _classes(config)}
        case HieraPretrainConfig():
            sums = _hiera_pretraining(config)
        case PyramidConfig():
            sums = _hiera(config, config.units.tokens) | {"head": 8 * config.width * _classes(config)}
        case _:
            raise ConfigError(f"{type(config).__name__}: its FLOPs are not explained; VideoMAE's and Hiera's are")
    return [Part(name, 2 * n, 2 * n if name == "embedding" else 4 * n) for name, n in sums.items() if n]


def total(parts: Iterable[Part]) -> int:
    """FLOPs of forward and backward for one clip."""
    return sum(part.total for part in parts)


def visible(config: VideoMAEPretrainConfig | HieraPretrainConfig) -> int:
    """Tokens (of Hiera: mask units) of a clip that the encoder sees."""
    if isinstance(config, VideoMAEPretrainConfig):
        return int((~masks.tube(config.grid, MASK_RATIO, np.random.default_rng(0))).sum())
    return int(config.units.tokens * (1 - MASK_RATIO))


def _classes(config: BackboneConfig) -> int:
    assert config.classes is not None, "a classifier has classes"
    return config.classes


def _block(tokens: int, width: int, seen: int, hidden: int) -> Sums:
    return {
        "attention projections": 4 * tokens * width**2,
        "attention products": 2 * tokens * seen * width,
        "MLP": 2 * tokens * width * hidden,
    }


def _videomae(config: PlainTransformerConfig, embedded: int, tokens: int) -> Sums:
    block = _block(tokens, config.width, tokens, int(config.width * config.mlp_ratio))
    embedding: Sums = {"embedding": embedded * _tubelet(config) * config.width}
    return embedding | {name: config.depth * n for name, n in block.items()}


def _tubelet(config: PlainTransformerConfig) -> int:
    t, h, w = config.tubelet
    return config.in_channels * t * h * w


def _videomae_pretraining(config: VideoMAEPretrainConfig) -> Sums:
    """The decoder takes every visible token and one for each position that the running cell keeps."""
    seen, width = visible(config), config.decoder_width
    skipped = masks.running_cell(config.grid, DECODER_MASK_RATIO, np.random.default_rng(0))
    decoded = int((~skipped).sum())
    joined = seen + decoded
    block = _block(joined, width, joined, int(width * config.mlp_ratio))
    decoder = seen * config.width * width + config.decoder_depth * sum(block.values())
    embedded = seen if config.embed == "visible" else config.grid.tokens
    return _videomae(config, embedded, seen) | {"decoder": decoder, "head": decoded * width * _tubelet(config)}


def _hiera(config: PyramidConfig, units: int) -> Sums:
    """Encoder of ``units`` mask units; the embedding is a convolution over the whole clip, hidden or not."""
    kernel = config.in_channels * 7 * 7 * (3 if config.frames > 1 else 1)
    sums: Sums = {"embedding": config.grid.tokens * kernel * config.width}
    places = SIDE**2  # tokens of a unit
    for stage, depth in enumerate(config.depths):
        for place in range(depth):
            first = place == 0 and stage > 0
            outside = config.width * 2**stage
            inside = outside // 2 if first else outside
            seen = places if stage < 2 or (stage == 2 and first) else units * places
            after = places // 4 if first and stage <= config.poolings else places
            block: Sums = {
                "attention projections": units * (places * inside * 3 * outside + after * outside**2),
                "attention products": 2 * units * after * seen * outside,
                "MLP": 2 * units * after * outside * 4 * outside,
                "shortcuts": units * places * inside * outside if first else 0,
            }
            sums |= {name: sums.get(name, 0) + n for name, n in block.items()}
            places = after
    return sums


def _hiera_pretraining(config: HieraPretrainConfig) -> Sums:
    """Stages 1 and 2 are brought to 2×2 tokens a unit; the decoder takes four tokens of every unit, hidden or not."""
    units, width, inner = visible(config), 8 * config.width, config.decoder_width
    tokens, hidden = 4 * config.units.tokens, 4 * (config.units.tokens - units)
    fusion = 4 * units * width * (4 * 4 * config.width + 2 * 2 * 2 * config.width)
    block = _block(tokens, inner, tokens, 4 * inner)
    return _hiera(config, units) | {
        "fusion": fusion,
        "decoder": 4 * units * width * inner + config.decoder_depth * sum(block.values()),
        "head": hidden * inner * (UNIT_PIXELS // 2) ** 2 * config.in_channels,
    }
