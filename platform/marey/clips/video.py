"""Opening a video with PyAV, defensively, and turning its frames into upright RGB arrays.

Everything that reads a source goes through `open_video`: software decoding in one thread, local files only, known
containers and codecs only (so that a playlist that calls itself ``.mp4`` opens nothing), audio never touched.
Sample aspect ratio is ignored: pixels are taken as stored, also where they are not square.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import CodecContext
from av.container import InputContainer
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from marey.errors import ClipError

Pixels = npt.NDArray[np.uint8]
Stage = Literal["list", "probe", "decode", "encode", "flow", "joints", "boxes"]

MAX_PIXELS = 8192 * 4608

_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,apng,webp_anim,webp_pipe,h264,hevc,m4v,obu,av1,"
    "yuv4mpegpipe,ivf,mxf,nut,dv,rm"
)
_CODECS = (
    "h264,hevc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg4,mpeg1video,mpeg2video,mpegvideo,msmpeg4v1,msmpeg4v2,"
    "msmpeg4,wmv1,wmv2,wmv3,vc1,h261,h263,h263p,h263i,flv,theora,mjpeg,prores,dnxhd,dvvideo,ffv1,huffyuv,ffvhuff,"
    "rawvideo,gif,apng,png,webp,webp_anim,svq1,svq3,cinepak,rv30,rv40"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS, "codec_whitelist": _CODECS}
# "careful" flags only: "aggressive" and "compliant" refuse healthy files of odd encoders.
STRICT = "crccheck+bitstream+buffer+explode"

# FFmpeg's own decoder of VP9 never looks whether a frame's bits last until its end; the reference decoder does.
_WITNESSES = {"vp9": "libvpx-vp9", "vp8": "libvpx"}

_thread = threading.local()


class Refused(ClipError):
    """A video that is not taken into a table: at what stage and why."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage: Stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type["Refused"], tuple[Stage, str]]:
        return Refused, (self.stage, self.reason)


@contextmanager
def open_video(
    path: str | Path, *, strict: bool = False, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its best video stream, ready to decode in this thread.

    ``strict`` makes the decoder raise where it would otherwise conceal damage. Raises `Refused` (stage "probe") for
    what is no video: a missing file, a directory, a playlist, sound only, an unknown format or codec, too many pixels.
    """
    check_file(Path(path))
    try:
        container = av.open(f"file:{path}", options=_OPTIONS, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise Refused("probe", f"not a video that can be opened ({explain(error)})") from None
    with container:
        stream = _best_stream(container)
        check_pixels(stream.width, stream.height, max_pixels)
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"max_pixels": str(max_pixels)} | ({"err_detect": STRICT} if strict else {})
        yield container, stream


def witness_of(stream: VideoStream) -> VideoCodecContext | None:
    """A second decoder that raises on damage which the one in use conceals; None where there is no better one."""
    context = stream.codec_context
    name = _WITNESSES.get(context.codec.canonical_name)
    deep = any(part.bits > 8 for part in context.format.components) if context.format else True
    if name is None or name not in av.codecs_available or deep:  # the reference decoder may be built for 8 bits alone
        return None
    witness = CodecContext.create(name, "r")
    assert isinstance(witness, VideoCodecContext)
    witness.thread_count = 1
    witness.extradata = context.extradata
    return witness


def check_file(path: Path) -> None:
    """Raise `Refused` (stage "probe") for what cannot be a video or a picture, by its first bytes."""
    if path.is_dir():
        raise Refused("probe", "is a directory, not a file")
    if not path.is_file():
        raise Refused("probe", "no such file" if not path.exists() else "is not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise Refused("probe", f"cannot be read ({error.strerror})") from None
    if not head:
        raise Refused("probe", "the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise Refused("probe", "is a Git LFS pointer, not the video itself; run `git lfs pull`")
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise Refused("probe", "is a web page (HTML), not a video; the download failed")


def _best_stream(container: InputContainer) -> VideoStream:
    videos = [stream for stream in container.streams.video if not is_cover(stream)]
    if not videos:
        kinds = ", ".join(sorted({_kind(stream) for stream in container.streams}))
        raise Refused("probe", f"holds no video stream ({'only ' + kinds if kinds else 'no streams at all'})")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and not is_cover(best) else videos[0]
    if stream.codec_context is None:
        raise Refused("probe", "the codec of its video stream is not supported")
    return stream


def _kind(stream: Stream) -> str:
    return "cover picture" if isinstance(stream, VideoStream) else str(stream.type)


def is_cover(stream: VideoStream) -> bool:
    """Whether a stream is a still picture attached to music rather than a film."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `Refused` (stage "probe") where a frame has more than ``max_pixels`` pixels."""
    if width * height > max_pixels:
        raise Refused(
            "probe", f"frames of {width} x {height} exceed the limit of {max_pixels} pixels (clips.limits.max_pixels)"
        )


def explain(error: Exception) -> str:
    """FFmpeg's reason in a few words, without the path."""
    return getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__


def rotation_of(frame: VideoFrame) -> int:
    """Degrees clockwise by which ``frame`` must be turned to be upright: 0, 90, 180 or 270."""
    # FFmpeg states the angle of its display matrix counter-clockwise.
    return round(-frame.rotation / 90) * 90 % 360


def reformatter() -> VideoReformatter:
    """This thread's converter: building one for every frame costs a third of the time of decoding."""
    if not hasattr(_thread, "reformatter"):
        _thread.reformatter = VideoReformatter()
    shared: VideoReformatter = _thread.reformatter
    return shared


def plane(frame: VideoFrame, index: int, height: int, width: int) -> Pixels:
    """A view [height, width] of one plane of an 8-bit frame, without the padding of its lines."""
    source = frame.planes[index]
    return np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)[:height, :width]


def to_rgb(frame: VideoFrame, rotation: int = 0) -> Pixels:
    """``frame`` as uint8 RGB [H, W, 3], turned clockwise by ``rotation`` degrees; a view where nothing is turned."""
    rgb = reformatter().reformat(frame, format="rgb24", threads=1)
    pixels = plane(rgb, 0, rgb.height, rgb.width * 3).reshape(rgb.height, rgb.width, 3)
    return np.rot90(pixels, -rotation // 90) if rotation else pixels
