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
}


def read(record: str) -> dict[str, Any]:
    """The content of ``<record>.json``."""
    return json.loads((FOLDER / f"{record}.json").read_text())


def runs(record: str) -> bool:
    """Whether the record holds outputs; the others hold names, shapes and counts only."""
    return bool(read(record)["outputs"])
