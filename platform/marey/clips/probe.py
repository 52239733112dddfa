"""One strict pass over a whole video: is it sound, and at what time is each of its frames shown?

FFmpeg conceals most damage. `scan` lets the decoder raise on it, looks for frames marked corrupt, compares what came
out with what the container promises, and looks at what FFmpeg does not: checksums and lengths of the container, bytes
that a codec rules out. A video that breaks half-way is refused whole; the reason says how many frames could be read.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from marey.clips.container import check_container
from marey.clips.video import MAX_PIXELS, Refused, check_pixels, explain, open_video, rotation_of, witness_of

MIN_FRAMES = 2
# Less than this share of the promised duration is a truncated file; headers are often a frame or two out.
_COMPLETE = 0.9
# Codecs may hide reference frames in packets of their own, and interlaced fields take a packet each.
_DECODED = 0.45
# Within a slice of H.264 or HEVC these would be the start of a next unit.
_START_CODE = re.compile(rb"\x00\x00(?:[\x00-\x02]|\x03[^\x00-\x03])")
# These containers state no duration; FFmpeg guesses one from the bit rate.
_NO_PROMISE = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "obu"}


@dataclass(frozen=True)
class Scan:
    """What a full decode of a video found.

    ``times``: seconds at which each frame is shown, in display order, strictly increasing, on the source's own clock;
    ``counted``: whether the source's timestamps lie or are missing, so that ``times`` are frame number / rate;
    ``keyframes``: indices of frames marked as such; ``width``, ``height``: pixels of an upright frame;
    ``rotation``: degrees clockwise from stored to upright; ``fps``: mean frames a second;
    ``checksums``: crc32 of each frame's first plane (empty unless asked for).
    """

    times: list[float]
    counted: bool
    keyframes: list[int]
    fps: float
    width: int
    height: int
    rotation: int
    checksums: list[int]

    @property
    def end(self) -> float:
        """Seconds at which the last frame ends, taking it to last as long as the average one."""
        return self.times[-1] + 1 / self.fps


@dataclass
class _Tally:
    """What has been seen so far during a scan."""

    packets: int = 0
    times: list[float | None] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    shape: tuple[int, int, int] | None = None  # width, height, rotation as stored


def frame_time(frame: VideoFrame) -> float | None:
    """Seconds on the source's own clock at which ``frame`` is shown, None where the source does not say."""
    return None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)


def frame_rate(stream: VideoStream) -> float:
    """Frames a second by which frames are counted where timestamps cannot be trusted."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate and 0 < rate <= 300:
            return float(rate)
    return 25.0


def scan(path: str | Path, *, max_pixels: int = MAX_PIXELS, checksums: bool = False) -> Scan:
    """Decode all of ``path`` once, strictly. Raises `Refused` (stage "probe" or "decode") with the reason."""
    with open_video(path, strict=True, max_pixels=max_pixels) as (container, stream):
        tally = _Tally()
        try:
            for frame in _frames(container, stream, tally):
                _note(frame, tally, max_pixels, checksums)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise Refused("decode", f"damaged: {len(tally.times)} frames readable, then {explain(error)}") from None
        return _conclude(container, stream, tally)


def _frames(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[VideoFrame]:
    witness, forbidden = witness_of(stream), _forbidden(stream)
    for packet in container.demux(stream):
        tally.packets += packet.size > 0 and not packet.is_discard
        if forbidden is not None and forbidden(bytes(packet)):
            raise Refused("decode", f"damaged: {len(tally.times)} frames readable, then bytes that no encoder writes")
        yield from packet.decode()
        if witness is not None and packet.size:
            witness.decode(packet)


def _forbidden(stream: VideoStream) -> Callable[[bytes], bool] | None:
    """Whether a packet of H.264 or HEVC holds, within a slice, bytes that would read as the start of a next unit.

    Encoders put a 3 between; runs of zeros and exchanged blocks bring them in, and decoders do not look.
    """
    codec, extra = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    at = {"h264": 4, "hevc": 21}.get(codec)
    if at is None:
        return None
    length = (extra[at] & 3) + 1 if len(extra) > at and extra[0] == 1 else 0

    def found(packet: bytes) -> bool:
        units = _prefixed(packet, length) if length else packet.split(b"\0\0\1")[1:]
        return any(_is_slice(unit, codec) and _START_CODE.search(unit.rstrip(b"\0")) for unit in units)

    return found


def _prefixed(packet: bytes, length: int) -> Iterator[bytes]:
    position = 0
    while position + length < len(packet):
        start = position + length
        position = start + int.from_bytes(packet[position:start])
        yield packet[start:position]


def _is_slice(unit: bytes, codec: str) -> bool:
    if not unit:
        return False
    return unit[0] & 31 in (1, 5) if codec == "h264" else unit[0] >> 1 & 63 < 32


def _note(frame: VideoFrame, tally: _Tally, max_pixels: int, checksums: bool) -> None:
    number = len(tally.times)
    if frame.is_corrupt:
        raise Refused("decode", f"damaged: {number} frames readable, then a corrupt one")
    check_pixels(frame.width, frame.height, max_pixels)
    shape = (frame.width, frame.height, rotation_of(frame))
    if tally.shape not in (None, shape):
        raise Refused("decode", f"frame size changes from {_size(tally.shape)} to {_size(shape)} after {number} frames")
    tally.shape = shape
    tally.times.append(frame_time(frame))
    if frame.key_frame:
        tally.keyframes.append(number)
    if checksums:
        tally.checksums.append(checksum(frame))


def _size(shape: tuple[int, int, int] | None) -> str:
    return "{} x {} (turned by {})".format(*shape) if shape else "none"


def checksum(frame: VideoFrame) -> int:
    """crc32 of the first plane of ``frame``, padding of its lines left out."""
    first = frame.planes[0]
    line = first.line_size
    used = min(line, first.width * (first.buffer_size // max(1, line * first.height)) or line)
    data = memoryview(first)
    value = 0
    for row in range(first.height):
        value = zlib.crc32(data[row * line : row * line + used], value)
    return value


def _conclude(container: InputContainer, stream: VideoStream, tally: _Tally) -> Scan:
    count = len(tally.times)
    if tally.shape is None:
        raise Refused("decode", "no frame can be read from its video stream")
    if count < MIN_FRAMES:
        raise Refused("probe", f"holds {count} frame; a clip needs at least {MIN_FRAMES}")
    if count < _DECODED * tally.packets:
        raise Refused("decode", f"damaged: only {count} of {tally.packets} coded frames can be decoded")
    times, counted = _clock(tally.times, frame_rate(stream))
    fps = frame_rate(stream) if counted else (count - 1) / (times[-1] - times[0])
    latest = max(time for time in [times[-1], *tally.times] if time is not None)
    _check_promise(container, stream, count, latest + 1 / fps, latest + 1 / fps - times[0])
    check_container(container, stream)
    width, height, rotation = tally.shape
    if rotation in (90, 270):
        width, height = height, width
    return Scan(times, counted, tally.keyframes, fps, width, height, rotation, tally.checksums)


def _clock(times: list[float | None], rate: float) -> tuple[list[float], bool]:
    """Real times where every frame has one and they increase, else frame number / rate; and whether counted."""
    real = [time for time in times if time is not None]
    if len(real) == len(times) and all(a < b for a, b in pairwise(real)):
        return real, False
    return [number / rate for number in range(len(times))], True


def _check_promise(container: InputContainer, stream: VideoStream, count: int, end: float, length: float) -> None:
    """``end``: seconds at which the last frame ends; ``length``: from the first frame on. Headers mean either."""
    promised = _promised_seconds(container, stream)
    if promised is not None and max(end, length) < _COMPLETE * promised:
        raise Refused(
            "decode", f"truncated: {count} frames readable ({length:.2f} s) of the {promised:.2f} s it promises"
        )


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if container.format.name in _NO_PROMISE:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        try:
            return int(tag[0]) * 3600 + int(tag[1]) * 60 + float(tag[2])
        except ValueError:
            return None
    only_video = all(other.type == "video" for other in container.streams)
    return container.duration / 1e6 if only_video and container.duration else None
