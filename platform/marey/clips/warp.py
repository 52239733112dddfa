"""What moves a picture as a whole: a run of rotations, shears and translations is one affine map, sampled once.

Sampling once keeps detail that sampling after each operation would blur. What an operation moves out of the frame is
lost to those after it, as if they had been done one after another: a pixel is taken from the picture only if it lies
in the frame after each of them, and is grey otherwise.
"""

from collections.abc import Callable, Sequence
from math import cos, radians, sin

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from marey.clips.pointwise import to_bytes
from marey.clips.transfer import send

GREY = 128
"""What shows where a picture was moved away."""
_FAR = 4.0  # outside the frame, with its neighbours
_NEAR = 1 / 256  # of a grey level: what is so near below a whole number was meant to be it


def _matrix(*numbers: float) -> np.ndarray:
    return np.array((*numbers, 0.0, 0.0, 1.0)).reshape(3, 3)


def _rotation(degrees: float, aspect: float) -> np.ndarray:
    """Counter-clockwise."""
    sine, cosine = sin(radians(degrees)), cos(radians(degrees))
    return _matrix(cosine, -sine * aspect, 0, sine / aspect, cosine, 0)


MOTIONS: dict[str, Callable[[float, float], np.ndarray]] = {
    "rotate": _rotation,
    "shear_x": lambda level, aspect: _matrix(1, level * aspect, 0, 0, 1, 0),
    "shear_y": lambda level, aspect: _matrix(1, 0, 0, level / aspect, 1, 0),
    "translate_x": lambda level, aspect: _matrix(1, 0, 2 * level, 0, 1, 0),
    "translate_y": lambda level, aspect: _matrix(1, 0, 0, 0, 1, 2 * level),
}
"""Level and aspect (height over width) to the matrix that says where a pixel comes from, in coordinates from -1 to 1
around the centre of the picture."""


def warp(clip: UInt8[Tensor, "b c t h w"], runs: Sequence[Sequence[tuple[str, float]]]) -> UInt8[Tensor, "b c t h w"]:
    """Each clip after its run of `MOTIONS` with their levels, in their order: bilinear, `GREY` where nothing is."""
    b, c, t, h, w = clip.shape
    pixels = clip.reshape(b, c * t, h, w) - float(GREY)
    moved = functional.grid_sample(pixels, _places(runs, h, w, clip.device), align_corners=False)
    return to_bytes(moved.add_(GREY + _NEAR)).view(clip.shape)


def _places(runs: Sequence[Sequence[tuple[str, float]]], height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel comes from, float32 [B, H, W, 2] as (x, y) from -1 to 1; far off if from outside."""
    longest = max(map(len, runs))
    chains = np.stack([_chain(run, height / width, longest) for run in runs]).astype(np.float32)
    # Sums of products, not matrix products, which autocast and TF32 would round to a few bits.
    numbers = send(chains, device)[..., None, None].unbind(2)
    edges = (1 - 1 / width, 1 - 1 / height)
    xs = torch.linspace(-edges[0], edges[0], width, device=device)
    ys = torch.linspace(-edges[1], edges[1], height, device=device)[:, None]
    (ax, bx, cx), (ay, by, cy) = (numbers[row].unbind(2) for row in range(2))
    x, y = ax * xs + (bx * ys + cx), ay * xs + (by * ys + cy)
    outside = _FAR * torch.maximum(x.abs(), y.abs()).amax(1).gt(1).float()
    # Within half a pixel of the edge there is no neighbour to interpolate with.
    places = [axis[:, -1].clamp(-edge, edge) for axis, edge in zip((x, y), edges, strict=True)]
    return torch.stack([place + outside for place in places], -1)


def _chain(run: Sequence[tuple[str, float]], aspect: float, longest: int) -> np.ndarray:
    """Where a pixel comes from, before the last operation, the last two ..., all: [longest, 2, 3]."""
    matrix, chain = np.eye(3), []
    for name, level in reversed(run):
        matrix = MOTIONS[name](level, aspect) @ matrix
        chain.append(matrix[:2])
    return np.stack(chain + chain[-1:] * (longest - len(chain)))
