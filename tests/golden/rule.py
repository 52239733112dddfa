"""The rule that golden records are made by: every weight and input follows from its name and shape."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def draw(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32, a function of ``name`` and ``shape`` alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)


def fill(name: str, shape: Sequence[int]) -> Tensor:
    """The published tensor ``name``: norms' scales near 1, biases small, tokens at half, matrices by their fan-in."""
    n = draw(name, shape)
    if name.endswith("running_var"):
        n = 0.5 + np.abs(n)
    elif len(shape) == 1 and name.endswith("weight"):
        n = 1 + 0.1 * n
    elif len(shape) <= 1:
        n = 0.1 * n
    elif len(shape) == 3 and shape[0] == 1:
        n = 0.5 * n
    else:
        n = n / math.sqrt(max(1, math.prod(shape[1:])))
    return torch.from_numpy(np.asarray(n, np.float32))


def draw_input(name: str, shape: Sequence[int]) -> Tensor:
    """The model's input ``name`` ("clip")."""
    return torch.from_numpy(draw(f"input:{name}", shape))


def summary(output: Tensor) -> dict[str, Any]:
    """What a record keeps of a tensor: shape, first 32 values, mean, deviation, norm."""
    flat = output.detach().double().flatten()
    return {
        "shape": list(output.shape),
        "first": flat[:32].tolist(),
        "mean": flat.mean().item(),
        "std": flat.std().item() if flat.numel() > 1 else 0.0,
        "norm": flat.norm().item(),
    }


def difference(got: Tensor, record: dict[str, Any], largest: float | None = None) -> float:
    """Largest difference from a record's summary, relative to the output's largest value; inf for another shape.

    ``largest`` where the record names it, else the largest of its first values (its deviation if all are zero).
    Norms differ relative to themselves.
    """
    found = summary(got)
    if found["shape"] != record["shape"]:
        return math.inf
    largest = largest or max(map(abs, record["first"])) or record["std"]
    values = zip(found["first"][: len(record["first"])], record["first"], strict=True)
    differences = [abs(a - b) / largest for a, b in values]
    differences += [abs(found[key] - record[key]) / largest for key in ("mean", "std")]
    return float(np.max([*differences, abs(found["norm"] - record["norm"]) / record["norm"]]))  # a NaN stays


def to_mask(digits: str) -> Tensor:
    """bool [1, N] of a record's string of 0 and 1."""
    return torch.tensor([[digit == "1" for digit in digits]])
