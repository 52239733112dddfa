"""Trained weights as one file to pass on: safetensors, with what is needed to use them in its header."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

KEY = "marey"  # of the header's entry


def write_exported(
    path: Path, weights: Mapping[str, Tensor], settings: Mapping[str, Any], classes: tuple[str, ...], step: int | None
) -> None:
    """Write a model's weights to ``path``, whole or not at all; of ``settings`` the backbone and its clips go along.

    Raises `OSError`.
    """
    told = {name: settings[name] for name in ("backbone", "clips") if name in settings}
    header = json.dumps({"settings": told, "classes": classes, "step": step})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: one.contiguous() for name, one in weights.items()}, temporary, {"format": "pt", KEY: header})
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: Path) -> dict[str, Any]:
    """What `write_exported` told of a safetensors file; empty for one of another origin."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(KEY)
    return dict(json.loads(text)) if text else {}
