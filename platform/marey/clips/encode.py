"""Writing a segment for training to read quickly: as H.264 packets without a container, as JPEGs, or as pixels.

H.264 in closed groups of pictures, no B-frames, no CABAC, no deblocking (``tune fastdecode``), headers repeated before
every keyframe: one packet is one frame, and any group decodes alone. Measured against an MP4 of ordinary settings this
doubles the clips a core can read a second, at a tenth more bytes. Colours keep the source's matrix, in limited range.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from marey.clips.planes import planes
from marey.clips.storage import ClipStorage
from marey.clips.video import Pixels, reformatter

# AVCOL_SPC_* of a frame -> the same matrix for swscale; anything else is read as BT.601, as swscale does.
_MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}
_TAGS = {Colorspace.ITU709: 1, Colorspace.FCC: 4, Colorspace.SMPTE240M: 7, Colorspace.BT2020: 9, Colorspace.ITU601: 6}


@dataclass(frozen=True)
class Encoded:
    """A segment: ``payload`` is the packets one after another, ``packet_lengths`` bytes of each, one a frame."""

    payload: bytes
    packet_lengths: list[int]
    keyframes: list[int]


def fitted(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the short side scaled down to ``short_side`` (never up), both even and at least 2."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def upright(frame: VideoFrame, width: int, height: int, rotation: int) -> Pixels:
    """A frame of the source as it is stored: uint8 RGB [height, width, 3], scaled, turned clockwise by ``rotation``."""
    size = (width, height) if rotation in (0, 180) else (height, width)
    rgb = reformatter().reformat(
        frame,
        *size,
        "rgb24",
        src_colorspace=None if frame.format.is_rgb else _MATRICES.get(frame.colorspace, Colorspace.ITU601),
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), -rotation // 90))


class SegmentEncoder(Protocol):
    """Encodes the frames of one segment, given one after another."""

    def add(self, frame: VideoFrame) -> None:
        """Append a decoded frame of the source, of any size and pixel format."""

    def finish(self) -> Encoded:
        """The segment; it must have at least one frame."""


def encoder_of(storage: ClipStorage, width: int, height: int, rotation: int, fps: float) -> SegmentEncoder:
    """The encoder of a storage other than "source".

    ``width``, ``height``: upright size to store, even; ``rotation``: degrees clockwise from source to upright;
    ``fps`` only tunes rate control.
    """
    if storage.storage == "h264":
        return H264Encoder(storage, width, height, rotation, fps)
    return FrameEncoder(storage, width, height, rotation)


class FrameEncoder:
    """Each frame by itself: a JPEG, or its pixels."""

    def __init__(self, storage: ClipStorage, width: int, height: int, rotation: int) -> None:
        self._storage = storage
        self._upright = (width, height)
        self._rotation = rotation
        self._frames: list[bytes] = []

    def add(self, frame: VideoFrame) -> None:
        """See `SegmentEncoder.add`."""
        pixels = upright(frame, *self._upright, self._rotation)
        self._frames.append(pixels.tobytes() if self._storage.storage == "raw" else self._jpeg(pixels))

    def finish(self) -> Encoded:
        """See `SegmentEncoder.finish`."""
        lengths = [len(frame) for frame in self._frames]
        return Encoded(b"".join(self._frames), lengths, list(range(len(lengths))))

    def _jpeg(self, pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self._storage.jpeg_quality, subsampling="4:2:0")
        return file.getvalue()


class H264Encoder:
    """H.264 packets without a container; see the module's text."""

    def __init__(self, storage: ClipStorage, width: int, height: int, rotation: int, fps: float) -> None:
        self._upright = (width, height)
        self._rotation = rotation
        self._fps = Fraction(fps).limit_denominator(1001)
        self._options = {
            "preset": storage.preset,
            "tune": "fastdecode",
            "crf": str(storage.crf),
            "g": str(storage.gop),
            "keyint_min": str(storage.gop),
            "sc_threshold": "0",
            "bf": "0",
            "a53cc": "0",
            # Macroblock trees gain next to nothing in groups this short, and make the bytes of small pictures vary
            # from run to run: x264's assembly for them reads memory that it has not set.
            "x264-params": "open-gop=0:repeat-headers=1:mbtree=0",
        }
        self._context: VideoCodecContext | None = None
        self._packets: list[Packet] = []
        self._count = 0

    def add(self, frame: VideoFrame) -> None:
        """See `SegmentEncoder.add`."""
        matrix = _MATRICES.get(frame.colorspace, Colorspace.ITU601)
        picture = self._picture(frame, matrix)
        if self._context is None:
            self._context = self._open(matrix)
        picture.pts = self._count
        picture.time_base = 1 / self._fps
        # A source's I-frame would otherwise force a keyframe here.
        picture.pict_type = PictureType.NONE
        self._count += 1
        self._packets += self._context.encode(picture)

    def finish(self) -> Encoded:
        """See `SegmentEncoder.finish`."""
        assert self._context is not None, "a segment has at least one frame"
        packets = [*self._packets, *self._context.encode(None)]
        assert len(packets) == self._count, "without B-frames one packet is one frame"
        keyframes = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        return Encoded(b"".join(bytes(packet) for packet in packets), [packet.size for packet in packets], keyframes)

    def _open(self, matrix: Colorspace) -> VideoCodecContext:
        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height = self._upright
        context.pix_fmt = "yuv420p"
        context.framerate = self._fps
        context.time_base = 1 / self._fps
        context.thread_count = 1  # the same bytes on every machine, and one core a video
        context.colorspace = _TAGS[matrix]
        context.color_range = ColorRange.MPEG
        context.options = self._options
        return context

    def _picture(self, frame: VideoFrame, matrix: Colorspace) -> VideoFrame:
        width, height = self._upright if self._rotation in (0, 180) else self._upright[::-1]
        is_rgb = frame.format.is_rgb
        picture = reformatter().reformat(
            frame,
            width,
            height,
            "yuv420p",
            src_colorspace=None if is_rgb else matrix,
            dst_colorspace=matrix,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        return _turned(picture, self._rotation) if self._rotation else picture


def _turned(frame: VideoFrame, rotation: int) -> VideoFrame:
    """A yuv420p frame of even size turned clockwise by 90, 180 or 270 degrees."""
    turned = [np.rot90(one, -rotation // 90) for one in planes(frame)]
    packed = np.concatenate([one.reshape(-1) for one in turned]).reshape(-1, turned[0].shape[1])
    return VideoFrame.from_ndarray(packed, format="yuv420p")
