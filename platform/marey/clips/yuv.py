"""YUV 4:2:0, as decoders give frames: cut and resized as it is, and turned into RGB on the device.

The processor that decodes is spared the conversion, and a batch has half the bytes of RGB. Most videos are stored so,
with one sample of each colour difference for four pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from marey.clips.augment import Box
from marey.clips.video import Pixels, plane, reformatter, to_rgb

# Shares of red and blue in luma by FFmpeg's number of a matrix (ITU-R BT.709, FCC, SMPTE 240M, BT.2020); a frame of
# any other number is read as BT.601, as FFmpeg's own conversion does.
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_LAYOUTS = {"yuv420p", "yuvj420p"}
_TOGETHER = 4  # planes that PyTorch's uint8 kernel takes at once, as if they were channels: three times as fast


@dataclass(frozen=True)
class Planes:
    """Frames of one size; the colour planes have half as many lines and columns, rounded up."""

    luma: Pixels
    """uint8 [T, H, W]."""
    chroma: Pixels
    """uint8 [T, 2, H/2, W/2]: blue's and red's difference."""
    to_rgb: npt.NDArray[np.float32]
    """[T, 3, 4]: the factors of (luma, blue, red) for each of R, G and B, and what is added."""

    @classmethod
    def empty(cls, count: int, height: int, width: int) -> "Planes":
        """Room for ``count`` frames."""
        half = (count, 2, (height + 1) // 2, (width + 1) // 2)
        return cls(
            np.empty((count, height, width), np.uint8), np.empty(half, np.uint8), np.empty((count, 3, 4), np.float32)
        )

    def put(self, slot: int, frame: VideoFrame, rotation: int = 0) -> tuple[int, int]:
        """Fill a slot with a frame turned clockwise by ``rotation``; (height, width) of it, kept where it fits."""
        frame = frame if frame.format.name in _LAYOUTS else _converted(frame)
        turns = -rotation // 90
        luma, *chroma = (np.rot90(one, turns) if turns else one for one in planes(frame))
        if luma.shape == self.luma.shape[1:]:
            self.luma[slot] = luma
            self.chroma[slot] = chroma
            full = frame.format.name == "yuvj420p" or frame.color_range == ColorRange.JPEG
            self.to_rgb[slot] = matrix(frame.colorspace, full)
        return luma.shape[0], luma.shape[1]

    def __getitem__(self, slots: list[int]) -> "Planes":
        """The frames of ``slots``, in their order."""
        return Planes(self.luma[slots], self.chroma[slots], self.to_rgb[slots])


def planes(frame: VideoFrame) -> list[Pixels]:
    """Views of a 4:2:0 frame's luma [H, W] and two colour planes [H/2, W/2]."""
    height, width = frame.height, frame.width
    sizes = [(height, width), *[((height + 1) // 2, (width + 1) // 2)] * 2]
    return [plane(frame, number, *size) for number, size in enumerate(sizes)]


def _converted(frame: VideoFrame) -> VideoFrame:
    """A frame of any other layout, by way of the RGB that everything else sees of it."""
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(to_rgb(frame)), format="rgb24")
    settings = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}
    return reformatter().reformat(rgb, format="yuv420p", threads=1, **settings)


@lru_cache
def matrix(colorspace: int, full: bool) -> npt.NDArray[np.float32]:
    """[3, 4] of `Planes.to_rgb` for FFmpeg's number of a matrix; ``full``: luma from 0 to 255, not from 16 to 235."""
    red, blue = _LUMA.get(colorspace, _BT601)
    green = 1 - red - blue
    luma, chroma = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    from_blue, from_red = 2 * (1 - blue), 2 * (1 - red)
    factors = np.array(
        [[1, 0, from_red], [1, -from_blue * blue / green, -from_red * red / green], [1, from_blue, 0]]
    ) * (luma, chroma, chroma)
    offset = -factors @ (0 if full else 16, 128, 128)
    return np.concatenate([factors, offset[:, None]], 1).astype(np.float32)


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
