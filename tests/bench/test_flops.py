"""FLOPs counted on the meta device against a closed formula, and the table of peaks."""

import pytest
import torch

from marey.backbones.zoo import configure
from marey.bench import flops
from marey.recipes.masked import MaskedConfig


def blocks(tokens, width, depth, ratio):
    """Multiply-adds of the forward pass: qkv and projection, both attention products, the perceptron."""
    return depth * (4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width**2 * ratio)


def formula(config, visible, decoded, embedded):
    """FLOPs of forward and backward: three forwards, less the gradient of the pixels, which nobody asks for."""
    t, h, w = config.tubelet
    pixels = 3 * t * h * w
    embed = embedded * pixels * config.width
    forward = blocks(visible, config.width, config.depth, config.mlp_ratio)
    forward += visible * config.width * config.decoder_width
    forward += blocks(visible + decoded, config.decoder_width, config.decoder_depth, config.mlp_ratio)
    forward += decoded * config.decoder_width * pixels
    return 2 * (3 * forward + 2 * embed)


def counted(name, embed, decoder_ratio, checkpointing=False):
    config = configure(name, embed=embed)
    with torch.device("meta"):
        recipe = MaskedConfig(decoder_mask_ratio=decoder_ratio).build(config)
    return config, flops.count(recipe, config, checkpointing)


@pytest.mark.parametrize(
    ("name", "embed", "decoder_ratio", "visible", "decoded", "embedded"),
    [
        ("videomae_v2_base_pretrain", "all", 0.5, 160, 784, 1568),
        ("videomae_v2_base_pretrain", "visible", 0.5, 160, 784, 160),
        ("videomae_v2_small_pretrain", "all", 0.0, 160, 1408, 1568),
        ("videomae_v2_giant_pretrain", "visible", 0.5, 208, 1024, 208),
    ],
)
def test_equals_the_formula(name, embed, decoder_ratio, visible, decoded, embedded):
    config, count = counted(name, embed, decoder_ratio)
    assert count == pytest.approx(formula(config, visible, decoded, embedded), rel=1e-3)


def test_checkpointing_counts_the_second_forward():
    config, once = counted("videomae_v2_small_pretrain", "all", 0.5)
    _, twice = counted("videomae_v2_small_pretrain", "all", 0.5, checkpointing=True)
    again = blocks(160, config.width, config.depth, 4) + blocks(944, config.decoder_width, config.decoder_depth, 4)
    # The last product of a block is not computed again: nothing needs its result.
    assert once + 2 * again * 0.7 < twice <= once + 2 * again


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA L4", 121.0), ("NVIDIA L40S", 362.0)],
)
def test_peak_by_name(name, peak):
    assert flops.peak_tflops(name) == peak


def test_unknown_gpu_has_no_peak():
    assert flops.peak_tflops("Some GPU") is None
