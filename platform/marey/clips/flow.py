"""Optical flow of a row: how it is quantised, stored and read back. Nothing here needs OpenCV.

The column ``flow`` of a row holds one flow for each stored frame, of the frame's size: how far, in pixels, each pixel
moves until the next stored frame of the video. The last frame of a segment has the flow to the first of the next
segment; the last frame of a video, which nothing follows, repeats the flow before it.

Quantised as the two-stream networks read it (Simonyan and Zisserman 2014; Wang et al., TSN, 2016; the numbers are those
of the repository dense_flow): 255 above ``bound``, 0 below -``bound``, else 255 (v + bound) / (2 bound) rounded half to
even, so that no motion is 128. Little-endian:

    4 bytes     "FLOW"
    u16, u16    version (1), zero
    u32 x 3     number of flows T, width, height
    f32         bound, in pixels
    u32 x 2 T   bytes of each picture that follows
    pictures    x and y of the first flow, x and y of the second ...: grey JPEGs of quality 95, which dense_flow writes
"""

import io
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from marey.clips.row import ClipRow
from marey.clips.video import Pixels
from marey.errors import ClipError

JPEG_QUALITY = 95
_HEAD = struct.Struct("<4sHHIIIf")
_MAGIC, _VERSION = b"FLOW", 1

Picture = tuple[bytes, bytes]
"""One flow as it is stored: the JPEGs of x and of y."""


def quantised(flow: npt.NDArray[np.floating], bound: float) -> Pixels:
    """Pixels of motion, of any shape, as uint8; see the module's text."""
    scaled = np.rint(255 * (flow.astype(np.float64) + bound) / (2 * bound))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def to_pixels(flow: Pixels, bound: float) -> npt.NDArray[np.float32]:
    """Quantised flow as pixels of motion, float32: within bound / 255 of what was quantised, JPEG aside.

    128, no motion, comes back as bound / 255; networks that subtract 128 from the uint8 values do not see that.
    """
    return flow.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def mirrored(flow: Pixels) -> Pixels:
    """The flow of a clip that is flipped horizontally, uint8 [..., H, W, 2]: mirrored, and x turned into 255 - x."""
    flipped = flow[..., ::-1, :].copy()
    flipped[..., 0] = 255 - flipped[..., 0]
    return flipped


def encode_flow(flow: Pixels) -> Picture:
    """One quantised flow, uint8 [H, W, 2], as it is stored."""
    return _jpeg(flow[..., 0]), _jpeg(flow[..., 1])


def _jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def pack_flow(pictures: Sequence[Picture], width: int, height: int, bound: float) -> bytes:
    """The column ``flow`` of a row from its flows, in order."""
    parts = [part for picture in pictures for part in picture]
    head = _HEAD.pack(_MAGIC, _VERSION, 0, len(pictures), width, height, bound)
    return b"".join([head, np.array([len(part) for part in parts], "<u4").tobytes(), *parts])


def flow_bound(row: ClipRow) -> float:
    """The motion in pixels that 255 stands for in this row. Raises `ClipError` where it has no sound flow."""
    bound: float = _head(row)[3]
    return bound


def read_flow(row: ClipRow, indices: Sequence[int]) -> Pixels:
    """The flows of frames ``indices`` (any order, repeats allowed) as uint8 [T, H, W, 2], x then y.

    Raises `ClipError` naming the clip where it has no flow, where an index does not exist, or where it is damaged.
    """
    count, width, height, _ = _head(row)
    assert row.flow is not None
    if not indices or min(indices) < 0 or max(indices) >= count:
        raise ClipError(f"{row.clip_id}: flow of frames {list(indices)} asked for, it has frames 0 to {count - 1}")
    lengths = np.frombuffer(row.flow, "<u4", 2 * count, _HEAD.size).astype(np.int64)
    ends = _HEAD.size + lengths.nbytes // 2 + np.cumsum(lengths)
    if ends[-1] != len(row.flow):
        raise _damaged(row, f"{len(row.flow)} bytes instead of {ends[-1]}")
    out = np.empty((len(indices), height, width, 2), np.uint8)
    for slot, index in enumerate(indices):
        for axis in (0, 1):
            number = 2 * index + axis
            out[slot, ..., axis] = _decode(row, row.flow[ends[number] - lengths[number] : ends[number]], index)
    return out


def _head(row: ClipRow) -> tuple[int, int, int, float]:
    """(number of flows, width, height, bound) by the header, which must fit the row."""
    if row.flow is None:
        raise ClipError(
            f"{row.clip_id}: no flow; prepare the table with clips.flow=dis or tvl1, and read its rows with "
            'streams=("flow",)'
        )
    if len(row.flow) < _HEAD.size:
        raise _damaged(row, f"{len(row.flow)} bytes")
    magic, version, _, count, width, height, bound = _HEAD.unpack_from(row.flow)
    if (magic, version) != (_MAGIC, _VERSION):
        raise _damaged(row, f"begins with {magic!r}, version {version}; expected {_MAGIC!r}, version {_VERSION}")
    if (count, width, height) != (row.num_frames, row.width, row.height):
        found, expected = (count, width, height), (row.num_frames, row.width, row.height)
        raise _damaged(row, f"frames, width, height {found}; the row has {expected}")
    if len(row.flow) < _HEAD.size + 8 * count:
        raise _damaged(row, f"{len(row.flow)} bytes for {count} frames")
    return count, width, height, bound


def _decode(row: ClipRow, data: bytes, index: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(row, f"frame {index}: {error}") from None
    if pixels.shape != (row.height, row.width):
        raise _damaged(row, f"frame {index}: a picture {pixels.shape}, expected {(row.height, row.width)}")
    return pixels


def _damaged(row: ClipRow, found: str) -> ClipError:
    return ClipError(f"{row.clip_id}: its flow is damaged ({found}); prepare the table again")
