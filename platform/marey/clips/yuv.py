"""YUV 4:2:0, as decoders give frames: cut and resized as it is, and turned into RGB on the device.

The processor that decodes is spared the conversion, and a batch has half the bytes of RGB. Most videos are stored so,
with one sample of each colour difference for four pixels.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from marey.clips.augment import Box
from marey.clips.planes import Planes
from marey.clips.video import Pixels

_TOGETHER = 4  # planes that PyTorch's uint8 kernel takes at once, as if they were channels: three times as fast


def cut_planes(frames: Planes, box: Box, crop: int) -> UInt8[Tensor, "t h w 1"]:
    """Cut ``box`` out and resize it (bilinear, antialiased) to planes packed as I420: [T, crop × 3/2, crop, 1].

    Lines of luma, then both colour planes line by line; ``crop`` is even. The box is moved to even pixels, where a
    colour sample begins.
    """
    top, left = (place // 2 * 2 for place in (box.top, box.left))
    height, width = (max(2, side // 2 * 2) for side in (box.height, box.width))
    luma = frames.luma[:, top : top + height, left : left + width]
    chroma = frames.chroma[:, :, top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    flip = slice(None, None, -1 if box.flip else 1)
    count = len(luma)
    packed = np.empty((count, crop * 3 // 2, crop, 1), np.uint8)
    packed[:, :crop, :, 0] = _resized(luma, crop)[..., flip]
    packed[:, crop:] = _resized(chroma.reshape(-1, *chroma.shape[2:]), crop // 2)[..., flip].reshape(count, -1, crop, 1)
    return torch.from_numpy(packed)


def _resized(pictures: Pixels, side: int) -> Pixels:
    """uint8 [N, H, W] to [N, side, side]."""
    count, height, width = pictures.shape
    if (height, width) == (side, side):
        return pictures
    padded = np.zeros((-(-count // _TOGETHER), _TOGETHER, height, width), np.uint8)
    padded.reshape(-1, height, width)[:count] = pictures
    scaled = functional.interpolate(torch.from_numpy(padded), size=(side, side), mode="bilinear", antialias=True)
    return scaled.numpy().reshape(-1, side, side)[:count]


def to_pixels(packed: UInt8[Tensor, "b 1 t h w"], to_rgb: Float[Tensor, "b t 3 4"]) -> UInt8[Tensor, "b 3 t w w"]:
    """Clips packed by `cut_planes` as RGB, on the device that they are on."""
    batch, _, frames, _, crop = packed.shape
    luma, chroma = packed[:, 0, :, :crop].float(), packed[:, 0, :, crop:].float()
    half = chroma.reshape(batch * frames, 2, crop // 2, crop // 2)
    full = functional.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    blue, red = full.view(batch, frames, 2, crop, crop).unbind(2)
    # One row of the matrix after another, each factor [B, T, 1, 1].
    rows = [row.unbind(2) for row in to_rgb[..., None, None].unbind(2)]
    channels = [of_luma * luma + of_blue * blue + of_red * red + added for of_luma, of_blue, of_red, added in rows]
    return torch.stack(channels, 1).round_().clamp_(0, 255).byte()
