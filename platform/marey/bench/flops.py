"""Floating-point operations of a step, counted without computing it, and what devices can do at most."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from marey.backbones.base import BackboneConfig
from marey.clips.batch import Batch
from marey.nn.block import set_checkpointing
from marey.recipes.base import Recipe

# Dense bf16 (V100, T4: fp16) matrix products in TFLOP/s, from the vendors' data sheets; the first name found counts.
PEAK_TFLOPS: dict[str, float] = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


def peak_tflops(device_name: str) -> float | None:
    """Peak dense bf16 TFLOP/s of a GPU by its name; None where the table does not know it."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device_name), None)


def count(recipe: Recipe, config: BackboneConfig, checkpointing: bool = False) -> int:
    """FLOPs of forward and backward for one clip, a multiply-add as two; ``recipe`` lives on the meta device.

    Counted operator by operator under the plain ("math") attention, since the counter knows no operations of the
    CPU's fused kernel; matrix products are counted, elementwise work is not. With ``checkpointing``, the second
    forward of the blocks is included. `flop_parts` explains the number.
    """
    shape = (1, config.in_channels, config.frames, config.crop, config.crop)
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    batch = Batch(torch.empty(shape, dtype=torch.uint8, device="meta"), torch.arange(1), ("meta",), label)
    set_checkpointing(recipe.train(), checkpointing)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        recipe(batch).loss.backward()
    return int(counter.get_total_flops())
