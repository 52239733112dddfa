"""Which call of `marey.create_model` gives the model of each golden record: ``record: (name, overrides)``."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "videomae_v2_small_16x224": ("videomae_v2_small_16x224", {}),
    "videomae_v2_base_16x224": ("videomae_v2_base_16x224", {}),
    "videomae_base_16x224": ("videomae_v2_base_16x224", {}),
    "videomae_v2_large_16x224": ("videomae_v2_large_16x224", {}),
    "videomae_v2_huge_16x224": ("videomae_v2_huge_16x224", {}),
    "videomae_v2_huge_reduced": ("videomae_v2_huge_16x224", {"depth": 2}),
    "videomae_v2_giant_16x224": ("videomae_v2_giant_16x224", {}),
    "videomae_v2_giant_16x224_k710": ("videomae_v2_giant_16x224", {"num_classes": 710}),
    "videomae_v2_giant_reduced": ("videomae_v2_giant_16x224", {"depth": 2}),
    "videomae_v2_small_pretrain": ("videomae_v2_small_pretrain", {}),
    "videomae_v2_base_pretrain": ("videomae_v2_base_pretrain", {}),
    "videomae_base_pretrain": ("videomae_v2_base_pretrain", {}),
    "videomae_v2_large_pretrain": ("videomae_v2_large_pretrain", {}),
    "videomae_v2_huge_pretrain": ("videomae_v2_huge_pretrain", {}),
    "videomae_huge_pretrain": ("videomae_v2_huge_pretrain", {"decoder_width": 640, "decoder_depth": 12}),
    "videomae_v2_giant_pretrain": ("videomae_v2_giant_pretrain", {}),
    "videomae_v2_giant_pretrain_reduced": ("videomae_v2_giant_pretrain", {"depth": 2, "decoder_depth": 2}),
    "hiera_tiny_224": ("hiera_tiny_224", {}),
    "hiera_base_224": ("hiera_base_224", {}),
    "hiera_base_plus_224": ("hiera_base_plus_224", {}),
    "hiera_large_224": ("hiera_large_224", {}),
    "hiera_huge_224": ("hiera_huge_224", {}),
    "hiera_base_16x224": ("hiera_base_16x224", {}),
    "hiera_large_16x224": ("hiera_large_16x224", {}),
    "hiera_large_16x224_reduced": ("hiera_large_16x224", {"depths": (1, 2, 3, 1)}),
    "hiera_huge_16x224": ("hiera_huge_16x224", {}),
    "mae_hiera_base_224": ("hiera_base_224_pretrain", {}),
    "mae_hiera_base_16x224": ("hiera_base_16x224_pretrain", {}),
    "mae_hiera_base_plus_16x224": ("hiera_base_plus_16x224_pretrain", {}),
    "mae_hiera_large_16x224": ("hiera_large_16x224_pretrain", {}),
    "mae_hiera_huge_16x224": ("hiera_huge_16x224_pretrain", {}),
    "torchvision_r3d_18": ("r3d_18", {}),
    "torchvision_mc3_18": ("mc3_18", {}),
}


def read(record: str) -> dict[str, Any]:
    """The content of ``<record>.json``."""
    return json.loads((FOLDER / f"{record}.json").read_text())


def runs(record: str) -> bool:
    """Whether the record holds outputs; the others hold names, shapes and counts only."""
    return bool(read(record)["outputs"])
