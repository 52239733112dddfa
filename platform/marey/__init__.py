"""Marey: train and tune video action-recognition models on Ray, from a laptop to many GPU nodes.

    import marey
    model = marey.create_model("videomae_v2_base_16x224", num_classes=400)
    logits = model(clip)            # clip float [B, C, T, H, W] -> [B, K]

`create_model`, `list_models` and `load_published` are loaded on first use, so that importing the package is quick.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "load_published"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from marey.backbones import zoo

        return getattr(zoo, name)
    raise AttributeError(f"module 'marey' has no attribute {name!r}")
