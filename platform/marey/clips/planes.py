"""Planes of YUV 4:2:0 as decoders give them, and the matrices that make RGB of them.

Without PyTorch: the processes that prepare videos import this, thousands of times for a large table.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from marey.clips.video import Pixels, plane, reformatter, to_rgb

# Shares of red and blue in luma by FFmpeg's number of a matrix (ITU-R BT.709, FCC, SMPTE 240M, BT.2020); a frame of
# any other number is read as BT.601, as FFmpeg's own conversion does.
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_LAYOUTS = {"yuv420p", "yuvj420p"}


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
